"""What things are called in Redis, and how an entry's id and an offset are one and the same.

``offset = ms << 20 | seq``: offsets rise as ids do, so a partition is an ordinary stream that any client
can write with a plain ``XADD``. Offsets are ordered and never counted, so the gaps between them are free.
"""

from __future__ import annotations

from dataclasses import dataclass

from streamflow.errors import StreamflowError
from streamflow.transports.base import TopicPartition

SEQUENCE_BITS = 20
SEQUENCES = 1 << SEQUENCE_BITS
_SEQUENCE_MASK = SEQUENCES - 1
MS_END = 1 << 43  # (2^43 ms << 20) is the least that does not fit a signed 64-bit offset


class IdOutOfRange(StreamflowError):
    """An entry's id has no offset: its sequence number needs more than 20 bits, or its time more than 43."""


def offset_of(ms: int, sequence: int) -> int:
    """Raises IdOutOfRange."""
    if not (0 <= sequence < SEQUENCES and 0 <= ms < MS_END):
        raise IdOutOfRange(
            f"entry id {ms}-{sequence}: an offset has 43 bits for the ms and 20 for the sequence number"
        )
    return ms << SEQUENCE_BITS | sequence


def offset_of_id(entry_id: bytes) -> int:
    """The offset of ``b"ms-seq"``. Raises IdOutOfRange."""
    ms, _, sequence = entry_id.partition(b"-")
    return offset_of(int(ms), int(sequence))


def offset_after(entry_id: bytes) -> int:
    """The offset behind a stream's last id, also where that id has no offset of its own; 0 for ``0-0``."""
    ms, _, sequence = entry_id.partition(b"-")
    offset = min(int(ms), MS_END - 1) << SEQUENCE_BITS | min(int(sequence), _SEQUENCE_MASK)
    return offset + 1 if offset else 0


def id_of(offset: int) -> bytes:
    return b"%d-%d" % (offset >> SEQUENCE_BITS, offset & _SEQUENCE_MASK)


def id_before(offset: int) -> bytes:
    """The greatest id below ``offset``: XREAD from there begins with the first entry at or after it."""
    return id_of(max(0, offset - 1))


@dataclass(frozen=True, slots=True)
class Names:
    """Keys of one database. ``group``: the app's id; ``stream_name`` has ``{topic}`` and ``{partition}``."""

    prefix: str
    group: str
    stream_name: str

    def stream(self, spot: TopicPartition) -> str:
        return self.stream_name.replace("{topic}", spot[0]).replace("{partition}", str(spot[1]))

    def snapshot(self, spot: TopicPartition) -> str:
        """Hash: the newest entry of each key below where the stream begins."""
        return f"{self.stream(spot)}:snapshot"

    def marks(self, spot: TopicPartition) -> str:
        """Hash: how far compaction has come."""
        return f"{self.stream(spot)}:compaction"

    def tombstones(self, spot: TopicPartition) -> str:
        """List: tombstones in the snapshot, oldest first."""
        return f"{self.stream(spot)}:tombstones"

    @property
    def topics(self) -> str:
        """Hash: topic -> its partitions and limits."""
        return f"{self.prefix}:topics"

    @property
    def decided(self) -> str:
        """List: commits that are decided and not wholly published yet, of all groups, oldest first."""
        return f"{self.prefix}:decided"

    def of_group(self, what: str) -> str:
        return f"{self.prefix}:{self.group}:{what}"

    @property
    def offsets(self) -> str:
        """Hash: ``topic:partition`` -> committed offset, and ``...:read`` how many entries lie before it."""
        return self.of_group("offsets")

    @property
    def commits(self) -> str:
        """Hash: member -> number of its newest decided commit."""
        return self.of_group("commits")

    def ends(self, member_id: str) -> str:
        """Hash: stream -> id of the last entry that the member's newest commit put there."""
        return self.of_group(f"ends:{member_id}")

    def staged(self, member_id: str, number: int, attempt: int) -> str:
        """List: records of a large commit, heads and data in turn, seen by nobody."""
        return self.of_group(f"staged:{member_id}:{number}:{attempt}")


def spot_field(spot: TopicPartition) -> str:
    return f"{spot[0]}:{spot[1]}"
