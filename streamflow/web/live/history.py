"""What one feed has published lately, and the cursors that point into it."""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Sequence
from typing import Final

from streamflow.web import encoding
from streamflow.web.live.channel import Delta
from streamflow.web.live.filters import Item

DELTAS_MAX: Final = 2_000


class History:
    """Changes of up to ``changes_max`` rows, numbered; cursors of another history mean nothing to it."""

    def __init__(self, changes_max: int) -> None:
        self.id = secrets.token_hex(4)
        self.seq = 0
        self._changes_max = changes_max
        self._deltas: deque[Delta] = deque()
        self._changes = 0
        self._forgotten_seq = 0  # the last one that is not here any more

    def add(self, items: Sequence[Item], position: bytes, before: bytes) -> Delta:
        self.seq += 1
        delta = Delta(self.seq, items, position, before)
        self._deltas.append(delta)
        self._changes += len(items)
        while self._changes > self._changes_max or len(self._deltas) > DELTAS_MAX:
            old = self._deltas.popleft()
            self._changes -= len(old.items)
            self._forgotten_seq = old.seq
        return delta

    def cursor(self, seq: int, fingerprint: str) -> bytes:
        """Of a subscription with this filter that has got everything up to ``seq``."""
        return b"%b.%d.%b" % (self.id.encode(), seq, fingerprint.encode())

    def after(self, cursor: str, fingerprint: str) -> list[Delta] | None:
        """What came after the cursor, or ``None`` if that is not known any more."""
        history_id, _, rest = cursor.partition(".")
        seq_text, _, theirs = rest.partition(".")
        if history_id != self.id or theirs != fingerprint or not encoding.is_number(seq_text):
            return None
        seq = int(seq_text)
        if not self._forgotten_seq <= seq <= self.seq:
            return None
        return [delta for delta in self._deltas if delta.seq > seq]
