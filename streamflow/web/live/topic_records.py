"""Records of a topic on their way to clients: shown and encoded once, for all who want the same of them."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from streamflow.query.follow import Ends
from streamflow.query.value_paths import ValueTest
from streamflow.web import encoding
from streamflow.web.live.channel import Message, Outgoing
from streamflow.web.live.session import FRAME_BYTES, Listener, Told
from streamflow.web.live.wire import frame
from streamflow.web.messages import splice
from streamflow.web.rights import ALL_KEYS, KeyLimits

CURSOR_CHARS_MAX: Final = 16_384
_CURSOR: Final = re.compile(r"([0-9a-f]+)~(?:[0-9]+:[0-9]+(?:,[0-9]+:[0-9]+)*)?")

Positions = Mapping[int, int]
"""Partition -> the next offset."""


def cursor_text(topic_id: str, positions: Positions) -> str:
    """Where a subscription goes on, on any worker: what it was told is what lies before these offsets."""
    return f"{topic_id}~" + ",".join(f"{partition}:{at}" for partition, at in sorted(positions.items()))


def cursor_of(text: str) -> Ends | None:
    """The topic and the positions that a cursor names; ``None`` for what is none."""
    found = _CURSOR.fullmatch(text) if len(text) <= CURSOR_CHARS_MAX else None
    if found is None:
        return None
    pairs = [pair.split(":") for pair in text.partition("~")[2].split(",") if pair]
    return Ends(found[1], {int(partition): int(at) for partition, at in pairs})


class TopicRecord:
    """One committed record. ``raw``: as a member of ``records``; ``key`` and ``value`` as JSON has them."""

    __slots__ = ("key", "offset", "partition", "raw", "value")

    def __init__(self, partition: int, offset: int, shown: Mapping[str, object]) -> None:
        self.partition = partition
        self.offset = offset
        self.key = shown["key"]
        self.value = shown["value"]
        self.raw = encoding.encode(shown)


@dataclass(frozen=True, slots=True)
class TopicFilter:
    """Which records a subscription gets. Equal filters have the same frames."""

    where: str = ""
    limits: KeyLimits = ALL_KEYS
    test: ValueTest | None = field(default=None, compare=False)

    @classmethod
    def of(cls, where: str | None, limits: KeyLimits) -> TopicFilter:
        """Raises ValueError for a test that is none."""
        if where is None:
            return cls("", limits)
        test = ValueTest.of(where)
        return cls(test.text, limits, test)

    @property
    def is_all(self) -> bool:
        return self.test is None and self.limits == ALL_KEYS

    def wants(self, record: TopicRecord) -> bool:
        return self.limits.allows(record.key) and (self.test is None or self.test.holds(record.value))


def events_frames(
    id_json: bytes, topic_id: str, records: Sequence[TopicRecord], before: Positions, after: Positions
) -> list[bytes]:
    """`events` messages of about `FRAME_BYTES` each, every one with the cursor behind it.

    ``records`` are those that are told of what lies between two positions, each partition's in its order.
    """
    frames: list[bytes] = []
    part: list[bytes] = []
    size = 0
    reached = dict(before)
    for record in records:
        if part and size + len(record.raw) > FRAME_BYTES:
            frames.append(_events(id_json, topic_id, reached, part))
            part, size = [], 0
        part.append(record.raw)
        size += len(record.raw) + 1
        reached[record.partition] = record.offset + 1
    frames.append(_events(id_json, topic_id, after, part))
    return frames


def _events(id_json: bytes, topic_id: str, reached: Positions, part: list[bytes]) -> bytes:
    cursor = cursor_text(topic_id, reached).encode()
    return splice("events", id_json, b'"cursor":"%b","records":[%b]}' % (cursor, b",".join(part)))


class TopicListener(Listener):
    """A subscription of a topic, as what goes out to many sees it."""

    __slots__ = ()

    def offer(self, events: Events) -> None:
        """Records, to a client that does not take them at once."""
        raise NotImplementedError

    def offer_note(self, name: str, tail: bytes, *, lasts: bool) -> None:
        """The same of a message without records; one that ``lasts`` is lost on nobody."""
        raise NotImplementedError


class Events:
    """New records of one filter: encoded once for each subscription id, mostly one in all.

    ``before`` and ``after``: the positions between which they lie.
    """

    __slots__ = ("_frames", "_topic_id", "_wires", "after", "before", "records")

    def __init__(
        self, topic_id: str, records: Sequence[TopicRecord], before: Positions, after: Positions
    ) -> None:
        self.records = records
        self.before = before
        self.after = after
        self._topic_id = topic_id
        self._frames: dict[bytes, list[bytes]] = {}  # id as JSON -> messages
        self._wires: dict[bytes, bytes] = {}  # id as JSON -> the messages as WebSocket frames

    def frames(self, id_json: bytes) -> list[bytes]:
        frames = self._frames.get(id_json)
        if frames is None:
            frames = events_frames(id_json, self._topic_id, self.records, self.before, self.after)
            self._frames[id_json] = frames
        return frames

    def wire(self, id_json: bytes) -> bytes:
        wire = self._wires.get(id_json)
        if wire is None:
            wire = self._wires[id_json] = b"".join(map(frame, self.frames(id_json)))
        return wire

    def offer_to(self, sub: TopicListener) -> None:
        sub.offer(self)


class Note(Told):
    """A message without records, for all subscriptions of a filter."""

    __slots__ = ("_lasts",)

    def __init__(self, name: str, tail: bytes, *, lasts: bool = False) -> None:
        super().__init__(name, tail)
        self._lasts = lasts

    def offer_to(self, sub: TopicListener) -> None:
        sub.offer_note(self._name, self._tail, lasts=self._lasts)


class TopicChannel:
    """The live subscriptions that get the very same messages. ``number``: the next one of what goes out."""

    def __init__(self, topic_id: str, view: TopicFilter, number: Callable[[], int], at: Positions) -> None:
        self.filter = view
        self._topic_id = topic_id
        self._number = number
        self._at = at  # what lies before was seen
        self._told = at  # the positions that were told last
        self._subscriptions: dict[TopicListener, None] = {}
        self._sequence: tuple[TopicListener, ...] | None = None  # the same, as messages have it
        self._out: deque[Outgoing[TopicListener]] = deque()

    @property
    def subscriptions(self) -> tuple[TopicListener, ...]:
        if self._sequence is None:
            self._sequence = tuple(self._subscriptions)
        return self._sequence

    def add(self, sub: TopicListener) -> None:
        self._subscriptions[sub] = None
        self._sequence = None

    def discard(self, sub: TopicListener) -> None:
        if self._subscriptions.pop(sub, self) is None:
            self._sequence = None

    def see(self, records: Sequence[TopicRecord], after: Positions) -> None:
        """These came, and with them these positions were reached, which nobody changes any more."""
        wanted = records if self.filter.is_all else list(filter(self.filter.wants, records))
        before, self._at = self._at, after
        if wanted:
            self._told = self._at
            self._put(Events(self._topic_id, wanted, before, self._at))

    def tell(self, note: Note) -> None:
        self._put(note)

    def tell_position(self, note: Note) -> None:
        """Where all that came was none of its: so a cursor is never far behind."""
        if self._told != self._at:
            self._told = self._at
            self._put(note)

    def _put(self, message: Message[TopicListener]) -> None:
        self._out.append(Outgoing(self._number(), message, self.subscriptions))

    @property
    def has_something(self) -> bool:
        return bool(self._out)

    def next(self) -> Outgoing[TopicListener] | None:
        return self._out.popleft() if self._out else None
