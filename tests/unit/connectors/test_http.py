"""HTTP: what each answer means, and an app that asks and posts."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Iterator
from typing import Any

import pytest

from streamflow import CircuitBreaker, ConfigurationError, Retry
from streamflow.clock import SystemClock
from streamflow.connectors import (
    HttpSource,
    SinkPartition,
    SinkUnavailable,
    WebhookRefused,
    WebhookSink,
)
from streamflow.connectors.http_source import SourceUnavailable, UnexpectedAnswer
from streamflow.testing import ManualClock
from streamflow.testing.sink_contract import record
from tests.support.http_peer import HttpPeer
from tests.support.running import log, logged, make_app, running, until

AT = SinkPartition("orders", 2, "an-id")
SOON = Retry(for_s=60, first_wait_s=0.001, on=(OSError, SinkUnavailable))


@pytest.fixture
def peer() -> Iterator[HttpPeer]:
    peer = HttpPeer()
    yield peer
    peer.close()


async def test_a_post_says_which_records_it_holds_and_is_signed(peer: HttpPeer) -> None:
    clock = ManualClock()
    writer = await WebhookSink(peer.url, secret="s3cret", headers={"X-Own": "1"}, clock=clock).open(AT)
    for _ in range(2):
        await writer.write([record(7), record(9)])
    await writer.close()
    (headers, events), (again, _) = peer.posted
    assert [event["id"] for event in events] == ["orders:an-id:2:7", "orders:an-id:2:9"]
    assert events[0] == {
        "id": "orders:an-id:2:7",
        "key": "ann",
        "timestamp": 1_760_000_000_007,
        "value": {"n": 7, "of": "orders::0"},
    }
    assert headers["x-own"] == "1"
    assert headers["webhook-id"] == again["webhook-id"] == "orders:an-id:2:7+2"
    text = f"{headers['webhook-id']}.{clock.now_ms() // 1_000}.{headers['body']}".encode()
    digest = base64.b64encode(hmac.new(b"s3cret", text, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{digest}"


@pytest.mark.parametrize("status", [408, 425, 429, 500, 503])
async def test_what_may_be_otherwise_later_is_unavailable(peer: HttpPeer, status: int) -> None:
    writer = await WebhookSink(peer.url).open(AT)
    peer.statuses = [status]
    with pytest.raises(SinkUnavailable, match=rf"answers {status} to orders\[2\]@7: .*as told"):
        await writer.write([record(7)])
    peer.statuses = [status]
    with pytest.raises(SourceUnavailable, match=f"answers {status}"):
        await anext(HttpSource(peer.url).read(0, None, SystemClock()))
    await writer.close()


@pytest.mark.parametrize("status", [301, 400, 404, 410, 422])
async def test_what_is_so_for_ever_is_refused(peer: HttpPeer, status: int) -> None:
    writer = await WebhookSink(peer.url).open(AT)
    peer.statuses = [status]
    with pytest.raises(WebhookRefused, match=f"answers {status}"):
        await writer.write([record(7)])
    await writer.close()


async def test_a_source_goes_on_behind_an_outage_and_its_breaker_opens(peer: HttpPeer) -> None:
    app = make_app()
    breaker = CircuitBreaker("shop-api", failures_max=1, open_s=0.05)
    source = HttpSource(
        peer.url, key="user", headers={"Authorization": "Bearer x"}, poll_s=0.01, breaker=breaker
    )
    app.source("shop", source, to=app.topic("in", key_type=str, partitions=1))
    peer.items = [{"user": f"u{n}", "n": n} for n in range(5)]
    peer.statuses = [503]
    states: list[str] = []
    breaker.on_change(lambda _, state: states.append(state))
    async with running(app):
        await logged(app, "in", 5)
        peer.items += [{"user": "u5", "n": 5}]
        found = await logged(app, "in", 6)
    assert [json.loads(value or b"")["n"] for _, value, _ in found] == [0, 1, 2, 3, 4, 5]
    assert found[5][0] == b"u5"
    assert states[0] == "open"
    assert states[-1] == "closed"
    assert {headers.get("Authorization") for _, headers in peer.asked} == {"Bearer x"}


async def test_an_answer_that_leads_nowhere_says_so(peer: HttpPeer) -> None:
    peer.items = [{"n": 0}]
    for options, told in (
        ({"items": "rows"}, "there is no list in 'rows'"),
        ({"cursor": "more"}, "1 items behind None, and no cursor to go on from"),
        ({"item_cursor": "id"}, "no cursor to go on from"),
    ):
        source = HttpSource(peer.url, **options)  # type: ignore[arg-type]  # texts all
        with pytest.raises(UnexpectedAnswer, match=told):
            await anext(source.read(0, None, SystemClock()))
    with pytest.raises(ConfigurationError, match="item_cursor="):
        HttpSource(peer.url, items="")
    with pytest.raises(ConfigurationError, match="a URL"):
        WebhookSink("ftp://nowhere")


async def test_a_webhook_behind_an_outage_gets_all_and_what_it_refuses_is_set_aside(peer: HttpPeer) -> None:
    app = make_app()
    topic = app.topic("in", partitions=1)
    breaker = CircuitBreaker("hook", failures_max=2, open_s=0.05)
    app.sink(topic, WebhookSink(peer.url), within_s=0.02, retry=SOON, breaker=breaker)
    peer.statuses = [500, 502, 429]
    peer.refuses = "never"
    async with running(app):
        for n in range(6):
            await topic.send(value={"n": n} if n != 4 else {"n": "never"})
        await logged(app, "in-dead-letters", 1)

        def taken() -> list[Any]:
            return [event["value"]["n"] for _, posted in peer.posted for event in posted]

        await until(lambda: len(taken()) >= 5)
        assert taken() == [0, 1, 2, 3, 5]
        letters = await log(app, "in-dead-letters")
    assert [value for _, value, _ in letters] == [b'{"n":"never"}']
    assert b"answers 422 to in[0]@4" in (letters[0][2]["error"] or b"")
