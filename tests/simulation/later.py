"""What must hold of the agent whose events go on to retry topics, once a world is quiet."""

from __future__ import annotations

from collections import Counter

import orjson

from streamflow.engine.retry_topics import Waiting, waiting
from streamflow.state.progress import Progress, progress_from_record
from streamflow.transports.memory import MemoryBroker
from tests.simulation.cluster import APP, RETRY_TOPICS, Cluster
from tests.simulation.scenario import ECHO_LATER, EVENTS, SOURCES, Expected, SimEvent

AGENT = "agent:later"


def progress_of(broker: MemoryBroker) -> dict[tuple[str, int], Progress]:
    """(topic, partition) -> what is checkpointed of the agent."""
    found: dict[tuple[str, int], Progress] = {}
    for partition in range(broker.partition_count(f"{APP}-progress")):
        batch = broker.log((f"{APP}-progress", partition)).read(0, 10**9)
        if batch is None:
            continue
        for key, value in zip(batch.keys, batch.values, strict=True):
            assert key is not None
            if value is not None and orjson.loads(key)[0] == AGENT:
                progress = progress_from_record(key, value)
                found[progress.topic, progress.partition] = progress
    return found


def nothing_waits(broker: MemoryBroker) -> bool:
    """Has it taken all that lies in its retry topics?"""
    progress = progress_of(broker)
    for topic in RETRY_TOPICS:
        for partition in range(broker.partition_count(topic)):
            mine = progress.get((topic, partition))
            end = broker.log((topic, partition)).end
            if end and (mine is None or mine.position < end):
                return False
    return True


def moved(broker: MemoryBroker, topic: str) -> list[tuple[int, int, Waiting]]:
    """(partition, timestamp, what its headers say) of all that is committed in a retry topic."""
    found = []
    for partition in range(broker.partition_count(topic)):
        batch = broker.log((topic, partition)).read(0, 10**9)
        for headers, stamp_ms in zip(batch.headers or (), batch.timestamps_ms, strict=True) if batch else ():
            one = waiting(headers)
            assert one is not None
            found.append((partition, stamp_ms, one))
    return found


def _echoed(cluster: Cluster) -> Counter[tuple[int, str]]:
    found: Counter[tuple[int, str]] = Counter()
    for partition in range(cluster.broker.partition_count(ECHO_LATER)):
        batch = cluster.broker.log((ECHO_LATER, partition)).read(0, 10**9)
        found.update((partition, (value or b"").decode()) for value in (batch.values if batch else ()))
    return found


def check(cluster: Cluster, expected: Expected, events: list[list[SimEvent]], wrong: list[str]) -> None:
    """Each event is done once, wherever it came to; each topic's counters account for all that is in it."""
    if not cluster.scenario.trouble.later:
        return
    progress = progress_of(cluster.broker)
    committed = cluster.broker.coordinator(APP).committed
    for stage, topic in enumerate([EVENTS, *RETRY_TOPICS]):
        for partition in range(SOURCES):
            mine = progress.get((topic, partition), Progress(AGENT, topic, partition))
            found = {name: n for name, n in mine.counters.items() if n}
            if found != expected.later[stage, partition]:
                want = expected.later[stage, partition]
                wrong.append(f"later, {topic}[{partition}]: counters {found}, wanted {want}")
            end = cluster.broker.log((topic, partition)).end
            if committed.get((topic, partition), 0) < end:
                at = committed.get((topic, partition))
                wrong.append(f"later, {topic}[{partition}]: the group's offset is {at}, the end {end}")
    done = Counter((e.partition, e.id) for part in events for e in part if e.fate in ("good", "flaky"))
    if (sent := _echoed(cluster)) != done:
        wrong.append(f"later: missing {done - sent}, too many {sent - done}")
    for stage, topic in enumerate(RETRY_TOPICS):
        failed = [(e.partition, e.partition) for part in events for e in part if _is_in(e, stage)]
        places = [(partition, one.source[1]) for partition, _, one in moved(cluster.broker, topic)]
        if Counter(places) != Counter(failed):
            wrong.append(f"later, {topic}: holds {Counter(places)}, wanted {Counter(failed)}")
        if any(one.attempts != stage + 1 for _, _, one in moved(cluster.broker, topic)):
            wrong.append(f"later, {topic}: attempts are wrong")


def _is_in(event: SimEvent, stage: int) -> bool:
    """Does it come to the retry topic behind this stage?"""
    return event.fate != "bad" and all(event.fails_in(each) for each in range(stage + 1))


def check_at_least(cluster: Cluster, events: list[list[SimEvent]], wrong: list[str]) -> None:
    """Without transactions: each event is done at least once."""
    if not cluster.scenario.trouble.later:
        return
    done = Counter((e.partition, e.id) for part in events for e in part if e.fate in ("good", "flaky"))
    if missing := done - _echoed(cluster):
        wrong.append(f"later: missing {missing}")
