"""The producer, without a broker: its place in each partition's sequence, and batches that are split."""

from __future__ import annotations

from streamflow.transports.kafka.producer import SEQUENCE_MASK, Sequences, Writing
from streamflow.transports.kafka.record_batches import build
from tests.contract.harness import numbered

SPOT = ("log", 0)


def test_sequence_numbers_begin_again_behind_the_largest() -> None:
    sequences = Sequences()
    sequences.advance(SPOT, SEQUENCE_MASK - 2)
    assert sequences.next_of(SPOT) == SEQUENCE_MASK - 2
    sequences.advance(SPOT, 5)
    assert sequences.next_of(SPOT) == 2


def test_a_new_life_begins_every_sequence_at_zero() -> None:
    sequences = Sequences()
    sequences.advance(SPOT, 5)
    sequences.clear()
    assert sequences.next_of(SPOT) == 0


def test_the_halves_of_a_batch_take_its_place_in_order() -> None:
    records = numbered("log", 0, range(6))

    queues = build(records, range(4), 1 << 20, 0, transactional=False)
    queues[SPOT].extend(build(records, range(4, 6), 1 << 20, 0, transactional=False)[SPOT])
    writing = Writing(records, queues)
    halves = [build(records, part, 1 << 20, 0, transactional=False)[SPOT] for part in (range(2), range(2, 4))]
    writing.split(queues[SPOT][0], halves)
    assert [batch.indices for batch in writing.queues[SPOT]] == [[0, 1], [2, 3], [4, 5]]
