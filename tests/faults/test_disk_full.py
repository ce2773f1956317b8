"""The broker runs out of disk and halts; with room again it comes back, and everything is exact."""

from __future__ import annotations

import os
import pathlib
import subprocess
from collections.abc import Iterator

import pytest

from tests.faults.stage import LIMIT_S, Stage
from tests.integration.conftest import _missing
from tests.integration.workers import wait_for
from tests.support.kafka_server import KafkaServer, NoBroker

DISK_MB = 64


@pytest.fixture
def disk(tmp_path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A small tmpfs."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", str(place)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except OSError as exc:
        pytest.skip(f"a small disk can't be mounted here: {exc}")
    if done.returncode != 0:
        pytest.skip(f"a small disk can't be mounted here: {done.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], capture_output=True, timeout=20, check=False)


@pytest.fixture
def server(disk: pathlib.Path) -> Iterator[KafkaServer]:
    server = KafkaServer({"log.dirs": str(disk / "data"), "log.segment.bytes": str(4 << 20)})
    try:
        server.start()
    except NoBroker as exc:
        _missing(str(exc))
    try:
        yield server
    finally:
        server.stop()


def fill(filler: pathlib.Path) -> None:
    with filler.open("wb") as file:
        block = b"x" * (1 << 20)
        while True:
            try:
                os.write(file.fileno(), block)
            except OSError:
                if len(block) == 1:
                    return
                block = block[: len(block) // 2]


def test_a_broker_out_of_disk_costs_nothing(
    server: KafkaServer, disk: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    stage = Stage(server.bootstrap, tmp_path)
    try:
        stage.start()
        feeder = stage.feed(6_000)
        wait_for("events flow", lambda: len(feeder.acknowledged()) > 500, LIMIT_S)
        filler = disk / "filler"
        fill(filler)
        wait_for("the broker halts", lambda: server.died() is not None, LIMIT_S)
        filler.unlink()
        server.restart()
        stage.settle()
        stage.feeder_done(may_refuse=True)
        stage.check()
    finally:
        stage.end()
