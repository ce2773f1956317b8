"""Topics"""
