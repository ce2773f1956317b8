"""Drivers that carry batches in and checkpoints out; ``base`` is their contract."""
