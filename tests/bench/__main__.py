"""``python -m tests.bench [--quick] [--out FILE]``; EVENTS, KEYS, ROUNDS and ONLY in the environment."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import pathlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from tests.bench import costs as costs_of
from tests.bench import lists, report, streams, topics
from tests.bench.contestants import Contestant, contestants
from tests.bench.harness import Outcome, compete
from tests.bench.workload import PARTITIONS, Answer
from tests.support import kafka_server, redis_server

RESULTS = pathlib.Path(__file__).parent / "results.json"
EVENTS = 1_000_000
KEYS = "1000,100000,1000000"
# Who also counts the further numbers of keys: the ruler, and each kind of row.
MANY_KEYS_NAMES = frozenset({"hand_written", "streamflow_agent", "streamflow_key", "streamflow_field"})
MANY_KEYS_ROUNDS = 2
QUICK_EVENTS = 100_000
QUICK_LISTS = (40_000,)
QUICK_COSTS = 20_000
QUICK_SHARE = 5  # a slow contestant counts this many times fewer events


def main(arguments: list[str]) -> int:
    """Exit code 1 where a contestant failed or counted wrong, 2 where there is no broker."""
    options = parse(arguments)
    try:
        chosen = choose(contestants(), os.environ.get("ONLY", ""))
        with contextlib.ExitStack() as stack:
            running = {
                name: stack.enter_context(SERVERS[name]())
                for name in sorted({contestant.server for contestant in chosen})
            }
            return asyncio.run(bench(running, chosen, options))
    except (kafka_server.NoBroker, redis_server.NoServer) as exc:
        print(f"no broker: {exc}", file=sys.stderr)
        return 2


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="fewer events, one round: only to see that it runs"
    )
    parser.add_argument(
        "--out", type=pathlib.Path, default=RESULTS, help="where the results go (%(default)s)"
    )
    options = parser.parse_args(arguments)
    options.events = int(os.environ.get("EVENTS") or (QUICK_EVENTS if options.quick else EVENTS))
    options.keys = [int(keys) for keys in (os.environ.get("KEYS") or KEYS).split(",")]
    if options.quick:
        del options.keys[1:]
    options.rounds = 1 if options.quick else int(os.environ.get("ROUNDS") or 0)
    return options


def choose(every: list[Contestant], only: str) -> list[Contestant]:
    names = [name.strip() for name in only.split(",") if name.strip()]
    unknown = set(names) - {contestant.name for contestant in every}
    if unknown:
        known = ", ".join(contestant.name for contestant in every)
        sys.exit(f"ONLY: unknown {', '.join(sorted(unknown))}; there are {known}")
    return [contestant for contestant in every if not names or contestant.name in names]


@contextlib.contextmanager
def broker() -> Iterator[tuple[str, str]]:
    """(host:port, what it is)."""
    external = kafka_server.external_bootstrap()
    if external is not None:
        yield external, "external"
        return
    print("starting Kafka ...", flush=True)
    with kafka_server.KafkaServer(heap_mb=1_024) as server:
        yield server.bootstrap, f"Apache Kafka {kafka_server.VERSION}, one node on the same machine"


@contextlib.contextmanager
def redis() -> Iterator[tuple[str, str]]:
    """(host:port, what it is)."""
    with redis_server.RedisServer(appendonly="everysec") as server, server.client() as client:
        version = client.info("server")["redis_version"]
        yield f"{redis_server.LOOPBACK}:{server.port}", f"Redis {version}, appendfsync everysec, same machine"


# name -> starts one: (host:port, what it is)
SERVERS: dict[str, Callable[[], contextlib.AbstractContextManager[tuple[str, str]]]] = {
    "kafka": broker,
    "redis": redis,
}
LOGS: dict[str, Any] = {"kafka": topics, "redis": streams}


async def bench(
    running: dict[str, tuple[str, str]], chosen: list[Contestant], options: argparse.Namespace
) -> int:
    """``running``: server -> (host:port, what it is)."""
    brokers = {name: address for name, (address, _) in running.items()}
    entries = await compare(brokers, chosen, options, options.keys[0])
    print(f"\n{report.table(entries)}\n", flush=True)
    told = {"events": options.events, "keys": options.keys, "partitions": PARTITIONS, "quick": options.quick}
    results = report.document(entries, told, {name: about for name, (_, about) in running.items()})
    cheap = [replace(one, rounds=MANY_KEYS_ROUNDS) for one in chosen if one.name in MANY_KEYS_NAMES]
    many: dict[int, list[dict[str, Any]]] = {}
    for keys in options.keys[1:] if cheap else ():
        many[keys] = await compare(brokers, cheap, options, keys)
    if many:
        before = {options.keys[0]: [one for one in entries if one["name"] in MANY_KEYS_NAMES]}
        results["many_keys"] = growth = report.growth(before | many)
        print(f"\n{report.growth_table(growth)}\n", flush=True)
    if not os.environ.get("ONLY"):
        results["lists"] = costs = await lists.every(QUICK_LISTS if options.quick else lists.ROWS)
        print(f"\n{lists.table(costs)}\n", flush=True)
        results["costs"] = grown = await costs_of.every(QUICK_COSTS if options.quick else costs_of.EVENTS)
        print(f"\n{costs_of.table(grown)}\n", flush=True)
    report.write(results, options.out)
    print(f"written to {options.out}")
    every = [*entries, *(entry for found in many.values() for entry in found)]
    return 1 if any(entry["status"] in {"wrong", "failed"} for entry in every) else 0


async def compare(
    brokers: dict[str, str], chosen: list[Contestant], options: argparse.Namespace, keys: int
) -> list[dict[str, Any]]:
    """Fills topics with events of so many keys, and lets each contestant count them; an entry for each."""
    run = os.urandom(4).hex()
    sizes = {contestant.name: size_for(contestant, options) for contestant in chosen}
    used = {contestant.server for contestant in chosen}
    try:
        print(f"filling {options.events:,} events of {keys:,} keys ...", flush=True)
        right: dict[int, dict[str, Answer]] = {}
        for server in sorted(used):
            wanted = sorted({sizes[one.name] for one in chosen if one.server == server})
            right |= await LOGS[server].fill(brokers[server], run, wanted, keys)
        outcomes: dict[str, list[Outcome]] = {contestant.name: [] for contestant in chosen}
        for number in range(max(rounds_for(contestant, options) for contestant in chosen)):
            for contestant in chosen:
                before = outcomes[contestant.name]
                if number >= rounds_for(contestant, options) or (before and before[-1].status != "ok"):
                    continue
                events = sizes[contestant.name]
                answer = right[events][contestant.grouping]
                outcome = await compete(contestant, brokers[contestant.server], run, events, answer)
                before.append(outcome)
                print(progress(contestant, outcome), flush=True)
    finally:
        for server in used:
            await LOGS[server].remove(brokers[server], run)
    entries = [report.summarise(contestant, outcomes[contestant.name]) for contestant in chosen]
    for contestant, entry in zip(chosen, entries, strict=True):
        entry["rows"] = right[sizes[contestant.name]][contestant.grouping].rows
    report.add_ratios(entries)
    return entries


def size_for(contestant: Contestant, options: argparse.Namespace) -> int:
    if contestant.events_max is None:
        return int(options.events)
    share = QUICK_SHARE if options.quick else 1
    return min(int(options.events), contestant.events_max // share)


def rounds_for(contestant: Contestant, options: argparse.Namespace) -> int:
    """ROUNDS is for those that are cheap enough to run more than once."""
    return options.rounds if options.rounds and contestant.rounds > 1 else contestant.rounds


def progress(contestant: Contestant, outcome: Outcome) -> str:
    if outcome.cpu_s == 0:
        return f"  {contestant.name}: {outcome.status}: {outcome.reason}"
    return f"  {contestant.name}: {outcome.cpu_s / outcome.events * 1e6:.2f} us/event, {outcome.status}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
