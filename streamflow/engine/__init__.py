"""One worker: what was declared, its partitions as they come and go, dispatch, checkpoints, restoring.

`engine` runs the loops, `rebalance` owns the life of an assignment, `assignment` is what is held for one.
The engine knows neither Faust nor Kafka: it is given a transport and a clock.
"""
