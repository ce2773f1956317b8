"""Http"""
