"""Drivers that carry batches in and checkpoints out; ``base`` is their contract.

The same part has the same name in each driver. ``-``: the driver needs none, or its broker does it.
``docs/explanation/transports.md`` says what each does, and what takes its place where there is none.

| part | kafka | redis_streams | memory |
| --- | --- | --- | --- |
| the contract's methods, each handed to its part | `transport` | `transport` | `transport` |
| where the broker is, and the driver's limits | `settings` | `settings` | - |
| who we are to the broker, of settings and credentials | `security` | - | - |
| which rights we lack there | `rights` | - | - |
| requests and their answers | `connection` | `connection` | - |
| a client among brokers that do not answer | `client` | - | - |
| which brokers do not answer | `broker_states` | - | - |
| the client's log, put right | `client_logs` | - | - |
| forms of requests, names of error codes | `protocol` | - | - |
| requests that name topics by their ids | `topic_ids` | - | - |
| names of keys; ids as offsets | - | `names` | - |
| what a server must be | - | `server_check` | - |
| which topics exist, from where to where; their creation | `topics` | `topics` | - |
| one worker's membership of the group | `group` | `group` | `group` |
| its heartbeats while the event loop is blocked | `heart` | `heart` | - |
| what members tell each other, and who gets what | `member_metadata` | `member_metadata` | - |
| the broker's side of the group | - | - | `coordinator` |
| partitions that are assigned into batches | `fetcher` | `fetcher` | `fetcher` |
| who may say that an offset is gone | `leader_check` | - | - |
| the same by public methods of the client | `fallback_fetcher` | - | - |
| logs outside the group | `reader` | `reader` | `reader` |
| the atomic commit, and the one that is not | `commits` | `commits` | `commits` |
| what each answer says of a commit | `outcomes` | - | - |
| the group's committed offsets | `offsets` | - | - |
| an idempotent producer | `producer` | - | - |
| records in the log's own form | `record_batches` | `entries` | `log` |
| how many records lie before an offset | - | `lag` | - |
| records that left the log unread | - | `gone` | - |
| failed events, for those who look | - | `pending` | - |
| what keeps a log short | - | `compaction` | - |
| deletes what an app has made | `reset` | `reset` | - |
| what the client's log repeats | `log_limit` | - | - |
| what tests do to a client | `faults` | - | `faults` |
| a worker's process, which may be stalled or killed | - | - | `process` |
| topics, groups and transactions of one process | - | - | `broker` |
| a server that comes and goes with its users | - | `embedded.server` | - |
| what keeps that server alive | - | `embedded.supervisor` | - |

Beside them: ``assignor`` who owns what, ``broker_transport`` what Kafka and Redis do alike, ``positions``
where paused partitions stand, ``records`` records by partition and their sizes, ``keep_alive`` the thread
that has a ``heart`` beat, ``connect`` URL -> transport.
"""
