"""Streams: an agent's own, those of `app.stream`, and what is made of them: joined, merged, repartitioned."""
