"""`PostgresSink` on a real server: the contract of sinks, and kills, stops and restarts within writes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from typing import Any

import psycopg
import pytest

from streamflow.connectors import SinkFenced, SinkPartition, SinkRecord, SinkUnavailable
from streamflow.connectors.postgres import PostgresSink
from streamflow.processing.retries import Retry
from streamflow.testing import SinkContract
from streamflow.testing.sink_contract import AT, place_of, record
from tests.support.postgres_server import PostgresServer
from tests.support.running import log, logged, make_app, running, until


@pytest.fixture(name="server")
def _server(postgres: PostgresServer) -> PostgresServer:
    return postgres


@pytest.fixture(autouse=True)
def tables(server: PostgresServer) -> None:
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute("DROP TABLE IF EXISTS numbers, spent, streamflow_positions")
        connection.execute('CREATE TABLE numbers (place serial, n bigint NOT NULL, "of" text)')
        connection.execute("CREATE TABLE spent (who text PRIMARY KEY, amount int, notes jsonb)")


def rows(server: PostgresServer, query: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(server.url) as connection:
        return connection.execute(query).fetchall()


def numbers(server: PostgresServer) -> list[int]:
    return [n for (n,) in rows(server, "SELECT n FROM numbers ORDER BY place")]


class TestPostgresSink(SinkContract):
    @pytest.fixture(autouse=True)
    def on(self, server: PostgresServer) -> None:
        self.server = server

    def new_sink(self) -> PostgresSink:
        return PostgresSink(self.server.url, "numbers", columns=["n", "of"])

    async def written(self, at: SinkPartition) -> list[int]:
        found = rows(self.server, 'SELECT "of", n FROM numbers ORDER BY place')
        return [n for of, n in found if of == place_of(at)]

    def bad_record(self, offset: int) -> SinkRecord:
        return SinkRecord(offset, 0, None, b'{"n": "no number"}')


def sink(server: PostgresServer) -> PostgresSink:
    return PostgresSink(server.url, "numbers", columns=["n"])


async def test_a_process_that_is_killed_in_a_write_leaves_nothing_and_one_that_is_stopped_is_not_waited_for(
    server: PostgresServer,
) -> None:
    program = """
import asyncio, sys
from streamflow.connectors import SinkPartition
from streamflow.connectors.postgres import PostgresSink
from streamflow.testing.sink_contract import AT, record
async def main():
    writer = await PostgresSink(sys.argv[1], "numbers", columns=["n"]).open(AT)
    await writer.write([record(0)])
    connection = writer._connection
    async with connection.transaction():
        await connection.execute("SELECT set_config('idle_in_transaction_session_timeout', '5000', true)")
        await connection.execute("SELECT * FROM streamflow_positions FOR UPDATE")
        await connection.execute("INSERT INTO numbers (n) VALUES (1)")
        print("within", flush=True)
        sys.stdin.readline()
    print("committed", flush=True)
asyncio.run(main())
"""
    for stop in (signal.SIGKILL, signal.SIGSTOP):
        tables_again = psycopg.connect(server.url, autocommit=True)
        tables_again.execute("DROP TABLE IF EXISTS streamflow_positions")
        tables_again.execute("DELETE FROM numbers")
        tables_again.close()
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            program,
            server.url,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        assert await process.stdout.readline() == b"within\n"
        os.kill(process.pid, stop)
        async with asyncio.timeout(30):
            writer = await sink(server).open(AT)
        assert writer.position == 1
        if stop == signal.SIGSTOP:
            os.kill(process.pid, signal.SIGCONT)
            out, error = await process.communicate(b"\n")
            assert out == b""
            assert b"IdleInTransactionSessionTimeout" in error or b"OperationalError" in error
        await process.wait()
        await writer.write([record(1), record(2)])
        await writer.close()
        assert numbers(server) == [0, 1, 2]


async def test_with_a_key_the_last_record_of_it_wins_and_values_go_into_what_types_there_are(
    server: PostgresServer,
) -> None:
    spent = PostgresSink(server.url, "public.spent", columns=["who", "amount", "notes"], key=["who"])
    writer = await spent.open(AT)
    values = [
        {"who": "ann", "amount": 3, "notes": {"a": [1, True]}},
        {"who": 7, "amount": "12"},
        {"who": "ann", "amount": 5, "notes": "text"},
    ]
    with pytest.raises(ValueError, match=r"orders\[0\]@0 to 2: public.spent does not take it"):
        await writer.write([SinkRecord(n, 0, None, json.dumps(v).encode()) for n, v in enumerate(values)])
    values[2]["notes"] = None
    await writer.write([SinkRecord(n, 0, None, json.dumps(v).encode()) for n, v in enumerate(values)])
    await writer.write([SinkRecord(3, 0, None, None)])
    assert writer.position == 4
    assert rows(server, "SELECT * FROM spent ORDER BY who") == [("7", 12, None), ("ann", 5, None)]
    await writer.close()


async def test_a_table_that_is_missing_is_waited_for(server: PostgresServer) -> None:
    writer = await PostgresSink(server.url, "nowhere", columns=["n"]).open(AT)
    with pytest.raises(SinkUnavailable, match="nowhere"):
        await writer.write([record(0)])
    await writer.close()


async def test_an_app_writes_each_record_once_while_the_server_comes_and_goes(server: PostgresServer) -> None:
    app = make_app()
    topic = app.topic("in", partitions=2)
    soon = Retry(for_s=60, first_wait_s=0.01, wait_max_s=0.2, on=(OSError, SinkUnavailable, SinkFenced))
    app.sink(topic, sink(server), batch=20, within_s=0.01, retry=soon)
    async with running(app):
        for n in range(300):
            await topic.send(value={"n": n} if n != 77 else {"n": "no number"}, partition=n % 2)
            if n in (100, 200):
                await asyncio.to_thread(server.stop)
                await asyncio.to_thread(server.start)
        await until(lambda: len(numbers(server)) >= 299)
        await logged(app, "in-dead-letters", 1)
        letters = await log(app, "in-dead-letters")
    assert sorted(numbers(server)) == [n for n in range(300) if n != 77]
    assert [value for _, value, _ in letters] == [b'{"n":"no number"}']
    positions = rows(
        server, "SELECT sink, topic, partition, position FROM streamflow_positions ORDER BY partition"
    )
    assert positions == [("numbers", "in", 0, 150), ("numbers", "in", 1, 150)]
