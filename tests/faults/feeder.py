"""A producer in a process of its own: writes numbered events, and each acknowledgement into a file.

``python -m tests.faults.feeder BOOTSTRAP TOPIC LOG FIRST COUNT RATE``: ``RATE`` is events a second. A
line of LOG is ``number partition offset``. Ends with 1 when an event is not acknowledged, and with 3 when
the broker has refused some for good, whose numbers are in LOG.refused.
"""

from __future__ import annotations

import sys
import time
from typing import Any

from confluent_kafka import Producer

from tests.faults.workload import event, partition_of

FLUSH_S = 300.0
REFUSED = 3


def main(bootstrap: str, topic: str, log: str, first: int, count: int, rate: float) -> int:
    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "enable.idempotence": True,
            "linger.ms": 5,
            "message.timeout.ms": 0,  # until it works: the broker goes away meanwhile, and comes back
            "log_level": 0,
        }
    )
    refused: list[str] = []
    refusals = open(f"{log}.refused", "a", encoding="ascii")  # noqa: SIM115 - until the end
    with open(log, "a", encoding="ascii") as acknowledged:

        def note(number: int, error: Any, message: Any) -> None:
            if error is not None:
                refused.append(f"{number}: {error}")
                refusals.write(f"{number}\n")
                refusals.flush()
            else:
                acknowledged.write(f"{number} {message.partition()} {message.offset()}\n")
                acknowledged.flush()

        began_s = time.monotonic()
        for number in range(first, first + count):
            made = event(number)
            value = made.encoded()

            def told(error: Any, message: Any, number: int = number) -> None:
                note(number, error, message)

            producer.produce(topic, value, made.key.encode(), partition_of(made.key), on_delivery=told)
            ahead_s = (number - first) / rate - (time.monotonic() - began_s)
            producer.poll(max(0.0, ahead_s))
        left = producer.flush(FLUSH_S)
    print(f"{left} not acknowledged, {len(refused)} refused {refused[:3]}", file=sys.stderr)
    return 1 if left else REFUSED if refused else 0


if __name__ == "__main__":
    where, name, path, begin, number_of, per_s = sys.argv[1:]
    sys.exit(main(where, name, path, int(begin), int(number_of), float(per_s)))
