"""How fast tables come back: ``python -m tests.bench.restore [--rows N] [--keys N] [--broker kafka://...]``.

Writes a changelog of small rows, restores it, and prints records a second, of wall time and of CPU time
of this process. Without a broker it runs on the memory transport.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time

from streamflow.aggregates import Count
from streamflow.aggregates.partition import aggregate_table
from streamflow.aggregates.row_values import RowFunctions
from streamflow.aggregates.spec import AggregateSpec, Key
from streamflow.clock import SystemClock
from streamflow.state.changelog import RowCodec
from streamflow.state.partition import TablePartition, TableSpec
from streamflow.state.restore import end_of_logs, restore
from streamflow.state.stores.memory import MemoryStore
from streamflow.transports.base import Record, TopicPartition, TopicSpec, Transport
from streamflow.transports.memory import MemoryBroker, MemoryTransport
from streamflow.windows import TumblingWindow

PARTITIONS = 4
WRITE_AT_ONCE = 20_000


def tables(run: str) -> dict[str, TableSpec]:
    """Faust's form without windows, Faust's form windowed, and a declared count by key."""
    window = TumblingWindow(10)
    by_key = AggregateSpec(f"{run}-declared", "events", Key(), window, RowFunctions(Count()))
    return {
        "plain": TableSpec("plain", None, RowCodec(None), f"{run}-plain-changelog", PARTITIONS),
        "windowed": TableSpec("windowed", window, RowCodec(window), f"{run}-windowed-changelog", PARTITIONS),
        "declared": aggregate_table(by_key, f"{run}-declared-changelog", PARTITIONS),
    }


async def fill(transport: Transport, spec: TableSpec, rows: int, keys: int) -> None:
    """``rows`` records over ``keys`` keys, in windows of ten seconds."""
    await transport.create_topics([TopicSpec(spec.changelog, PARTITIONS, compacted=True)])
    names = [f"user-{n}" for n in range(keys)]
    written = 0
    while written < rows:
        for partition in range(PARTITIONS):
            start = 0 if spec.window is None else 1_700_000_000_000 + written // (10 * keys) * 10_000
            count = min(WRITE_AT_ONCE, rows - written)
            some = [names[(written + n) % keys] for n in range(count)]
            raw = spec.codec.encode_keys(start, some)
            records = [Record(spec.changelog, partition, key, b"%d" % n) for n, key in enumerate(raw)]
            await transport.send(records)
            written += count


async def measure(transport: Transport, spec: TableSpec) -> dict[str, float]:
    parts: dict[TopicPartition, TablePartition] = {
        (spec.changelog, p): TablePartition(spec, p, MemoryStore()) for p in range(PARTITIONS)
    }
    ends = await end_of_logs(transport, parts)
    read = 0

    def count(records: int) -> None:
        nonlocal read
        read += records

    reader = transport.log_reader()
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    await restore(reader, parts, ends, lambda at: None, count)
    wall_s, cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
    await reader.close()
    rows = sum(len(part.store) for part in parts.values())
    return {
        "records": read,
        "rows": rows,
        "records_per_s": round(read / wall_s),
        "records_per_cpu_s": round(read / cpu_s),
    }


async def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.bench.restore")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--keys", type=int, default=10_000)
    parser.add_argument("--broker", help="kafka://host:port; default: the memory transport")
    options = parser.parse_args()
    run = f"restore-{int(time.perf_counter() * 1_000)}"
    clock = SystemClock()
    transport: Transport
    if options.broker is None:
        transport = MemoryTransport(
            MemoryBroker(clock, records_max=None, bytes_max=None), run, "bench", clock
        )
    else:
        from streamflow.transports.kafka import KafkaSettings, KafkaTransport

        servers = tuple(options.broker.removeprefix("kafka://").split(","))
        transport = KafkaTransport(KafkaSettings(servers, run), clock)
    await transport.start()
    try:
        for name, spec in tables(run).items():
            await fill(transport, spec, options.rows, options.keys)
            sys.stdout.write(json.dumps({"table": name, **await measure(transport, spec)}) + "\n")
    finally:
        await transport.stop()


if __name__ == "__main__":
    asyncio.run(main())
