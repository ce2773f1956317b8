"""The Redis transport where no server is needed: ids, entries, counts, who gets what, URLs."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamflow.errors import ConfigurationError, RecordTooLarge
from streamflow.settings import Settings
from streamflow.transports.base import Record
from streamflow.transports.connect import redis_settings
from streamflow.transports.records import check_sizes, grouped
from streamflow.transports.redis_streams import RedisSettings
from streamflow.transports.redis_streams.entries import chunks, columns, pack_headers, unpack_headers
from streamflow.transports.redis_streams.lag import UNKNOWN, Extent, LagCounts
from streamflow.transports.redis_streams.member_metadata import MemberMetadata, assign, assignments_of
from streamflow.transports.redis_streams.names import (
    MS_END,
    SEQUENCES,
    IdOutOfRange,
    id_before,
    id_of,
    offset_of,
    offset_of_id,
)

SPOT = ("events", 0)


@given(st.integers(0, MS_END - 1), st.integers(0, SEQUENCES - 1))
def test_an_offset_is_an_id_and_fits_64_bits(ms: int, sequence: int) -> None:
    offset = offset_of(ms, sequence)
    assert id_of(offset) == b"%d-%d" % (ms, sequence)
    assert offset_of_id(id_of(offset)) == offset < 2**63
    if offset:
        assert offset_of_id(id_before(offset)) == offset - 1


@pytest.mark.parametrize("entry_id", [b"5-1048576", b"8796093022208-0", b"99999999999999999-1"])
def test_an_id_that_does_not_fit_is_refused_wherever_it_stands(entry_id: bytes) -> None:
    with pytest.raises(IdOutOfRange):
        columns([(b"1-0", [b"v", b"x"]), (entry_id, [b"v", b"x"])])


records = st.builds(
    Record,
    st.just("events"),
    st.just(0),
    st.none() | st.binary(max_size=8),
    st.none() | st.binary(max_size=40),
    st.lists(st.tuples(st.text(max_size=4), st.binary(max_size=4)), max_size=2).map(tuple),
    st.none() | st.integers(0, 2**41),
)


@given(st.lists(st.lists(records, max_size=12), max_size=3), st.integers(1, 7), st.integers(1, 100))
def test_chunks_hold_all_records_in_order_within_their_bounds(
    streams: list[list[Record]], records_max: int, bytes_max: int
) -> None:
    """Reads the chunks as ``lua/lib.lua`` does."""
    made = chunks([(f"s{n}", mine) for n, mine in enumerate(streams)], records_max, bytes_max)
    found: dict[str, list[tuple[bytes, list[bytes]]]] = {}
    for chunk in made:
        runs, lengths = msgspec.msgpack.decode(chunk.head)
        assert 1 <= sum(count for _, count, _ in runs) <= records_max
        # The script looks up where each run begins before it writes any of them.
        assert len({stream for stream, _, _ in runs}) == len(runs)
        at = used = 0
        for stream, count, wide in runs:
            for _ in range(count):
                fields: list[bytes] = []
                for name in (b"v", b"k", b"t", b"h") if wide else (b"v", b"k"):
                    if lengths[used] >= 0:
                        fields += [name, chunk.data[at : at + lengths[used]]]
                        at += lengths[used]
                    used += 1
                assert fields
                mine = found.setdefault(stream, [])
                mine.append((b"%d-0" % (len(mine) + 1), fields))
        assert (at, used) == (len(chunk.data), len(lengths))
    for n, wanted in enumerate(streams):
        got = columns(found.get(f"s{n}", []))
        assert list(got.keys) == [record.key for record in wanted]
        assert list(got.values) == [record.value for record in wanted]
        stamps = [i + 1 if r.timestamp_ms is None else r.timestamp_ms for i, r in enumerate(wanted)]
        assert got.timestamps_ms == stamps
        headers = got.headers or [()] * len(wanted)
        assert [list(h) for h in headers] == [list(record.headers) for record in wanted]


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 3))))
def test_records_are_grouped_by_partition_in_their_order(spots: list[tuple[str, int]]) -> None:
    made = [Record(topic, p, None, b"%d" % n) for n, (topic, p) in enumerate(spots)]
    found = grouped(made)
    assert set(found) == set(spots)
    for spot, mine in found.items():
        assert mine == [record for record in made if record[:2] == spot]


def test_a_record_that_is_too_large_is_refused_and_the_others_are_not() -> None:
    made = [Record("a", 0, b"k" * 4, b"v" * n) for n in (6, 7, 6)]
    check_sizes(made[:1], {("a", 0): 10})
    with pytest.raises(RecordTooLarge) as refused:
        check_sizes(made, {("a", 0): 10})
    assert list(refused.value.refused) == [1]
    check_sizes([Record("a", 0, None, None), *made], {("a", 0): None})


def test_headers_that_somebody_else_wrote_otherwise_are_kept_whole() -> None:
    headers = [("a", b"\xff"), ("a", b"x"), ("a", None), ("a", b"")]
    assert unpack_headers(pack_headers(headers)) == headers
    for text in (b"no json", b'{"a": 1}', b"[1]", b'[["a"]]', b'[["a", null]]'):
        assert unpack_headers(text) == [("h", text)]


def test_entries_are_counted_as_they_are_read() -> None:
    counts = LagCounts()
    counts.begin(SPOT, 100, 7)
    assert [counts.before(SPOT, offset) for offset in (100, 101)] == [7, UNKNOWN]
    counts.add(SPOT, 100, [103, 110, 111], 112)
    assert [counts.before(SPOT, offset) for offset in (100, 103, 104, 112, 113)] == [7, 7, 8, 10, UNKNOWN]
    counts.settle(SPOT, 111)
    counts.add(SPOT, 112, [120], 121)
    assert [counts.before(SPOT, offset) for offset in (110, 111, 121)] == [UNKNOWN, 9, 11]
    counts.add(SPOT, 111, [111, 120], 121)  # read again from what is committed
    assert counts.before(SPOT, 121) == 11
    counts.add(SPOT, 500, [500], 501)  # a seek to elsewhere: what lies between is not known
    assert counts.before(SPOT, 501) == UNKNOWN
    counts.begin(SPOT, None, 50)  # nothing committed: the first read begins behind what was trimmed
    counts.add(SPOT, 1_000, [1_000, 1_001], 1_002)
    assert counts.before(SPOT, 1_001) == 51


def test_a_new_assignment_keeps_what_was_counted_where_the_reader_goes_on() -> None:
    counts = LagCounts()
    counts.begin(SPOT, 100, 7)
    counts.add(SPOT, 100, [103, 110, 111], 112)
    counts.begin(SPOT, 104, 8)  # assigned again: committed up to there, read up to 112
    counts.add(SPOT, 112, [120], 121)
    assert [counts.before(SPOT, offset) for offset in (104, 111, 121)] == [8, 9, 11]
    counts.begin(SPOT, 111, UNKNOWN)  # its last owner did not know; we do
    assert counts.before(SPOT, 121) == 11
    counts.begin(SPOT, 111, 50)  # somebody has set it: the server's number counts
    assert [counts.before(SPOT, offset) for offset in (111, 121)] == [50, UNKNOWN]
    counts.begin(SPOT, 200, UNKNOWN)
    assert counts.before(SPOT, 200) == UNKNOWN


def test_entries_that_went_unread_are_found_whenever_one_looks_and_count_as_passed() -> None:
    counts = LagCounts()
    counts.begin(SPOT, 100, 7)
    counts.add(SPOT, 100, [103, 110], 111)
    # What was read may lie there still: so nothing can be told now.
    assert counts.gone(SPOT, 111, Extent(added=20, length=11, first=103, end=300)) is None
    # 7 + 2 were passed, 20 came and 6 are there: 5 are gone. And not again.
    stream = Extent(added=20, length=6, first=200, end=300)
    assert counts.gone(SPOT, 111, stream) == 5
    assert counts.gone(SPOT, 111, stream) == 0
    assert [counts.before(SPOT, offset) for offset in (110, 111)] == [8, 14]
    counts.add(SPOT, 111, [200, 210, 220, 230, 240, 299], 300)
    assert counts.before(SPOT, 300) == 20
    # 3 more came, of which 1 was read; found at the end, where nothing is left to read.
    counts.add(SPOT, 300, [330], 331)
    assert counts.gone(SPOT, 331, Extent(added=23, length=9, first=103, end=331)) == 2
    # Reading goes back: what was found is found again, and is nothing new.
    counts.settle(SPOT, 200)
    counts.add(SPOT, 200, [200, 210], 211)
    assert counts.gone(SPOT, 211, Extent(added=23, length=1, first=330, end=331)) == 4
    counts.add(SPOT, 211, [330], 331)
    assert counts.before(SPOT, 331) == 23


def test_who_begins_at_the_end_misses_nothing() -> None:
    counts = LagCounts()
    counts.begin(SPOT, None, 2, first=50)
    assert counts.gone(SPOT, 90, Extent(added=10, length=8, first=50, end=90)) == 0
    counts.begin(SPOT, None, 2, first=50)
    assert counts.gone(SPOT, 50, Extent(added=10, length=0, first=90, end=90)) == 8


def metadata(*topics: str) -> bytes:
    return msgspec.json.encode(MemberMetadata("http://x", list(topics)))


def shares(text: bytes) -> dict[str, list[tuple[str, list[int]]]]:
    return {member.member_id: member.owned for member in assignments_of(text)}


def test_members_share_out_what_is_there_and_keep_what_they_had() -> None:
    counts = {"left": 4, "right": 4}
    alone = assign([b"a", metadata("left", "right")], b"", counts)
    assert shares(alone) == {"a": [("left", [0, 1, 2, 3]), ("right", [0, 1, 2, 3])]}
    both = assign([b"b", metadata("left", "right"), b"a", metadata("left", "right")], alone, counts)
    assert shares(both) == {
        "a": [("left", [0, 1]), ("right", [0, 1])],
        "b": [("left", [2, 3]), ("right", [2, 3])],
    }
    assert shares(assign([b"b", metadata("left", "right")], both, counts)) == {"b": shares(alone)["a"]}


@pytest.mark.parametrize(
    "url, wanted",
    [
        ("redis://h:7000/2", ("h", 7000, 2, False)),
        ("redis://", ("localhost", 6379, 0, False)),
        ("rediss://h", ("h", 6379, 0, True)),
        ("redis://[::1]:7000", ("::1", 7000, 0, False)),
    ],
)
def test_a_url_says_where_the_server_is(url: str, wanted: tuple[str, int, int, bool]) -> None:
    made = redis_settings(url, Settings(id="app"))
    assert (made.host, made.port, made.db, made.tls) == wanted


@pytest.mark.parametrize(
    "url, words",
    [
        ("redis://user:secret@h", "redis_password"),
        ("redis://h?ssl=1", "redis_"),
        ("redis://h/name", "number"),
        ("redis://a;redis://b", "redis_sentinel_service"),
    ],
)
def test_a_url_that_says_too_much_is_refused_without_its_secrets(url: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words) as refused:
        redis_settings(url, Settings(id="app"))
    assert "secret" not in str(refused.value)


def test_the_hosts_of_a_url_may_be_sentinels() -> None:
    settings = Settings(id="app", redis_sentinel_service="main", redis_password="secret")
    made = redis_settings("redis://a;redis://b:5/3", settings)
    assert (made.sentinels, made.db) == ((("a", 26379), ("b", 5)), 3)
    assert "secret" not in repr(made) + repr(settings) + made.where


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"stream_name": "events:{partition}"}, "redis_stream_name.*topic"),
        ({"trim": "all"}, "redis_trim"),
        ({"tls_ca_file": "x.pem"}, "rediss://"),
        ({"heartbeat_ms": 500, "session_timeout_ms": 1_000}, "heartbeat"),
        ({"sentinels": (("a", 1),)}, "redis_sentinel_service"),
    ],
)
def test_settings_that_cannot_work_are_refused_by_name(settings: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        RedisSettings("app", **settings)  # type: ignore[arg-type]  # wrong on purpose
