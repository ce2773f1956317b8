"""Embedded"""
