"""Who is a friend of whom: sets, changed by events and over HTTP."""
# mypy: ignore-errors

import streamflow as faust
from streamflow.web import Request, Response, View

app = faust.App("friends", broker="kafka://localhost:9092")
friends_topic = app.topic("friendships", key_type=str, value_type=str, partitions=2)
friends = app.SetTable("friends", start_manager=True, partitions=2)
followed = app.SetTable("followed").tumbling(60.0, expires=600.0)


@app.agent(friends_topic)
async def befriend(stream):
    async for who, whom in stream.items():
        friends[who].add(whom)
        followed[who].add(whom)


@app.page("/friends/{who}")
class Friends(View):
    @app.table_route(friends, match_info="who")
    async def get(self, request: Request, who: str) -> Response:
        return self.json({"friends": sorted(friends[who])})

    async def delete(self, request: Request, who: str) -> Response:
        await friends.manager.clear(who)
        return self.json({"ok": True})
