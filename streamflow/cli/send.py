"""``streamflow send -A MODULE TOPIC --key K VALUE``."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import click
import orjson

from streamflow.app.app import App
from streamflow.cli.apps import app_option, load
from streamflow.errors import ConfigurationError


@click.command()
@app_option
@click.argument("topic")
@click.argument("value")
@click.option("-k", "--key", help="Text, as the topic's key type reads it.")
@click.option("-p", "--partition", type=click.IntRange(0), help="By default that of the key.")
@click.option("--json", "as_json", is_flag=True, help="Answer in JSON.")
def command(
    module: str, topic: str, value: str, key: str | None, partition: int | None, as_json: bool
) -> None:
    """Send one message to a topic of an app. VALUE is JSON."""
    app = load(module)
    try:
        orjson.loads(value)
    except ValueError as exc:
        raise click.BadParameter(f"VALUE is no JSON: {exc}") from exc
    try:
        told = asyncio.run(_send(app, topic, value.encode(), key, partition))
    except ConfigurationError as exc:
        raise click.UsageError(str(exc)) from exc
    place = {"topic": told.topic, "partition": told.partition, "offset": told.offset}
    click.echo(json.dumps(place) if as_json else f"{told.topic}[{told.partition}]@{told.offset}")


async def _send(app: App, name: str, value: bytes, key: str | None, partition: int | None) -> Any:
    topic = next((topic for topic in app.declared_topics if topic.topics == [name]), None) or app.topic(name)
    parsed = None if key is None else topic.key_codec.parse_text(key)
    try:
        return await (await topic.send(key=parsed, value=value, partition=partition))
    finally:
        await app.disconnect()
