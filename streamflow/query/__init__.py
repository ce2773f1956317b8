"""Interactive queries: the committed rows of one worker's tables, for readers outside agents.

rows.py: what a reader shows, and the `TableReader` that the web takes. reader.py: what all readers have in
common; agent_tables.py, aggregate_tables.py and sliding_rows.py: the kinds of tables; readers.py makes them.
worker_view.py: one worker as the web serves it, and who is told what a checkpoint changed.
"""
