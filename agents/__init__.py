"""Modules to start from and to run: ``faust -A agents.events worker -l info``."""
