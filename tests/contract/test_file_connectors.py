"""Files pass the contracts of sources and sinks."""

from __future__ import annotations

import csv
import json
import pathlib

import pytest

from streamflow.connectors import FileSink, FileSource, SinkPartition, SinkRecord, SourceRecord
from streamflow.testing import SinkContract, SourceContract


class TestNdjsonSource(SourceContract):
    @pytest.fixture(autouse=True)
    def folder(self, tmp_path: pathlib.Path) -> None:
        self.path = tmp_path

    def new_source(self) -> FileSource:
        return FileSource(self.path / "*.ndjson", poll_s=0.005)

    async def add(self, number: int) -> None:
        # Three to a file: they grow, and there are several.
        with (self.path / f"{number // 3:03}.ndjson").open("a") as file:
            file.write(json.dumps({"n": number}) + "\n")


class TestCsvSource(SourceContract):
    @pytest.fixture(autouse=True)
    def folder(self, tmp_path: pathlib.Path) -> None:
        self.path = tmp_path

    def new_source(self) -> FileSource:
        return FileSource(self.path / "*.csv", format="csv", poll_s=0.005)

    async def add(self, number: int) -> None:
        path = self.path / f"{number // 3:03}.csv"
        is_new = not path.exists()
        with path.open("a") as file:
            if is_new:
                file.write("n,note\r\n")
            file.write(f'{number},"two\nlines, and ""quotes"""\r\n')

    def number_of(self, record: SourceRecord) -> int:
        row = json.loads(record.value or b"")
        assert row["note"] == 'two\nlines, and "quotes"'
        return int(row["n"])


class FileSinkContract(SinkContract):
    @pytest.fixture(autouse=True)
    def folder(self, tmp_path: pathlib.Path) -> None:
        self.path = tmp_path

    def files(self, at: SinkPartition) -> list[pathlib.Path]:
        folder = self.path / at.topic / (f"{at.partition}.{at.log}" if at.log else str(at.partition))
        return sorted(path for path in folder.glob("*") if not path.name.startswith("."))

    def bad_record(self, offset: int) -> SinkRecord:
        return SinkRecord(offset, 0, None, b"{no json")


class TestNdjsonSink(FileSinkContract):
    def new_sink(self) -> FileSink:
        return FileSink(self.path)

    async def written(self, at: SinkPartition) -> list[int]:
        lines = [line for path in self.files(at) for line in path.read_text().splitlines()]
        return [json.loads(line)["n"] for line in lines]


class TestCsvSink(FileSinkContract):
    def new_sink(self) -> FileSink:
        return FileSink(self.path, format="csv", columns=["n"])

    async def written(self, at: SinkPartition) -> list[int]:
        found: list[int] = []
        for path in self.files(at):
            with path.open(newline="") as file:
                found += [int(row["n"]) for row in csv.DictReader(file)]
        return found
