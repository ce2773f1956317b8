"""Questions about tables over HTTP, answered once.

routes.py and openapi.py: what there is to ask; api.py: the handlers. scatter_gather.py asks the owners of
rows that lie elsewhere; describe.py: tables and workers; late.py: late events; ndjson.py: answers row by row.
"""
