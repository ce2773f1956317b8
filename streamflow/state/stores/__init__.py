"""Drivers that keep the checkpointed rows of a table partition; ``base`` is their contract."""
