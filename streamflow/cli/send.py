"""``streamflow send -A MODULE TOPIC --key K VALUE``."""

from __future__ import annotations

import asyncio
import difflib
import json
from collections.abc import Iterable
from typing import Any

import click
import orjson

from streamflow.app.app import App
from streamflow.cli.apps import app_option, load
from streamflow.errors import ConfigurationError, DecodeError


@click.command()
@app_option
@click.argument("topic")
@click.argument("value")
@click.option("-k", "--key", help="Text, as the topic's key type reads it.")
@click.option("-p", "--partition", type=click.IntRange(0), help="By default that of the key.")
@click.option("--create", is_flag=True, help="Make the topic, if neither broker nor app has one so named.")
@click.option("--json", "as_json", is_flag=True, help="Answer in JSON.")
def command(
    module: str, topic: str, value: str, key: str | None, partition: int | None, create: bool, as_json: bool
) -> None:
    """Send one message to a topic of an app. VALUE is JSON, of the topic's type."""
    app = load(module)
    try:
        orjson.loads(value)
    except ValueError as exc:
        raise click.BadParameter(f"VALUE is no JSON: {exc}") from exc
    try:
        told = asyncio.run(_send(app, topic, value.encode(), key, partition, create=create))
    except (ConfigurationError, DecodeError, TypeError) as exc:
        raise click.UsageError(str(exc)) from exc
    place = {"topic": told.topic, "partition": told.partition, "offset": told.offset}
    click.echo(json.dumps(place) if as_json else f"{told.topic}[{told.partition}]@{told.offset}")


async def _send(
    app: App, name: str, value: bytes, key: str | None, partition: int | None, *, create: bool
) -> Any:
    declared = {topic.topics[0]: topic for topic in app.declared_topics if len(topic.topics or ()) == 1}
    try:
        if name not in declared and not create:
            await _check_there(app, name, declared)
        topic = declared.get(name) or app.topic(name)
        topic.check_readable(value)
        if create:
            await topic.declare()
        parsed = None if key is None else topic.key_codec.parse_text(key)
        return await (
            await topic.send(key=parsed, value=value, partition=partition, headers=topic.version_headers)
        )
    finally:
        await app.disconnect()


async def _check_there(app: App, name: str, declared: Iterable[str]) -> None:
    """Raises UsageError where the topic would be made, perhaps by a slip of the hand."""
    engine = await app.connected_engine()
    if name in await engine.transport.partition_counts([name]):
        return
    near = difflib.get_close_matches(name, declared, 1)
    meant = f"do you mean {near[0]!r}? " if near else ""
    raise click.UsageError(
        f"there is no topic {name!r}, neither on the broker nor in the app; {meant}--create makes one with"
        f" {app.engine_settings.topic_partitions} partitions"
    )
