"""Tables and how they last: rows in layers, what one event wrote, cuts, changelogs, restores, stores.

`partition` is one partition of a table, `agent_table` and `merging_table` what agents write, `event_context`
the event in flight, `cut` and `changelog` what a checkpoint writes, `restore` and `store_manager` how rows
come back, `sessions` and `panes` the windows that events make, `progress` how far a consumer has come.
"""
