"""Files as sources and sinks: NDJSON (a JSON value on each line) and CSV."""
