"""State"""
