"""What each error code says of each request of a transaction: whether it was obeyed, and what to do next.

A row is there for each code that a broker gives to that request, in the versions that we speak; `verdict`
has an answer for the others too. Where an answer may come behind the append to the coordinator's log, or to
the partition's, it is `Outcome.UNCLEAR`. For all requests but EndTxn this costs nothing: they may be sent
again as they are, and the abort ends whatever they left. EndTxn decides, so there it matters: only an answer
that is given *before* anything is appended says that a commit had no effect, and only if none before it was
unclear.

What a coordinator answers behind an append (Kafka's `TransactionStateManager.appendTransactionToLog`): 15 for
a replication that timed out or lacks replicas, 16 for a leader or a coordinator's epoch that has changed, 14
while the log is read anew, -1 for the rest; `TransactionCoordinator.endTransaction` says 51 behind it, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any, Final, NamedTuple

from aiokafka.protocol.produce import ProduceRequest
from aiokafka.protocol.transaction import (
    AddOffsetsToTxnRequest,
    AddPartitionsToTxnRequest,
    EndTxnRequest,
    InitProducerIdRequest,
)

from streamflow.transports.kafka import protocol


class Asked(Enum):
    """A request, by the protocol's name."""

    INIT = "InitProducerId"
    ADD_PARTITIONS = "AddPartitionsToTxn"
    PRODUCE = "Produce"
    ADD_OFFSETS = "AddOffsetsToTxn"
    OFFSETS = "TxnOffsetCommit"
    END = "EndTxn"
    OTHER = "any other"


class Outcome(Enum):
    """What became of one request. ``FENCED``: not obeyed, and nothing of this life will be any more."""

    OBEYED = "obeyed"
    NOT_OBEYED = "not obeyed"
    UNCLEAR = "unclear"
    FENCED = "fenced"


class Next(Enum):
    """What the caller does."""

    GO_ON = "go on"
    SEE_OTHERS = "another partition's code says why"
    ASK_AGAIN = "send the same again"
    FIND_COORDINATOR = "look the coordinator up, and send the same again"
    FIND_LEADER = "look the leader up, and send the same again"
    SPLIT = "send each half by itself, and set aside the single record that is not taken"
    REFUSE_TOPIC = "set aside all records for the topic"
    NEW_LIFE = "begin a new life of the producer"
    REJOIN = "the assignment is void"
    GIVE_UP = "abort"
    STOP = "somebody must change a setting or a right"


class Verdict(NamedTuple):
    """One row: ``why`` is for people; for `Next.STOP` it says what to do."""

    outcome: Outcome
    next: Next
    why: str


Rows = dict[int, Verdict]


def _rows(codes: Iterable[int], outcome: Outcome, then: Next, why: str) -> dict[int, Verdict]:
    return dict.fromkeys(codes, Verdict(outcome, then, why))


def _stops(*codes: int) -> dict[int, Verdict]:
    return {code: Verdict(Outcome.NOT_OBEYED, Next.STOP, protocol.DENIALS[code]) for code in codes}


OBEYED: Final = _rows({0}, Outcome.OBEYED, Next.GO_ON, "the answer of success")

# Asking a coordinator for what may be repeated: the same request once more has the same effect as one.
COORDINATOR: Final[Rows] = (
    _rows({7}, Outcome.UNCLEAR, Next.FIND_COORDINATOR, "its log did not answer in time")
    | _rows(
        {15},
        Outcome.UNCLEAR,
        Next.FIND_COORDINATOR,
        "there is none, or its append was not replicated in time and may be yet",
    )
    | _rows(
        {16},
        Outcome.UNCLEAR,
        Next.FIND_COORDINATOR,
        "it is another broker, which may have become it behind the append",
    )
    | _rows({13}, Outcome.UNCLEAR, Next.ASK_AGAIN, "the connection to the coordinator broke")
    | _rows({14}, Outcome.UNCLEAR, Next.ASK_AGAIN, "it reads its log, perhaps anew behind the append")
    | _rows({51}, Outcome.UNCLEAR, Next.ASK_AGAIN, "a change of this transaction is under way")
)

FENCED_LIFE: Final[Rows] = (
    _rows({47, 90}, Outcome.FENCED, Next.NEW_LIFE, "a newer life has begun, or the transaction took too long")
    | _rows({49, 59}, Outcome.FENCED, Next.NEW_LIFE, "the producer id is not known any more: it has expired")
    | _rows({48}, Outcome.FENCED, Next.NEW_LIFE, "the transaction is being aborted, or there is none")
    | _rows({52}, Outcome.FENCED, Next.NEW_LIFE, "a newer coordinator has taken over")
    | _rows({120}, Outcome.FENCED, Next.NEW_LIFE, "the broker asks for the abort")
)

# A request that joins something to the open transaction, before its decision.
JOINING: Final[Rows] = (
    OBEYED
    | COORDINATOR
    | FENCED_LIFE
    | _rows({51}, Outcome.NOT_OBEYED, Next.ASK_AGAIN, "the transaction before still gets its end written")
    | _stops(53)
)

TABLE: Final[Mapping[Asked, Rows]] = {
    # Obeyed: a new life has begun, older ones are fenced, and what they left open is decided.
    Asked.INIT: OBEYED
    | COORDINATOR
    | _rows(
        {51}, Outcome.UNCLEAR, Next.ASK_AGAIN, "older lives are fenced, what they left open is being ended"
    )
    | _rows({47, 90}, Outcome.FENCED, Next.NEW_LIFE, "another life has begun at the same moment")
    | _stops(31, 50, 53),
    # Obeyed: the coordinator will write the transaction's end to these partitions.
    Asked.ADD_PARTITIONS: JOINING
    | _rows(
        protocol.LEADER_MOVED, Outcome.NOT_OBEYED, Next.FIND_LEADER, "the broker has not heard of a partition"
    )
    | _rows({17}, Outcome.NOT_OBEYED, Next.REFUSE_TOPIC, "there can't be a topic of that name")
    | _rows({29}, Outcome.NOT_OBEYED, Next.REFUSE_TOPIC, "this user may not write to the topic")
    | _rows({55}, Outcome.NOT_OBEYED, Next.SEE_OTHERS, "all or none: another partition was not taken"),
    # Obeyed: the batch is in the log, and counts with the transaction. By its sequence number the broker
    # knows one that comes twice.
    Asked.PRODUCE: OBEYED
    | FENCED_LIFE
    | _rows({3, 5, 9, 74, 75}, Outcome.NOT_OBEYED, Next.FIND_LEADER, "the broker does not lead the partition")
    | _rows({6, 56}, Outcome.UNCLEAR, Next.FIND_LEADER, "the leader has changed, perhaps behind the append")
    | _rows({7, 13}, Outcome.UNCLEAR, Next.ASK_AGAIN, "the replicas did not acknowledge in time")
    | _rows({20}, Outcome.UNCLEAR, Next.ASK_AGAIN, "too few replicas are in sync, noticed behind the append")
    | _rows({19}, Outcome.NOT_OBEYED, Next.ASK_AGAIN, "too few replicas are in sync")
    | _rows({2}, Outcome.NOT_OBEYED, Next.ASK_AGAIN, "the batch was damaged on its way")
    | _rows({78, 89}, Outcome.NOT_OBEYED, Next.ASK_AGAIN, "not now")
    | _rows({14, 15, 16, 51}, Outcome.NOT_OBEYED, Next.ASK_AGAIN, "the transaction could not be looked up")
    | _rows(protocol.TOO_LARGE, Outcome.NOT_OBEYED, Next.SPLIT, "larger than the topic takes")
    | _rows(protocol.RECORD_INVALID, Outcome.NOT_OBEYED, Next.SPLIT, "a record of it will never be taken")
    | _rows({17}, Outcome.NOT_OBEYED, Next.REFUSE_TOPIC, "there can't be a topic of that name")
    | _rows({29}, Outcome.NOT_OBEYED, Next.REFUSE_TOPIC, "this user may not write to the topic")
    | _rows({45}, Outcome.NOT_OBEYED, Next.GIVE_UP, "a batch before it is missing in the log")
    | _rows({46}, Outcome.OBEYED, Next.GIVE_UP, "it is in the log, and its offset is not known any more")
    | _stops(31, 53),
    # Obeyed: the coordinator will write the transaction's end to the group's log.
    Asked.ADD_OFFSETS: JOINING | _stops(30),
    # Obeyed: the offsets lie in the group's log, and count with the transaction.
    Asked.OFFSETS: JOINING
    | _rows({22, 25, 82}, Outcome.FENCED, Next.REJOIN, "the group has another generation, or other members")
    | _rows({27}, Outcome.NOT_OBEYED, Next.GIVE_UP, "the group is in a rebalance")
    | _rows({3}, Outcome.NOT_OBEYED, Next.GIVE_UP, "the broker has not heard of a partition")
    | _rows({12, 28}, Outcome.NOT_OBEYED, Next.GIVE_UP, "the offsets' metadata are too large")
    | _rows({24}, Outcome.NOT_OBEYED, Next.GIVE_UP, "the group can't have that name")
    | _rows({29}, Outcome.NOT_OBEYED, Next.STOP, "this user may not read a topic; allow it Read on it")
    | _stops(30),
    # Obeyed: the decision is in the coordinator's log. What is fenced or denied is so before the append, but
    # may be the trace of an earlier request's success.
    Asked.END: OBEYED
    | COORDINATOR
    | _rows({-1}, Outcome.UNCLEAR, Next.FIND_COORDINATOR, "something failed, perhaps behind the append")
    | _rows(
        {47, 90}, Outcome.FENCED, Next.NEW_LIFE, "a newer life has begun, or the transaction took too long"
    )
    | _rows({49}, Outcome.FENCED, Next.NEW_LIFE, "the producer id is not known any more: it has expired")
    | _rows({48}, Outcome.FENCED, Next.NEW_LIFE, "the transaction is being aborted, or there is none")
    | _rows({35, 42}, Outcome.NOT_OBEYED, Next.GIVE_UP, "the coordinator does not take such a request")
    | _stops(53),
    # Requests outside a transaction, for which only "not now" matters here.
    Asked.OTHER: OBEYED | COORDINATOR | FENCED_LIFE | _stops(*protocol.DENIALS),
}

NOT_LISTED: Final = Verdict(
    Outcome.UNCLEAR, Next.GIVE_UP, "not a code of this request; nothing is decided, and the abort ends it"
)
DECISION_NOT_LISTED: Final = Verdict(
    Outcome.UNCLEAR, Next.FIND_COORDINATOR, "not a code of this request; nobody knows what it follows"
)

_ASKED: Final[Mapping[type[Any], Asked]] = {
    InitProducerIdRequest: Asked.INIT,
    AddPartitionsToTxnRequest: Asked.ADD_PARTITIONS,
    ProduceRequest: Asked.PRODUCE,
    AddOffsetsToTxnRequest: Asked.ADD_OFFSETS,
    protocol.TxnOffsetCommitRequest: Asked.OFFSETS,
    EndTxnRequest: Asked.END,
}


def asked_by(request: object) -> Asked:
    """Which row of the table a request has."""
    return _ASKED.get(type(request), Asked.OTHER)


def verdict(asked: Asked, code: int) -> Verdict:
    """What the answer with this error code to that request means."""
    return TABLE[asked].get(code, DECISION_NOT_LISTED if asked is Asked.END else NOT_LISTED)
