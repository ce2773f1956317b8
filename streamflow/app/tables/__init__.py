"""Tables"""
