"""`streamflow verify`: is what a table shows what its source topic says?

recount.py recounts declared tables and compares their rows; agents.py holds the counters of agents against
the records, for tables in Faust's form; report.py is what comes of it.
"""
