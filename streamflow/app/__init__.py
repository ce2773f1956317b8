"""What users write against: `App`, agents, streams, tables and topics as in Faust, on streamflow's engine.

Besides ``cli`` the only room that imports faust.
"""
