"""Topics: how their keys and values are written and read, and how records are sent."""
