"""Questions about tables over HTTP, answered once.

routes.py and openapi.py: what there is to ask; api.py: the handlers. scatter_gather.py asks the owners of
rows that lie elsewhere; describe.py: tables and workers; late.py: late events; ndjson.py: answers row by row.
stream_routes.py: what there is to ask beside tables; running.py: workers and agents, by everyone.py, which
asks all of them; topics.py: topics and their records; publish.py; dead_letters.py.
"""
