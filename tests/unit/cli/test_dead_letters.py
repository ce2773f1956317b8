"""A dead letter as the commands show it."""

from __future__ import annotations

import pytest

from streamflow.engine.dead_letters import dead_letter, shortened
from streamflow.engine.letters import Letter
from streamflow.errors import ConfigurationError
from streamflow.transports.base import Record


def a_letter(value: bytes) -> Record:
    return dead_letter(
        "in-dead-letters",
        1,
        source=("in", 0, 7),
        key=b"k",
        value=value,
        headers=[("cut", b"the event's own")],
        reason="wrong-type",
        error="no number",
    )


def shown(record: Record) -> Letter:
    return Letter("in-dead-letters", 0, 3, record.key, record.value, tuple(record.headers))


def test_a_whole_letter_is_restored_with_the_events_own_headers() -> None:
    letter = shown(a_letter(b"abc"))
    assert letter.cut is None
    assert letter.restored() == Record("in", 0, b"k", b"abc", (("cut", b"the event's own"),))


def test_a_letter_that_was_cut_says_how_much_there_was_however_often_it_was_cut() -> None:
    once = shortened(a_letter(b"x" * 100_000))
    assert once is not None
    twice = shortened(once)
    assert twice is not None
    for record in (once, twice):
        assert shown(record).cut == "value of 100000 bytes, key of 1 bytes"
        assert shown(record).source == ("in", 0, 7)
        with pytest.raises(ConfigurationError, match="only the beginning"):
            shown(record).restored()
    assert shortened(twice) is None
