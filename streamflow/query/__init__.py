"""Interactive queries: the committed rows of one worker's tables, for readers outside agents.

rows.py: what a reader shows; table_reader.py: the `TableReader` that the web takes. reader.py: what all
readers have in common; agent_tables.py, aggregate_tables.py and sliding_rows.py: the kinds of tables;
readers.py makes them. listing.py: rows in the order of a list (row_query.py), by what list_index.py keeps.
worker_view.py: one worker as the web serves it, and who is told what a checkpoint changed.
Beside tables: facts.py, worker_facts.py and topic_facts.py; browse.py: records of topics, as shown.py shows
them; letter_book.py: dead letters; publishing.py: what is sent for others.
"""
