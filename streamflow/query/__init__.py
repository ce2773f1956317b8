"""Query"""
