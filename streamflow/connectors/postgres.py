"""`PostgresSink`: rows of a topic's partition and its position in one transaction of Postgres, exactly once.

The table ``streamflow_positions`` has a row for each sink, topic, topic's id and partition: the offset behind
the last record written, and an *epoch*. What holds it together:

* *A write* is one transaction: it locks that row, checks the epoch, writes, moves the position. A SIGKILL
  before its commit leaves nothing, as the server undoes what a connection that is gone had begun; behind it
  the position is there with the rows, and the batch that comes again is dropped. Where the answer to the
  commit is lost, whoever opens next reads which of both it was.
* *Opening* raises the epoch. It needs the row's lock, so it waits until a write that is under way has ended,
  and sees what that has done; a later one of a former owner finds another epoch, and ends with SinkFenced and
  no effect.
* *A process that was stopped* in the middle of a transaction holds that lock: the server itself ends the
  transaction after ``IDLE_MS``, since every transaction says so in its first statement. What wakes finds its
  connection closed.
* *A full disk* fails the transaction, and is waited out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, LiteralString

import orjson

from streamflow.connectors.base import (
    Delivery,
    SinkFenced,
    SinkPartition,
    SinkRecord,
    SinkUnavailable,
    unwritten,
)
from streamflow.errors import ConfigurationError

try:
    import psycopg
    from psycopg import sql
except ImportError as exc:
    raise ConfigurationError("PostgresSink needs psycopg: pip install 'psycopg[binary]'") from exc

if TYPE_CHECKING:
    from psycopg.sql import Composed

IDLE_MS = 5_000
LOCK_MS = 30_000
CONNECT_S = 10

POSITIONS: LiteralString = """
CREATE TABLE IF NOT EXISTS streamflow_positions (
    sink text, topic text, log text, partition int, position bigint, epoch bigint NOT NULL,
    PRIMARY KEY (sink, topic, log, partition)
)"""
LIMITS: LiteralString = """
SELECT set_config('idle_in_transaction_session_timeout', %s, true), set_config('lock_timeout', %s, true)"""
ADD: LiteralString = """
INSERT INTO streamflow_positions VALUES (%s, %s, %s, %s, NULL, 0) ON CONFLICT DO NOTHING"""
OPEN: LiteralString = """
UPDATE streamflow_positions SET epoch = epoch + 1
WHERE (sink, topic, log, partition) = (%s, %s, %s, %s) RETURNING epoch, position"""
CHECK: LiteralString = """
SELECT epoch FROM streamflow_positions WHERE (sink, topic, log, partition) = (%s, %s, %s, %s) FOR UPDATE"""
MOVE: LiteralString = """
UPDATE streamflow_positions SET position = %s WHERE (sink, topic, log, partition) = (%s, %s, %s, %s)"""

_Connection = psycopg.AsyncConnection[tuple[object, ...]]


class PostgresSink:
    """Writes the fields ``columns`` of JSON objects into columns of the same names of ``table``.

    ``url``: as libpq takes it (``postgresql://user@host/shop``). Rows are inserted; with ``key``, columns
    that are unique together, a row that is there already gets the new values (the last record of a key wins).
    The server reads the values as it reads text, so a number may go into a numeric, a text or a date column;
    objects and lists are JSON. What is missing is NULL. A record without a value is passed over.

    ``name``: under which its positions are kept. Its user needs to create ``streamflow_positions`` once, in
    the first schema of its search path, and to write it and the table. Raises ConfigurationError.
    """

    delivery: Delivery = "exactly_once"

    def __init__(
        self, url: str, table: str, *, columns: Sequence[str], key: Sequence[str] = (), name: str = ""
    ) -> None:
        if not columns or not set(key) <= set(columns):
            raise ConfigurationError(
                f"PostgresSink({table!r}): columns= are needed, and key= is some of them"
            )
        self._url = url
        self._columns = tuple(columns)
        self._name = name or table
        self._insert = _insert(table, self._columns, tuple(key))

    async def open(self, at: SinkPartition) -> PostgresWriter:
        """Raises SinkUnavailable."""
        place = (self._name, at.topic, at.log, at.partition)
        try:
            connection = await psycopg.AsyncConnection.connect(self._url, connect_timeout=CONNECT_S)
        except psycopg.Error as exc:
            raise SinkUnavailable(f"Postgres for {self._name}: {exc}") from exc
        try:
            epoch, position = await _own(connection, place)
        except psycopg.Error as exc:
            await connection.close()
            raise SinkUnavailable(f"Postgres for {self._name}: {exc}") from exc
        except BaseException:
            await connection.close()
            raise
        return PostgresWriter(at, place, connection, epoch, position, self._insert, self._columns)


class PostgresWriter:
    """Of one partition, by a connection of its own. See the module."""

    def __init__(
        self,
        at: SinkPartition,
        place: tuple[str, str, str, int],
        connection: _Connection,
        epoch: int,
        position: int | None,
        insert: Composed,
        columns: tuple[str, ...],
    ) -> None:
        self._at = at
        self._place = place
        self._connection = connection
        self._epoch = epoch
        self._position = position
        self._insert = insert
        self._columns = columns

    @property
    def position(self) -> int | None:
        return self._position

    async def write(self, records: Sequence[SinkRecord]) -> None:
        """Raises SinkFenced, SinkUnavailable; ValueError for what the table does not take."""
        records = unwritten(records, self._position)
        if not records:
            return
        rows = [row for row in map(self._row, records) if row is not None]
        behind = records[-1].offset + 1
        where = f"{self._at}@{records[0].offset}" + (f" to {records[-1].offset}" if len(records) > 1 else "")
        try:
            async with self._connection.transaction(), self._connection.cursor() as cursor:
                await cursor.execute(LIMITS, (str(IDLE_MS), str(LOCK_MS)))
                await cursor.execute(CHECK, self._place)
                if await cursor.fetchone() != (self._epoch,):
                    raise SinkFenced(f"{self._place[0]}: another worker writes {self._at} now")
                await cursor.executemany(self._insert, rows)
                await cursor.execute(MOVE, (behind, *self._place))
        except (psycopg.DataError, psycopg.IntegrityError) as exc:
            raise ValueError(f"{where}: {self._place[0]} does not take it: {exc}") from exc
        except psycopg.Error as exc:
            # A table or a column that is missing too: somebody may make it while we wait, and a dead letter
            # of each record would help nobody.
            raise SinkUnavailable(f"{where}: {exc}") from exc
        self._position = behind

    def _row(self, record: SinkRecord) -> tuple[str | None, ...] | None:
        if record.value is None:
            return None
        try:
            data = orjson.loads(record.value)
        except orjson.JSONDecodeError as exc:
            raise ValueError(f"{self._at}@{record.offset}: the value is no JSON: {exc}") from exc
        if not isinstance(data, dict):
            raise ValueError(f"{self._at}@{record.offset}: the value is no JSON object")
        return tuple(_text(data.get(name)) for name in self._columns)

    async def close(self) -> None:
        await self._connection.close()


async def _own(connection: _Connection, place: tuple[str, str, str, int]) -> tuple[int, int | None]:
    """Raises the epoch; returns it, and the position."""
    await connection.set_autocommit(True)
    try:
        await connection.execute(POSITIONS)
    except (psycopg.errors.UniqueViolation, psycopg.errors.DuplicateTable):
        pass  # made by another one at the same moment
    async with connection.transaction(), connection.cursor() as cursor:
        await cursor.execute(LIMITS, (str(IDLE_MS), str(LOCK_MS)))
        await cursor.execute(ADD, place)
        await cursor.execute(OPEN, place)
        found = await cursor.fetchone()
    match found:
        case (int() as epoch, int() | None as position):
            return epoch, position
        case _:
            raise SinkUnavailable(f"streamflow_positions has no row of {place}: was it deleted just now?")


def _insert(table: str, columns: tuple[str, ...], key: tuple[str, ...]) -> Composed:
    comma = sql.SQL(", ")
    names = comma.join(map(sql.Identifier, columns))
    values = comma.join(sql.Placeholder() for _ in columns)
    insert = sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(
        sql.Identifier(*table.split(".")), names, values
    )
    if not key:
        return insert
    others = [name for name in columns if name not in key]
    change = comma.join(sql.SQL("{0} = excluded.{0}").format(sql.Identifier(name)) for name in others)
    act = sql.SQL("UPDATE SET {}").format(change) if others else sql.SQL("NOTHING")
    return insert + sql.SQL(" ON CONFLICT ({}) DO ").format(comma.join(map(sql.Identifier, key))) + act


def _text(value: object) -> str | None:
    """As the server reads it, by the column's type."""
    if value is None or isinstance(value, str):
        return value
    return orjson.dumps(value).decode()
