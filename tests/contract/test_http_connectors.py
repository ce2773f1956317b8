"""HTTP passes the contracts of sources and sinks."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from streamflow.connectors import HttpSource, SinkPartition, SinkRecord, WebhookSink
from streamflow.testing import SinkContract, SourceContract
from tests.support.http_peer import HttpPeer


class TestHttpSource(SourceContract):
    @pytest.fixture(autouse=True)
    def server(self) -> Iterator[None]:
        self.peer = HttpPeer()
        yield
        self.peer.close()

    def new_source(self) -> HttpSource:
        return HttpSource(self.peer.url, poll_s=0.005)

    async def add(self, number: int) -> None:
        self.peer.items.append({"n": number})


class TestHttpSourceByItems(TestHttpSource):
    def new_source(self) -> HttpSource:
        return HttpSource(self.peer.url, item_cursor="id", poll_s=0.005)

    async def add(self, number: int) -> None:
        self.peer.items.append({"id": number + 1, "n": number})


class TestWebhookSink(SinkContract):
    @pytest.fixture(autouse=True)
    def server(self) -> Iterator[None]:
        self.peer = HttpPeer()
        self.peer.refuses = '"never"'
        yield
        self.peer.close()

    def new_sink(self) -> WebhookSink:
        return WebhookSink(self.peer.url)

    async def written(self, at: SinkPartition) -> list[int]:
        place = ":".join((at.topic, at.log, str(at.partition), ""))
        events = [event for _, posted in self.peer.posted for event in posted]
        return [event["value"]["n"] for event in events if event["id"].startswith(place)]

    def bad_record(self, offset: int) -> SinkRecord:
        return SinkRecord(offset, 0, None, b'"never"')
