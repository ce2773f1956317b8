"""Agents: declared with Faust's decorator, run by the engine, asked, and tried in tests."""
