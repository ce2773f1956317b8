"""Files as sources and sinks, where a process is killed, stopped or out of room."""

from __future__ import annotations

import asyncio
import json
import os
import pathlib
import sys
from contextlib import aclosing

import pytest

from streamflow import ConfigurationError
from streamflow.clock import SystemClock
from streamflow.connectors import FileSink, FileSource, Place, SinkPartition, SourceRecord
from streamflow.connectors.files.source import FileReplaced
from streamflow.testing import ManualClock
from streamflow.testing.sink_contract import record

AT = SinkPartition("orders", 0)


def names(folder: pathlib.Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


async def taken(source: FileSource, count: int, place: Place = None) -> tuple[list[SourceRecord], Place]:
    """So many records behind a place, and the place behind them."""
    found: list[SourceRecord] = []
    async with aclosing(source.read(0, place, SystemClock())) as batches:  # type: ignore[type-var]  # a generator
        async for batch in batches:
            found += batch.records
            if len(found) >= count:
                return found, batch.place
    raise AssertionError("it ended")


async def test_what_a_killed_writer_leaves_is_seen_by_nobody_and_cleared_by_the_next(
    tmp_path: pathlib.Path,
) -> None:
    writer = await FileSink(tmp_path).open(AT)
    await writer.write([record(0)])
    folder = tmp_path / "orders" / "0"
    (half,) = (folder / ".owner").iterdir()
    (half / "half.ndjson").write_text('{"n": ')
    assert names(folder) == [f"{0:020}-{1:020}.ndjson"]
    await (await FileSink(tmp_path).open(AT)).write([record(1)])
    assert [list(own.iterdir()) for own in (folder / ".owner").iterdir()] == [[]]
    assert names(folder) == [f"{0:020}-{1:020}.ndjson", f"{1:020}-{2:020}.ndjson"]


async def test_who_was_killed_before_the_first_owner_was_made_holds_up_nobody(
    tmp_path: pathlib.Path,
) -> None:
    (tmp_path / "orders" / "0" / ".new-1" / "1").mkdir(parents=True)
    await (await FileSink(tmp_path).open(AT)).write([record(0)])
    left = sorted(path.name for path in (tmp_path / "orders" / "0").iterdir())
    assert left == [".owner", f"{0:020}-{1:020}.ndjson"]


async def test_where_there_is_no_room_nothing_is_seen_and_the_batch_can_come_again(
    tmp_path: pathlib.Path,
) -> None:
    """A limit on the size of files is what a full disk is to a process: the bytes are not taken."""
    program = """
import asyncio, resource, signal, sys
from streamflow.connectors import FileSink, SinkPartition, SinkRecord
at = SinkPartition("orders", 0)
records = [SinkRecord(n, 0, None, b'{"text": "' + b"x" * 1000 + b'"}') for n in range(100)]
async def main():
    writer = await FileSink(sys.argv[1]).open(at)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
    try:
        await writer.write(records)
    except OSError:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        await writer.write(records)
        print("refused, and written")
asyncio.run(main())
"""
    done = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, str(tmp_path), stdout=asyncio.subprocess.PIPE
    )
    out, _ = await done.communicate()
    assert out == b"refused, and written\n"
    (name,) = names(tmp_path / "orders" / "0")
    assert name == f"{0:020}-{100:020}.ndjson"
    assert len((tmp_path / "orders" / "0" / name).read_text().splitlines()) == 100


async def test_files_that_were_taken_away_are_not_written_again_while_the_newest_stays(
    tmp_path: pathlib.Path,
) -> None:
    writer = await FileSink(tmp_path).open(AT)
    await writer.write([record(0)])
    await writer.write([record(1)])
    folder = tmp_path / "orders" / "0"
    (folder / names(folder)[0]).unlink()
    again = await FileSink(tmp_path).open(AT)
    await again.write([record(0), record(1), record(2)])
    assert names(folder) == [f"{1:020}-{2:020}.ndjson", f"{2:020}-{3:020}.ndjson"]


def test_a_csv_sink_needs_its_columns(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ConfigurationError, match="columns="):
        FileSink(tmp_path, format="csv")
    with pytest.raises(ConfigurationError, match="'ndjson' or 'csv'"):
        FileSink(tmp_path, format="xml")


async def test_a_line_without_its_end_is_read_when_the_file_has_not_grown_for_a_while(
    tmp_path: pathlib.Path,
) -> None:
    path = tmp_path / "a.ndjson"
    path.write_text('{"n": 0}\n{"n":')
    clock = ManualClock()
    found: list[bytes | None] = []

    async def read() -> None:
        async for batch in FileSource(path, poll_s=1, settle_s=10).read(0, None, clock):
            found.extend(each.value for each in batch.records)

    async def pass_time(seconds: int) -> None:
        for _ in range(seconds):
            await asyncio.sleep(0.02)  # its threads look at the disk
            await clock.advance(1_000)

    reading = asyncio.create_task(read())
    await pass_time(5)
    assert found == [b'{"n": 0}']
    with path.open("a") as file:
        file.write(" 1}")
    await pass_time(5)
    assert found == [b'{"n": 0}']
    await pass_time(20)
    assert found == [b'{"n": 0}', b'{"n": 1}']
    reading.cancel()


async def test_the_key_is_a_field_and_what_is_no_row_goes_on_as_it_is(tmp_path: pathlib.Path) -> None:
    (tmp_path / "a.csv").write_text("user,amount\nann,3\nbob\n\ncay,5\n")
    records, _ = await taken(FileSource(tmp_path / "*.csv", format="csv", key="user", poll_s=0.01), 3)
    assert records == [
        SourceRecord("ann", b'{"user":"ann","amount":"3"}'),
        SourceRecord(None, b"bob"),
        SourceRecord("cay", b'{"user":"cay","amount":"5"}'),
    ]


async def test_another_file_under_a_name_that_was_read_is_found_out(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "a.ndjson"
    path.write_text('{"n": 0}\n{"n": 1}\n')
    source = FileSource(tmp_path / "*.ndjson", poll_s=0.01)
    _, place = await taken(source, 2)
    path.write_text('{"n": 5}\n{"n": 6}\n{"n": 7}\n')
    with pytest.raises(FileReplaced, match=r"a\.ndjson: it was read up to byte 18.*name of its own"):
        await taken(source, 1, place)
    path.write_text("")
    with pytest.raises(FileReplaced, match=r"another file now \(0 bytes\)"):
        await taken(source, 1, place)


async def test_a_file_that_was_out_of_sight_is_not_read_twice(tmp_path: pathlib.Path) -> None:
    (tmp_path / "a.ndjson").write_text('{"n": 0}\n')
    source = FileSource(tmp_path / "*.ndjson", poll_s=0.01)
    _, place = await taken(source, 1)
    os.rename(tmp_path / "a.ndjson", tmp_path / "hidden")
    (tmp_path / "b.ndjson").write_text('{"n": 1}\n')
    _, place = await taken(source, 1, place)
    os.rename(tmp_path / "hidden", tmp_path / "a.ndjson")
    (tmp_path / "c.ndjson").write_text('{"n": 2}\n')
    records, _ = await taken(source, 1, place)
    assert [json.loads(each.value or b"") for each in records] == [{"n": 2}]


async def test_a_record_longer_than_one_look_is_read(tmp_path: pathlib.Path) -> None:
    text = "x" * (3 << 20)
    (tmp_path / "a.csv").write_text(f'n,text\n1,"{text}\n"\n2,\n')
    records, _ = await taken(FileSource(tmp_path / "a.csv", format="csv", poll_s=0.01), 2)
    assert [json.loads(each.value or b"")["n"] for each in records] == ["1", "2"]
