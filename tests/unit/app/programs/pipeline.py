"""Agents in a row, over topics and over a channel in memory, with what is found on the way."""
# mypy: ignore-errors

import logging

import streamflow as faust

app = faust.App("pipeline", broker="kafka://localhost:9092", topic_partitions=1)
logger = logging.getLogger(__name__)


class Line(faust.Record, serializer="json"):
    level: str
    text: str


lines = app.topic("lines", value_type=Line)
errors = app.topic("errors", value_type=Line)
alerts = app.channel(value_type=Line)
alerted, batches, seen_events = [], [], []


@app.agent(lines, sink=[errors])
async def only_errors(stream):
    stream.add_processor(lambda line: line.derive(level=line.level.upper()))
    async for line in stream:
        if line.level == "ERROR":
            yield line


@app.agent(errors)
async def forward(stream):
    async for event in stream.events():
        seen_events.append((event.message.topic, event.message.offset, faust.current_event() is event))
        await event.forward("archive")
        await alerts.send(value=event.value)


@app.agent(alerts)
async def alert(stream):
    async for line in stream:
        alerted.append(line.text)


@app.agent(app.topic("archive", value_type=Line))
async def archive(stream):
    async for lines in stream.take(2, within=0.2):
        batches.append([line.text for line in lines])
