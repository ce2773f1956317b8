"""Events that clients send into a topic of a running app, and the table that counts them."""

from __future__ import annotations

import pytest

from streamflow import App, Count, Key
from streamflow.client import Client, ClientError
from tests.clients.node import Script
from tests.support.running import until
from tests.support.web_apps import make_web_app, served
from tests.support.web_fakes import Cluster


def shop(**options: object) -> App:
    rights = ["* read", "* publish:topic:clicks"]
    app = make_web_app(topic_partitions=2, web_rights=rights, **options)
    clicks = app.topic("clicks", key_type=str, value_type=dict)
    app.topic("orders", key_type=str, value_type=dict)
    app.aggregate("counts", clicks, by=Key(), window=None, values=Count())
    return app


async def test_python_sends_and_sees_what_it_sent() -> None:
    async with served(shop()) as asker, Client(asker.url) as client, client.live("counts") as table:
        place = await client.send("clicks", {"n": 1}, key="ann", headers={"trace": "7"})
        assert int(place.offset) == 0
        places = await client.send_many("clicks", [{"key": "ann", "value": {"n": n}} for n in range(4)])
        assert [int(each.offset) for each in places] == [1, 2, 3, 4]
        row = await client.get("counts", "ann", min_position={str(place.partition): "5"})
        assert row is not None
        assert row.value == 5
        await until(lambda: table.get("ann") == 5)
        again = await client.send_many("clicks", [{"key": "bob", "value": {}}], idempotency_key="one")
        assert again == await client.send_many("clicks", [{"key": "bob", "value": {}}], idempotency_key="one")
        with pytest.raises(ClientError) as caught:
            await client.send("orders", {}, key="ann")
        assert (caught.value.code, caught.value.status) == ("forbidden", 403)


async def test_javascript_sends_and_sees_what_it_sent(script: Script, cluster: Cluster) -> None:
    async with served(shop(web_allowed_origins=list(cluster.settings.allowed_origins))) as asker:
        await script.ask(f"(globalThis.client = new lib.Client('{asker.url}'), 0)")
        await script.ask("(globalThis.table = client.live('counts'), 0)")
        [place] = await script.ask("client.send('clicks', {key: 'ann', value: {n: 1}})")
        assert place["offset"] == "0"
        assert (
            len(await script.ask("client.send('clicks', [1, 2].map((n) => ({key: 'ann', value: {n}})))")) == 2
        )
        position = f"{{minPosition: {{{place['partition']}: '3'}}}}"
        assert (await script.ask(f"client.get('counts', 'ann', {position})"))["value"] == 3
        await script.until("table.get('ann') === 3")
        refused = (
            "client.send('orders', {key: 'ann', value: {}}).catch((e) => [e.code, e.status, e.isUnknown])"
        )
        assert await script.ask(refused) == ["forbidden", 403, False]
