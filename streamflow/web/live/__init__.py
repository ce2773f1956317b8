"""Live"""
