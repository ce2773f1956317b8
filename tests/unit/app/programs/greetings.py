"""The first program of everybody: bytes in, a line out."""
# mypy: ignore-errors

import streamflow as faust

app = faust.App("greetings", broker="kafka://localhost:9092", value_serializer="raw")
greetings_topic = app.topic("greetings")
heard = []


@app.agent(greetings_topic)
async def greet(greetings):
    async for greeting in greetings:
        heard.append(greeting)
