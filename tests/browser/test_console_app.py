"""The console of a whole app, engine and all: topics and messages, agents, dead letters, order by value."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest

from streamflow import App, CircuitBreaker, Count, Event, Retry, Sum
from streamflow.windows import TumblingWindow
from tests.browser.chrome import Page
from tests.browser.conftest import axe, keys, number, text
from tests.support.running import T0_MS, event, make_app, running

TOLD = "(document.getElementById('told')?.innerText ?? '')"
ROWS = "document.querySelectorAll('.vrow').length"


@dataclass
class Shop:
    app: App
    seen: list[str] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def url(self) -> str:
        return str(self.app.web_server_url).rstrip("/")


@pytest.fixture
async def shop() -> AsyncIterator[Shop]:
    """Three users with 1, 2 and 3 orders; one event that no agent can do, and one that is no event."""
    app = make_app(web_enabled=True, web_port=0, web_rights=["* read", "* admin"])
    orders = app.topic("orders", key_type=str, value_type=Event, partitions=2)
    counts = app.Table("orders_by_user", default=int)
    app.aggregate(
        "spending",
        orders,
        by="data.user",
        window=TumblingWindow(size_s=10, retain_s=10**9),
        time="timestamp",
        values={"n": Count(), "spent": Sum("data.amount")},
    )
    shop = Shop(app)
    breaker = CircuitBreaker("billing", failures_max=1, open_s=3_600)

    @app.agent(orders, name="charge", retry=Retry(attempts=1))
    async def charge(stream):
        async for order in stream:
            shop.seen.append(order.data["user"])
            if order.type == "bad":
                async with breaker:
                    raise ValueError("the card is refused")
            if order.type == "slow":
                await shop.gate.wait()

    @app.agent(orders, name="count")
    async def count(stream):
        async for order in stream:
            counts[order.data["user"]] += 1

    async with running(app):
        for index, user in enumerate(["ann", "bob", "cyd"]):
            for amount in range(index + 1):
                await orders.send(key=user, value=event("order", T0_MS, user=user, amount=10 - amount))
        await orders.send(key="dan", value=event("bad", T0_MS, user="dan", amount=1))
        await app.topic("orders").send(key="eve", value=b"no JSON")
        yield shop
        shop.gate.set()


async def test_topics_show_where_they_are_read_and_what_stands_in_them(page: Page, shop: Shop) -> None:
    await page.open(f"{shop.url}/console/topics")
    await page.until("document.querySelector('tbody')?.innerText.includes('orders')")
    assert "changelog" not in await page.ask("document.querySelector('tbody').innerText")
    await page.ask("document.getElementById('internal').click()")
    await page.until("document.querySelector('tbody').innerText.includes('changelog')")
    await page.ask("[...document.querySelectorAll('tbody a')].find(a => a.textContent === 'orders').click()")
    await page.until("document.querySelectorAll('tbody tr').length === 2")
    await page.until("document.querySelector('.facts').innerText.includes('lag 0')")
    seen = set()
    for partition in ("0", "1"):
        await page.go(f"{shop.url}/console/topics/orders?partition={partition}&offset=0")
        await page.until(f"{ROWS} > 0 || document.body.innerText.includes('No message from there on')")
        seen |= set(
            await page.ask("[...document.querySelectorAll('.vrow')].map(r => r.children[2].textContent)")
        )
    assert len(seen) == 8
    await page.until(f"{ROWS} > 0")
    await page.ask("document.querySelector('.vrow').click()")
    await page.until("document.getElementById('message').innerText.includes('Partition')")
    assert await axe(page) == []


async def test_agents_show_what_they_have_done_and_are_at_work_on(page: Page, shop: Shop) -> None:
    await page.open(f"{shop.url}/console/agents")
    body = "(document.querySelector('#page')?.innerText ?? '')"
    await page.until(f"{body}.includes('charge') && {body}.includes('count')")
    await shop.app.topic("orders").send(key="ann", value=event("slow", T0_MS, user="ann", amount=1))
    await page.until("document.querySelectorAll('table')[1]?.innerText.includes('charge')", 20)
    assert await axe(page) == []
    await page.go(f"{shop.url}/console/workers")
    await page.until(f"{body}.includes('ready') && {body}.includes('version')")
    await page.go(f"{shop.url}/console/breakers")
    await page.until(f"{body}.includes('billing') && {body}.includes('open')")
    assert await axe(page) == []


async def test_a_dead_letter_is_replayed_with_another_value_or_dropped(page: Page, shop: Shop) -> None:
    await page.open(f"{shop.url}/console/dead-letters")
    await page.until("document.querySelector('.vlist')?.innerText.includes('the card is refused')")
    assert await axe(page) == []
    await page.ask(
        "[...document.querySelectorAll('.vrow')].find(r => r.innerText.includes('the card')).click()"
    )
    await page.until("document.getElementById('value')?.value.includes('\"bad\"')")
    assert await axe(page) == []
    await page.ask(
        "(v => { v.value = v.value.replace('\"bad\"', '\"good\"'); })(document.getElementById('value'))"
    )
    before = shop.seen.count("dan")
    await page.ask("document.getElementById('replay').click()")
    await page.until(f"{TOLD}.startsWith('Replayed')")
    async with asyncio.timeout(10):
        while shop.seen.count("dan") == before:  # noqa: ASYNC110  - the agent's own list
            await asyncio.sleep(0.01)
    await page.until("document.querySelector('.pairs').innerText.includes('replayed')")
    await page.ask("document.getElementById('replay').click()")  # twice is asked for
    await page.until("document.querySelector('dialog[open] h2')?.textContent === 'Replay it again?'")
    await page.press("Escape")
    await page.until("!document.querySelector('dialog[open]')")
    await page.go(f"{shop.url}/console/dead-letters")
    other = "[...document.querySelectorAll('.vrow')].find(r => !r.innerText.includes('agent-failed'))"
    await page.until(f"Boolean({other})")
    left = await page.ask(ROWS)
    await page.ask(f"{other}.click()")
    await page.until("document.getElementById('drop') !== null")
    await page.ask("document.getElementById('drop').click()")
    await page.until("document.querySelector('dialog[open] h2')?.textContent === 'Drop this dead letter?'")
    await page.ask("document.querySelector('dialog[open] .primary').click()")
    await page.until("location.pathname === '/console/dead-letters'")
    await page.until(f"{text('counted')} !== '' && {ROWS} === {left - 1}")
    await page.go(f"{shop.url}/console/dead-letters?state=dropped")
    await page.until(f"{ROWS} === 1")


async def test_an_order_by_value_is_that_of_the_whole_table_and_live(page: Page, shop: Shop) -> None:
    await page.open(f"{shop.url}/console/tables/orders_by_user?sort=-value")
    await page.until(f"{keys()} === 'cyd,bob,ann,dan'")
    for _ in range(3):
        await shop.app.topic("orders").send(key="ann", value=event("order", T0_MS, user="ann", amount=1))
    await page.until(f"{keys()}.startsWith('ann,cyd') && {number('ann')} === '4'")
    assert "older version" not in await page.ask(TOLD)
    await page.go(f"{shop.url}/console/tables/spending?sort=-spent")
    await page.until(f"{keys()} === 'cyd,bob,ann,dan'")
    assert await page.ask("document.getElementById('sort').selectedOptions[0].textContent") == "largest spent"
    assert page.console == []
