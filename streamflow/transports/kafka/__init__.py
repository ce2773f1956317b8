"""Apache Kafka through aiokafka: the production engine.

Layout: `settings` what to connect to; `transport` the contract's methods; `group` membership and
reading; `columns` the hot path of reading, `getmany` the same by public methods; `assignor` who owns
what; `reader` logs outside the group; `transactions` the commit in numbered steps; `producer` and
`batches` writing; `offsets` the group's offsets; `topics`, `connection`, `wire` requests and answers.
"""

from streamflow.transports.kafka.settings import KafkaSettings
from streamflow.transports.kafka.transport import KafkaTransport

__all__ = ["KafkaSettings", "KafkaTransport"]
