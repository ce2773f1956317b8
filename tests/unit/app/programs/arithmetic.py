"""Agents that are asked: replies, maps over many values, one agent behind another, a sink."""
# mypy: ignore-errors

from collections.abc import AsyncIterable

import streamflow as faust
from streamflow import StreamT

app = faust.App("arithmetic", broker="kafka://localhost:9092", reply_create_topic=True)


class Add(faust.Record):
    a: int
    b: int


topic = app.topic("adding", value_type=Add)
results = []


async def keep(value):
    results.append(value)


@app.agent(topic, sink=[keep])
async def adding(stream: StreamT[Add]) -> AsyncIterable[int]:
    async for value in stream:
        yield value.a + value.b


@app.agent()
async def mul(stream):
    async for event in stream.events():
        yield event.value * (event.key or 1)


@app.agent(key_type=int)
async def keyed(stream):
    async for key, value in stream.items():
        yield key * value


@app.task
async def ask_at_start(app):
    results.append(await adding.ask(Add(a=4, b=4)))
