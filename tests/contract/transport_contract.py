"""The suite that every transport passes: each obligation of ``transports/base.py``, by what can be seen.

A driver's tests subclass `TransportContract` and give a ``harness`` fixture (see `Harness`). Nothing
here knows the driver: offsets may have gaps anywhere, names are unique, every wait is bounded.
"""

from __future__ import annotations

import asyncio
import time

import pytest

from streamflow.errors import CommitAborted, Fenced, RecordTooLarge
from streamflow.transports.base import Assignment, Commit, Record, TopicPartition, TopicSpec
from tests.contract.harness import (
    Harness,
    Worker,
    make_topic,
    numbered,
    numbers_in,
    partitions_of,
    read_all,
    read_until,
    rows_of,
    unique,
)


async def alone(harness: Harness, topics: list[str], group: str | None = None) -> tuple[Worker, Assignment]:
    """A worker that is the only one of its group, with all partitions of its topics assigned."""
    worker = await new_worker(harness, group or unique("group"))
    counts = await worker.client.partition_counts(topics)
    await worker.join(topics)
    return worker, await worker.owns((topic, p) for topic in topics for p in range(counts[topic]))


async def new_worker(harness: Harness, group: str) -> Worker:
    return Worker(await harness.client(group, unique("worker")), harness.limit_s)


async def two(
    harness: Harness, topic: str, number: int, group: str | None = None
) -> tuple[Worker, Worker, Assignment]:
    """Two workers that share a topic, and the first one's assignment from when it was alone."""
    group = group or unique("group")
    first, stale = await alone(harness, [topic], group)
    second = await new_worker(harness, group)
    await second.join([topic])
    await second.owns_number(number // 2)
    await first.owns_number(number - number // 2)
    return first, second, stale


class Topics:
    async def test_creates_what_is_missing_and_leaves_what_exists(self, harness: Harness) -> None:
        client = await harness.client(unique("group"), unique("worker"))
        old, new, never = unique("old"), unique("new"), unique("never")
        await client.create_topics([TopicSpec(old, 3)])
        await client.create_topics([TopicSpec(old, 5), TopicSpec(new, 2, compacted=True)])
        assert await client.partition_counts([old, new, never]) == {old: 3, new: 2}

    async def test_an_empty_partition_starts_and_ends_at_the_same_offset(self, harness: Harness) -> None:
        client = await harness.client(unique("group"), unique("worker"))
        spot = (await make_topic(client, "events", 1), 0)
        assert await client.earliest_offsets([spot]) == await client.high_watermarks([spot])

    async def test_a_time_is_the_place_of_the_first_record_that_is_not_older(self, harness: Harness) -> None:
        client = await harness.client(unique("group"), unique("worker"))
        spot = (await make_topic(client, "events", 1), 0)
        assert await client.offsets_at([spot], 0) == await client.high_watermarks([spot])
        offsets = []
        for n in range(3):
            offsets += await client.send([Record(*spot, None, b"%d" % n)])
            await asyncio.sleep(0.01)  # so that each has a time of its own
        times = [row.timestamp_ms for row in (await read_all(client, [spot], harness.limit_s))[spot]]
        found = [(await client.offsets_at([spot], ms))[spot] for ms in (0, *times)]
        assert found[0] <= found[1] <= offsets[0] < found[2] <= offsets[1] < found[3] <= offsets[2]
        assert await client.offsets_at([spot], times[-1] + 60_000) == await client.high_watermarks([spot])


class SendAndFetch:
    async def test_send_returns_one_rising_offset_for_each_record(self, harness: Harness) -> None:
        client = await harness.client(unique("group"), unique("worker"))
        topic = await make_topic(client, "events", 2)
        offsets = await client.send([Record(topic, n % 2, None, b"%d" % n) for n in range(10)])
        spots = partitions_of(topic, 2)
        first, end = await client.earliest_offsets(spots), await client.high_watermarks(spots)
        assert len(offsets) == 10
        for p in range(2):
            mine = offsets[p::2]
            assert mine == sorted(set(mine))
            assert first[topic, p] <= mine[0]
            assert mine[-1] < end[topic, p]

    async def test_fetch_returns_what_was_sent_in_columns(self, harness: Harness) -> None:
        client = await harness.client(unique("group"), unique("sender"))
        topic = await make_topic(client, "events", 1)
        worker, _ = await alone(harness, [topic])
        now_ms = int(time.time() * 1_000)  # noqa: TID251  # brokers reject stamps far from their own clock
        sent = [
            Record(topic, 0, b"ann", b"one", (("trace", b"1"), ("trace", b"2"), ("none", None)), now_ms - 5),
            Record(topic, 0, None, b"\xff\x00", (), now_ms - 7),
            Record(topic, 0, b"", b"", (), now_ms),
            Record(topic, 0, b"ann", None, (("h", b""),), now_ms),
        ]
        offsets = await client.send(sent)
        worker.begin({(topic, 0): offsets[0]})
        rows = (await worker.take(4))[topic, 0]
        assert [(r.offset, r.key, r.value, r.headers, r.timestamp_ms) for r in rows] == [
            (offset, r.key, r.value, tuple(r.headers), r.timestamp_ms)
            for offset, r in zip(offsets, sent, strict=True)
        ]

    async def test_topics_tell_what_becomes_of_old_records(self, harness: Harness) -> None:
        client = await harness.client(unique("group"), unique("maker"))
        rows, events = (
            await make_topic(client, "rows", 1, compacted=True),
            await make_topic(client, "events", 1),
        )
        policies = await client.cleanup_policies([rows, events, unique("nothing")])
        assert policies == {rows: "compact", events: "delete"}

    async def test_a_batch_without_any_header_says_so_and_stamps_are_now(self, harness: Harness) -> None:
        client = await harness.client(unique("group"), unique("worker"))
        topic = await make_topic(client, "events", 1)
        await client.send(numbered(topic, 0, range(2)))
        await client.send(numbered(topic, 0, range(2)))
        reader = client.log_reader()
        await reader.assign({(topic, 0): 0})
        stamps: list[int] = []
        async with asyncio.timeout(harness.limit_s):
            while len(stamps) < 4:
                for batch in await reader.read(100):
                    assert batch.headers is None
                    stamps += batch.timestamps_ms
        await reader.close()
        assert stamps == sorted(stamps)
        assert stamps[-1] - stamps[0] < 600_000

    async def test_many_records_come_once_each_in_order_and_reading_catches_up(
        self, harness: Harness
    ) -> None:
        client = await harness.client(unique("group"), unique("sender"))
        topic = await make_topic(client, "events", 2)
        worker, assignment = await alone(harness, [topic])
        for start in range(0, 12_000, 3_000):
            await client.send(numbered(topic, 0, range(start, start + 3_000)))
        offsets = await client.send(numbered(topic, 1, range(10)))
        worker.begin(dict.fromkeys(assignment.partitions, 0))
        numbers: dict[TopicPartition, list[int]] = {spot: [] for spot in assignment.partitions}
        caught_up: set[TopicPartition] = set()
        async with asyncio.timeout(harness.limit_s):
            while len(caught_up) < 2:
                for batch in await worker.client.fetch(100):
                    rows = rows_of(batch)
                    assert [r.offset for r in rows] == sorted({r.offset for r in rows})
                    assert not rows or rows[-1].offset < batch.next_offset
                    numbers[batch.topic, batch.partition] += numbers_in(rows)
                    if batch.next_offset >= batch.end_offset:
                        caught_up.add((batch.topic, batch.partition))
        assert numbers[topic, 0] == list(range(12_000))
        assert numbers[topic, 1] == list(range(10))
        worker.begin({(topic, 1): offsets[7]})
        assert numbers_in((await worker.take(3))[topic, 1]) == [7, 8, 9]

    async def test_fetch_waits_for_records_and_returns_empty_when_none_come(self, harness: Harness) -> None:
        client = await harness.client(unique("group"), unique("sender"))
        topic = await make_topic(client, "events", 1)
        worker, _ = await alone(harness, [topic])
        worker.begin({(topic, 0): 0})
        async with asyncio.timeout(harness.limit_s):
            assert await worker.client.fetch(50) == []
        taking = asyncio.create_task(worker.take(1))
        await asyncio.sleep(0)
        await client.send(numbered(topic, 0, [1]))
        assert numbers_in((await taking)[topic, 0]) == [1]

    async def test_only_resumed_partitions_are_fetched(self, harness: Harness) -> None:
        client = await harness.client(unique("group"), unique("sender"))
        topic = await make_topic(client, "events", 2)
        worker, _ = await alone(harness, [topic])
        await client.send([*numbered(topic, 0, [1, 2]), *numbered(topic, 1, [3, 4])])
        await worker.quiet()
        worker.begin({(topic, 1): 0})
        assert numbers_in((await worker.take(2))[topic, 1]) == [3, 4]
        worker.client.pause([(topic, 1)])
        worker.begin({(topic, 0): 0})
        await client.send([*numbered(topic, 0, [5]), *numbered(topic, 1, [6])])
        got = await worker.take(3)
        assert set(got) == {(topic, 0)}
        assert numbers_in(got[topic, 0]) == [1, 2, 5]
        await worker.quiet()
        worker.client.resume([(topic, 1)])
        got = await worker.take(1)
        assert set(got) == {(topic, 1)}
        assert numbers_in(got[topic, 1]) == [6]

    async def test_a_seek_goes_back_and_an_offset_in_a_gap_means_the_next_record(
        self, harness: Harness
    ) -> None:
        topic = await make_topic(await harness.client(unique("group"), unique("maker")), "events", 1)
        worker, assignment = await alone(harness, [topic])
        spot = (topic, 0)
        ends = []
        for n in range(3):  # a commit may leave a control record, so that the ends may lie in gaps
            done = await worker.client.commit(Commit(assignment, numbered(topic, 0, [n]), {spot: 0}))
            ends.append(done[spot])
        worker.begin({spot: 0})
        assert numbers_in((await worker.take(3))[spot]) == [0, 1, 2]
        worker.begin({spot: ends[0]})
        assert numbers_in((await worker.take(2))[spot]) == [1, 2]
        worker.begin({spot: ends[1]})
        assert numbers_in((await worker.take(1))[spot]) == [2]


class Committing:
    async def test_a_commit_shows_its_records_and_its_offsets(self, harness: Harness) -> None:
        maker = await harness.client(unique("group"), unique("maker"))
        topic, log = await make_topic(maker, "events", 2), await make_topic(maker, "log", 2, compacted=True)
        worker, assignment = await alone(harness, [topic])
        spots = partitions_of(topic, 2)
        assert await worker.client.committed(spots) == {spots[0]: None, spots[1]: None}
        records = [*numbered(log, 0, range(5)), *numbered(log, 1, range(3)), Record(log, 1, b"gone", None)]
        ends = await worker.client.commit(Commit(assignment, records, {spots[0]: 41}))
        assert await worker.client.committed(spots) == {spots[0]: 41, spots[1]: None}
        got = await read_all(maker, partitions_of(log, 2), harness.limit_s)
        assert numbers_in(got[log, 0]) == list(range(5))
        assert [(r.key, r.value) for r in got[log, 1]][-1] == (b"gone", None)
        assert ends == {spot: rows[-1].offset + 1 for spot, rows in got.items()}

    async def test_a_commit_without_records_still_moves_offsets_and_may_repeat_them(
        self, harness: Harness
    ) -> None:
        topic = await make_topic(await harness.client(unique("group"), unique("maker")), "events", 1)
        worker, assignment = await alone(harness, [topic])
        for offset in (5, 5, 9):
            assert await worker.client.commit(Commit(assignment, [], {(topic, 0): offset})) == {}
            assert await worker.client.committed([(topic, 0)]) == {(topic, 0): offset}

    async def test_records_keep_their_order_within_and_across_commits(self, harness: Harness) -> None:
        topic = await make_topic(await harness.client(unique("group"), unique("maker")), "events", 3)
        worker, assignment = await alone(harness, [topic])
        for start in range(0, 3_000, 1_000):
            records = [Record(topic, n % 3, None, b"%d" % n) for n in range(start, start + 1_000)]
            await worker.client.commit(Commit(assignment, records, {(topic, 0): start}))
        got = await read_all(worker.client, partitions_of(topic, 3), harness.limit_s)
        for p in range(3):
            assert numbers_in(got[topic, p]) == list(range(p, 3_000, 3))

    async def test_a_commit_that_the_broker_refuses_has_no_effect_at_all(self, harness: Harness) -> None:
        maker = await harness.client(unique("group"), unique("maker"))
        topic = await make_topic(maker, "events", 1)
        small = await make_topic(maker, "small", 1, record_bytes_max=10_000)
        worker, assignment = await alone(harness, [topic])
        spot = (topic, 0)
        records = [*numbered(topic, 0, [1]), Record(small, 0, b"k", b"x" * 50_000), *numbered(topic, 0, [2])]
        with pytest.raises((RecordTooLarge, CommitAborted)):
            await worker.client.commit(Commit(assignment, records, {spot: 7}))
        assert await worker.client.committed([spot]) == {spot: None}
        await worker.client.commit(
            Commit(assignment, [*numbered(topic, 0, [3]), *numbered(small, 0, [4])], {spot: 8})
        )
        got = await read_all(maker, [spot, (small, 0)], harness.limit_s)
        assert numbers_in(got[spot]) == [3]
        assert numbers_in(got[small, 0]) == [4]
        assert await worker.client.committed([spot]) == {spot: 8}

    async def test_an_old_assignment_is_fenced_even_from_a_live_member(self, harness: Harness) -> None:
        """The first worker is a good member again; what it took under its old assignment is void."""
        maker = await harness.client(unique("group"), unique("maker"))
        topic, log = await make_topic(maker, "events", 4), await make_topic(maker, "log", 1)
        first, second, stale = await two(harness, topic, 4)
        kept = min(first.listener.newest.partitions)
        with pytest.raises(Fenced):
            await first.client.commit(Commit(stale, numbered(log, 0, [1]), {kept: 10}))
        with pytest.raises(Fenced):
            await first.client.commit(Commit(stale, [], {kept: 11}))
        assert await first.client.committed([kept]) == {kept: None}
        await first.client.commit(Commit(first.listener.newest, numbered(log, 0, [2]), {kept: 12}))
        other = min(second.listener.newest.partitions)
        await second.client.commit(Commit(second.listener.newest, numbered(log, 0, [3]), {other: 13}))
        got = await read_all(maker, [(log, 0)], harness.limit_s)
        assert numbers_in(got[log, 0]) == [2, 3]  # the fenced records did not come with the next commit
        assert await second.client.committed([kept, other]) == {kept: 12, other: 13}

    async def test_a_worker_that_slept_through_its_session_is_fenced(self, harness: Harness) -> None:
        if not harness.can_stall:
            pytest.skip("this driver's harness can't stop a client's process")
        maker = await harness.client(unique("group"), unique("maker"))
        topic, log = await make_topic(maker, "events", 4), await make_topic(maker, "log", 1)
        first, second, _ = await two(harness, topic, 4)
        spots = partitions_of(topic, 4)
        stale = first.listener.newest
        await harness.stall(first.client)
        assignment = await second.owns(spots)
        await second.client.commit(Commit(assignment, numbered(log, 0, [1]), dict.fromkeys(spots, 20)))
        await harness.wake(first.client)
        with pytest.raises(Fenced):
            await first.client.commit(
                Commit(stale, numbered(log, 0, [2]), dict.fromkeys(stale.partitions, 30))
            )
        newest = await first.listener.until(lambda a: a.generation > assignment.generation, harness.limit_s)
        kept = min(newest.partitions)
        await first.client.commit(Commit(newest, numbered(log, 0, [3]), {kept: 40}))
        got = await read_all(maker, [(log, 0)], harness.limit_s)
        assert numbers_in(got[log, 0]) == [1, 3]
        expected = {spot: 40 if spot == kept else 20 for spot in spots}
        assert await second.client.committed(spots) == expected


class Undecided:
    """Commits whose decision is still to come; obligations 2 and 5."""

    async def test_nothing_of_it_is_seen_until_it_is_decided(self, harness: Harness) -> None:
        if not harness.can_hold:
            pytest.skip("this driver's harness can't hold a commit")
        maker = await harness.client(unique("group"), unique("maker"))
        topic, log = await make_topic(maker, "events", 1), await make_topic(maker, "log", 1)
        worker, assignment = await alone(harness, [topic])
        spot, at = (topic, 0), (log, 0)
        await worker.client.commit(Commit(assignment, numbered(log, 0, [1]), {spot: 1}))
        before = await maker.high_watermarks([at])
        held = await harness.hold(worker.client, Commit(assignment, numbered(log, 0, [2, 3]), {spot: 3}))
        open_commits = worker.client.features.open_commits
        assert ((await maker.high_watermarks([at]))[at] > before[at]) == open_commits
        stable = await maker.committed_ends([at])
        reader = maker.log_reader()
        got = await read_until(reader, {at: 0}, {at: 1}, harness.limit_s)
        assert numbers_in(got[at]) == [1]
        # Asked by whoever comes next; what is not in the log yet keeps nobody waiting.
        asker = worker.client if open_commits else maker
        asking = asyncio.create_task(asker.committed([spot]))
        assert [r for batch in await reader.read(100) for r in rows_of(batch)] == []
        assert asking.done() != open_commits
        await held.release()
        if open_commits:
            assert await asyncio.wait_for(asking, harness.limit_s) == {spot: 3}
        assert await worker.client.committed([spot]) == {spot: 3}
        await reader.close()
        assert numbers_in((await read_all(maker, [at], harness.limit_s))[at]) == [1, 2, 3]
        # Whoever reads on from the committed end sees all that is decided from then on, and nothing else.
        reader = maker.log_reader()
        ends = await maker.high_watermarks([at])
        assert numbers_in((await read_until(reader, stable, ends, harness.limit_s))[at]) == [2, 3]
        await reader.close()

    async def test_a_killed_workers_open_commit_never_counts(self, harness: Harness) -> None:
        """The successor waits until it is decided, and reads on behind it."""
        if not harness.can_hold:
            pytest.skip("this driver's harness can't hold a commit")
        maker = await harness.client(unique("group"), unique("maker"))
        topic, log = await make_topic(maker, "events", 2), await make_topic(maker, "log", 1)
        first, second, _ = await two(harness, topic, 2)
        mine = min(first.listener.newest.partitions)
        await first.client.commit(Commit(first.listener.newest, numbered(log, 0, [1]), {mine: 1}))
        newest = first.listener.newest
        await harness.hold(first.client, Commit(newest, numbered(log, 0, [2]), {mine: 2}))
        await harness.kill(first.client)
        assignment = await second.owns(partitions_of(topic, 2))
        async with asyncio.timeout(harness.limit_s):
            assert await second.client.committed([mine]) == {mine: 1}
        assert numbers_in((await read_all(second.client, [(log, 0)], harness.limit_s))[log, 0]) == [1]
        await second.client.commit(Commit(assignment, numbered(log, 0, [3]), {mine: 3}))
        assert numbers_in((await read_all(second.client, [(log, 0)], harness.limit_s))[log, 0]) == [1, 3]


class Rebalancing:
    async def test_a_single_worker_gets_everything_and_sees_itself(self, harness: Harness) -> None:
        topic = await make_topic(await harness.client(unique("group"), unique("maker")), "events", 3)
        worker, assignment = await alone(harness, [topic])
        assert worker.listener.story[-1] == "assigned"
        assert [(m.url, m.partitions) for m in assignment.members] == [
            ("http://worker", assignment.partitions)
        ]

    async def test_workers_share_evenly_and_know_each_others_addresses(self, harness: Harness) -> None:
        group = unique("group")
        topic = await make_topic(await harness.client(unique("other"), unique("maker")), "events", 6)
        workers = []
        for n in range(3):
            worker = await new_worker(harness, group)
            await worker.join([topic], f"http://worker-{n}")
            workers.append(worker)
        owned = [await w.listener.until(lambda a: len(a.members) == 3, harness.limit_s) for w in workers]
        assert sorted(spot for a in owned for spot in a.partitions) == partitions_of(topic, 6)
        assert [len(a.partitions) for a in owned] == [2, 2, 2]
        seen = {f"http://worker-{n}": a.partitions for n, a in enumerate(owned)}
        for assignment in owned:
            assert {m.url: m.partitions for m in assignment.members} == seen
        assert len({a.generation for a in owned}) == 1

    async def test_a_worker_that_subscribes_again_is_assigned_the_other_topics_too(
        self, harness: Harness
    ) -> None:
        worker = await new_worker(harness, unique("group"))
        first, second = [await make_topic(worker.client, word, 2) for word in ("first", "second")]
        await worker.join([first])
        before = await worker.owns((first, p) for p in range(2))
        ends = await worker.client.high_watermarks([(first, 0)])

        async def last_commit() -> None:
            await worker.client.commit(Commit(before, [Record(first, 0, b"k", b"last")], ends))

        worker.listener.before_revoked = last_commit
        await worker.join([first, second])
        await worker.owns((topic, p) for topic in (first, second) for p in range(2))
        assert worker.listener.story == ["assigned", "revoked", "assigned"]
        # The old assignment counted until it was revoked.
        assert await worker.client.committed([(first, 0)]) == ends
        await worker.client.send([Record(second, 1, b"k", b"new")])
        worker.begin({(second, 1): 0})
        assert list(await worker.take(1)) == [(second, 1)]

    async def test_equal_partition_numbers_go_to_one_owner(self, harness: Harness) -> None:
        maker = await harness.client(unique("other"), unique("maker"))
        topics = [await make_topic(maker, "left", 4), await make_topic(maker, "right", 4)]
        odd = await make_topic(maker, "odd", 3)
        group = unique("group")
        workers = [await new_worker(harness, group) for _ in range(2)]
        for worker in workers:
            await worker.join([*topics, odd])
        owned = [await w.listener.until(lambda a: len(a.members) == 2, harness.limit_s) for w in workers]
        everything = [spot for a in owned for spot in a.partitions]
        assert len(everything) == len(set(everything)) == 11
        for assignment in owned:
            left = {p for topic, p in assignment.partitions if topic == topics[0]}
            right = {p for topic, p in assignment.partitions if topic == topics[1]}
            assert left == right
            assert len(left) == 2

    async def test_a_worker_that_joins_takes_no_more_than_its_share(self, harness: Harness) -> None:
        topic = await make_topic(await harness.client(unique("other"), unique("maker")), "events", 6)
        group = unique("group")
        first, second, _ = await two(harness, topic, 6, group)
        before = [first.listener.newest.partitions, second.listener.newest.partitions]
        third = await new_worker(harness, group)
        await third.join([topic])
        await third.owns_number(2)
        after = [(await w.owns_number(2)).partitions for w in (first, second)]
        assert after[0] < before[0]
        assert after[1] < before[1]

    async def test_a_worker_that_stops_hands_over_and_may_stop_twice(self, harness: Harness) -> None:
        topic = await make_topic(await harness.client(unique("other"), unique("maker")), "events", 4)
        first, second, _ = await two(harness, topic, 4)
        await second.client.stop()
        await second.client.stop()
        await first.owns(partitions_of(topic, 4))
        assert len(first.listener.newest.members) == 1

    async def test_a_killed_workers_partitions_go_to_the_others(self, harness: Harness) -> None:
        topic = await make_topic(await harness.client(unique("other"), unique("maker")), "events", 4)
        first, second, _ = await two(harness, topic, 4)
        await harness.kill(second.client)
        await first.owns(partitions_of(topic, 4))

    async def test_the_old_assignment_commits_during_the_revoke_and_nobody_is_assigned_before(
        self, harness: Harness
    ) -> None:
        topic = await make_topic(await harness.client(unique("other"), unique("maker")), "events", 2)
        group = unique("group")
        first, old = await alone(harness, [topic], group)
        spot = (topic, 0)
        may_go = asyncio.Event()

        async def last_checkpoint() -> None:
            await may_go.wait()
            assert await first.client.commit(Commit(old, numbered(topic, 1, [1]), {spot: 17}))

        first.listener.before_revoked = last_checkpoint
        second = await new_worker(harness, group)
        await second.join([topic])
        await asyncio.wait_for(first.listener.revoking.wait(), harness.limit_s)
        assert second.listener.assignments == []
        may_go.set()
        assignment = await second.owns_number(1)
        await first.owns_number(1)
        assert first.listener.story == ["assigned", "revoked", "assigned"]
        assert await second.client.committed([spot]) == {spot: 17}
        assert assignment.generation > old.generation

    async def test_after_a_rebalance_everything_is_paused_again(self, harness: Harness) -> None:
        maker = await harness.client(unique("other"), unique("maker"))
        topic = await make_topic(maker, "events", 2)
        group = unique("group")
        first, _ = await alone(harness, [topic], group)
        first.begin({(topic, 0): 0, (topic, 1): 0})
        second = await new_worker(harness, group)
        await second.join([topic])
        kept = await first.owns_number(1)
        await maker.send([*numbered(topic, 0, [1]), *numbered(topic, 1, [2])])
        await first.quiet()
        spot = min(kept.partitions)
        first.begin({spot: 0})
        assert numbers_in((await first.take(1))[spot]) == [spot[1] + 1]


class Reading:
    """Obligations of `LogReader`."""

    async def test_reads_from_where_it_is_told_and_waits_at_the_end(self, harness: Harness) -> None:
        client = await harness.client(unique("group"), unique("worker"))
        log = await make_topic(client, "log", 2, compacted=True)
        offsets = await client.send([*numbered(log, 0, range(5)), *numbered(log, 1, range(5))])
        ends = await client.high_watermarks(partitions_of(log, 2))
        reader = client.log_reader()
        got = await read_until(reader, {(log, 0): 0, (log, 1): offsets[8]}, ends, harness.limit_s)
        assert numbers_in(got[log, 0]) == [0, 1, 2, 3, 4]
        assert numbers_in(got[log, 1]) == [3, 4]
        assert [r for batch in await reader.read(50) for r in rows_of(batch)] == []
        reading = asyncio.create_task(
            read_until(reader, {(log, 1): ends[log, 1]}, {(log, 1): 2**63 - 1}, 3_600)
        )
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reading, 0.3)
        got = await read_until(reader, {(log, 0): offsets[4]}, {(log, 0): ends[log, 0]}, harness.limit_s)
        assert numbers_in(got[log, 0]) == [4]
        await reader.close()

    async def test_its_position_passes_what_commits_leave_behind(self, harness: Harness) -> None:
        """Control records and the like never keep a recovery from reaching the high watermark."""
        maker = await harness.client(unique("other"), unique("maker"))
        topic, log = await make_topic(maker, "events", 1), await make_topic(maker, "log", 2)
        worker, assignment = await alone(harness, [topic])
        for n in range(4):
            await worker.client.commit(Commit(assignment, numbered(log, 0, [n]), {(topic, 0): n}))
        got = await read_all(maker, partitions_of(log, 2), harness.limit_s)
        assert numbers_in(got[log, 0]) == [0, 1, 2, 3]
        assert got[log, 1] == []

    async def test_it_leaves_the_groups_reading_alone(self, harness: Harness) -> None:
        maker = await harness.client(unique("other"), unique("maker"))
        topic = await make_topic(maker, "events", 1)
        worker, _ = await alone(harness, [topic])
        await maker.send(numbered(topic, 0, range(5)))
        assert numbers_in((await read_all(worker.client, [(topic, 0)], harness.limit_s))[topic, 0]) == [
            0,
            1,
            2,
            3,
            4,
        ]
        worker.begin({(topic, 0): 0})
        assert numbers_in((await worker.take(5))[topic, 0]) == [0, 1, 2, 3, 4]


@pytest.mark.asyncio
class TransportContract(Topics, SendAndFetch, Committing, Undecided, Rebalancing, Reading):
    """Everything. Subclass it as ``Test...`` beside a ``harness`` fixture."""
