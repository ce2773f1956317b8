"""Wrong tokens cost time: each address that shows them waits, longer and longer."""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from streamflow.clock import Clock

FREE: Final = 5
"""So many wrong tokens cost no time: somebody may have mistyped."""
WAIT_MS: Final = 1_000.0
WAIT_MS_MAX: Final = 60_000.0
FORGOTTEN_MS: Final = 600_000.0
ADDRESSES_MAX: Final = 10_000


@dataclass(slots=True)
class _Seen:
    count: int = 0
    last_ms: float = 0.0
    until_ms: float = 0.0

    def add(self, now_ms: float) -> None:
        self.count += 1
        self.last_ms = now_ms
        if self.count > FREE:
            # No more than 10: 2 to the power of what somebody else chooses has no end.
            self.until_ms = now_ms + min(WAIT_MS * 2.0 ** min(self.count - FREE - 1, 10), WAIT_MS_MAX)

    def take_back(self) -> None:
        self.count -= 1
        if self.count <= FREE:
            self.until_ms = 0.0


class Guesses:
    """Counts wrong tokens by address; of an IPv6 address by its /64, which one machine may have all of.

    A right token does not take back what was wrong: whoever has one would guess between its uses. Only time
    does, and what is forgotten first when there are `ADDRESSES_MAX` is what was seen longest ago.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._seen: OrderedDict[str, _Seen] = OrderedDict()

    def __len__(self) -> int:
        return len(self._seen)

    def wait_s(self, address: str | None) -> float:
        """How long this address has still to wait before another token of it is looked at."""
        seen = self._seen.get(network(address))
        return 0.0 if seen is None else max(0.0, seen.until_ms - self._clock.monotonic_ms()) / 1_000

    def wrong(self, address: str | None) -> bool:
        """This address has shown a token that is none, or that has still to be looked at: see `take_back`.

        True where it has to wait from now on.
        """
        place, now_ms = network(address), self._clock.monotonic_ms()
        seen = self._seen.pop(place, None)
        if seen is None or now_ms - max(seen.last_ms, seen.until_ms) >= FORGOTTEN_MS:
            seen = _Seen()
        seen.add(now_ms)
        self._seen[place] = seen
        while len(self._seen) > ADDRESSES_MAX:
            self._seen.popitem(last=False)
        return seen.count == FREE + 1

    def take_back(self, address: str | None) -> None:
        """What was counted as wrong before it was looked at is right."""
        seen = self._seen.get(network(address))
        if seen is not None:
            seen.take_back()


def network(address: str | None) -> str:
    """What one machine can take addresses of: an IPv4 address, or a /64 of IPv6."""
    try:
        found = ipaddress.ip_address((address or "").partition("%")[0])
    except ValueError:
        return address or ""
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            return str(found.ipv4_mapped)
        return str(ipaddress.IPv6Network((found, 64), strict=False))
    return str(found)


def is_loopback(address: str | None) -> bool:
    """Whether ``address`` can be of this machine only."""
    try:
        return ipaddress.ip_address(address or "").is_loopback
    except ValueError:
        return False
