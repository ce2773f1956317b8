"""Shuffle"""
