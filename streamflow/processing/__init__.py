"""Processing"""
