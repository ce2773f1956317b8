"""Faust's own model, under our roof."""

from faust import Record

__all__ = ["Record"]
