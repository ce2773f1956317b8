"""How agents take events: in order or concurrently, gated, acknowledged, tried again, joined, buffered."""
