"""Redis Streams as the log: one ordinary stream for each partition, state and fences beside them.

For Redis 7.0 and later, and Valkey. Any client of any language writes with a plain ``XADD`` and reads along
with a group of its own; ``docs/how-to/run-on-redis.md`` says how. The table in `streamflow.transports` says
what its parts are.
"""

from streamflow.transports.redis_streams.settings import RedisSettings
from streamflow.transports.redis_streams.transport import RedisTransport

__all__ = ["RedisSettings", "RedisTransport"]
