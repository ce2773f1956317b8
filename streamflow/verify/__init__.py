"""Verify"""
