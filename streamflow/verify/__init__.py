"""A source topic counted again and held against its table: `streamflow verify`.

recount.py recounts declared tables and compares their rows; agents.py holds the counters of agents against
the records, for tables in Faust's form; report.py is what comes of it.
"""
