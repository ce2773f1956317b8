"""Agents"""
