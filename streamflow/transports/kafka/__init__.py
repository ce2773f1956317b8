"""Apache Kafka through aiokafka: the production engine.

The table in `streamflow.transports` says what its parts are.
"""

from streamflow.transports.kafka.settings import KafkaSettings
from streamflow.transports.kafka.transport import KafkaTransport

__all__ = ["KafkaSettings", "KafkaTransport"]
