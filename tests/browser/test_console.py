"""The frame of the console and its overview, in a real browser: pages, back button, keyboard, figures."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from tests.browser.chrome import Page
from tests.browser.conftest import NOW_MS, axe, number, send_events, text
from tests.support.web_fakes import SETTINGS, Cluster

LIVE = "document.getElementById('state').dataset.state === 'live'"
TITLE = "document.querySelector('h1')?.textContent"
NOTHING = "\N{EN DASH}"
PAGES = {
    "/": "Overview",
    "/console/topics": "Topics",
    "/console/topics/events": "events",
    "/console/agents": "Agents",
    "/console/tables": "Tables",
    "/console/tables/counts": "counts",
    "/console/tables/counts/row?key=ann": "ann",
    "/console/windows": "Windows",
    "/console/windows/by_type": "Late events of by_type",
    "/console/dead-letters": "Dead letters",
    "/console/workers": "Workers",
    "/console/subscriptions": "Subscriptions",
    "/console/breakers": "Circuit breakers",
}


async def test_each_page_has_an_address_and_the_back_button_leads_back(page: Page, cluster: Cluster) -> None:
    async with cluster.run() as (served,):
        await page.open(served.url)
        await page.until(f"{TITLE} === 'Overview'")
        for name in ("Tables", "Workers", "Windows"):
            link = f"[...document.querySelectorAll('#nav a')].find(a => a.textContent.startsWith('{name}'))"
            await page.ask(f"{link}.click()")
            await page.until(f"{TITLE} === '{name}'")
            assert await page.ask("location.pathname") == f"/console/{name.lower()}"
            assert await page.ask(f"{link}.getAttribute('aria-current')") == "page"
            await page.until(f"document.title.startsWith('{name}')")
        for name in ("Workers", "Tables", "Overview"):
            await page.ask("history.back()")
            await page.until(f"{TITLE} === '{name}'")
        await page.ask("history.forward()")
        await page.until(f"{TITLE} === 'Tables'")
        await page.go(f"{served.url}/console/tables/counts")  # a link that somebody was sent
        await page.until(f"{number('ann')} === '10'")
        await page.go(f"{served.url}/console/no/such/page")
        await page.until(f"{TITLE} === 'Nothing here'")


async def test_keys_lead_to_every_page_and_to_the_search(page: Page, cluster: Cluster) -> None:
    async with cluster.run() as (served,):
        await page.open(served.url)
        await page.until(LIVE)
        for key, title in [
            ("t", "Tables"),
            ("k", "Workers"),
            ("p", "Topics"),
            ("a", "Agents"),
            ("o", "Overview"),
        ]:
            await page.press("g")
            await page.press(key)
            await page.until(f"{TITLE} === '{title}'")
        await page.press("?")
        await page.until("document.getElementById('help-dialog').open")
        await page.press("Escape")
        await page.go(f"{served.url}/console/tables/counts")
        await page.until(f"{number('ann')} === '10'")
        await page.press("/")
        await page.until("document.activeElement.id === 'search'")
        await page.press("b")
        await page.until("document.querySelectorAll('.vrow').length === 2")
        assert await page.ask("location.search") == "?prefix=b"
        await page.press("Escape")
        await page.press("Escape")
        await page.until(f"{TITLE} === 'Tables'")


async def test_everything_can_be_reached_by_tab_and_has_a_name(page: Page, cluster: Cluster) -> None:
    async with cluster.run() as (served,):
        await page.open(f"{served.url}/console/tables/counts")
        await page.until(f"{number('ann')} === '10'")
        reached: list[str] = []
        describe = (
            "(e => e.getAttribute('aria-label') || (e.getAttribute('aria-labelledby') || '').split(' ')"
            ".map(id => document.getElementById(id)?.textContent).join('') || e.labels?.[0]?.textContent"
            " || e.textContent.trim())(document.activeElement)"
        )
        for _ in range(60):
            await page.press("Tab")
            reached.append(await page.ask(describe))
            if reached[-1] == "Health":
                break
        assert reached[0] == "Skip to the page"
        assert {"Theme: auto", "Tables", "Search keys", "Order", "Look up", "Pause", "Rows of counts"} <= set(
            reached
        )
        assert reached[-1] == "Health"
        assert all(reached)
        assert await page.ask("document.documentElement.lang") == "en"


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
async def test_no_page_breaks_a_rule_of_axe(page: Page, cluster: Cluster, dark: bool) -> None:
    async with cluster.run([0], [1, 2]) as (served, _):
        await page.look(width=1280, height=800, dark=dark, still=True)
        broken: dict[str, list[str]] = {}
        for address, title in PAGES.items():
            await page.open(served.url + address)
            await page.until(f"{TITLE} === '{title}' && {LIVE}")
            await page.until("!document.querySelector('#page .loading')")
            broken[address] = await axe(page)
        assert {address: rules for address, rules in broken.items() if rules} == {}


async def test_no_page_is_wider_than_a_phone(page: Page, cluster: Cluster) -> None:
    cluster.put("counts", "a-very-long-key-" * 12, 123_456_789, start_ms=NOW_MS)
    async with cluster.run() as (served,):
        await page.look(width=400, height=800)
        for address, title in PAGES.items():
            await page.open(served.url + address)
            await page.until(f"{TITLE} === '{title}'")
            await page.until("!document.querySelector('#page .loading')")
            assert await page.ask("document.documentElement.scrollWidth") <= 400, address
            assert await axe(page) == [], address


async def test_the_overview_tells_rate_workers_and_checkpoints(page: Page, cluster: Cluster) -> None:
    async with cluster.run([0, 1], [2]) as (served, other):
        served.metrics.checkpoint_seconds.observe(0.012)
        await page.open(served.url)
        await page.until(f"{text('worker-count')} === '2' && {text('worker-count-detail')} === 'all ready'")
        await page.until(f"{text('checkpoint')} === '12ms'")
        await page.until(f"{text('lag-detail')} === 'caught up'")
        sending = asyncio.create_task(send_events(cluster))
        await page.until(f"Number({text('rate')}.replaceAll(',', '')) > 5")
        sending.cancel()
        # An hour of it is drawn, and said in words.
        await page.until("document.querySelectorAll('.tile canvas').length === 5", 20)
        label = "document.querySelector('.tile-rate .plot').getAttribute('aria-label')"
        await page.until(f"{label}.startsWith('Events per second, last hour: now ')")
        await cluster.kill(cluster.workers.index(other))
        await page.until(f"{text('worker-count-detail')} === '1 does not answer'")
        assert "does not answer" in await page.ask(text("alarm"))
        assert page.console == []


async def test_without_its_worker_the_page_claims_nothing(page: Page, cluster: Cluster) -> None:
    async with cluster.run([0, 1], [2]) as (served, _):
        served.metrics.checkpoint_seconds.observe(0.012)
        await page.open(served.url)
        await page.until(
            f"{text('worker-count-detail')} === 'all ready' && {text('lag-detail')} === 'caught up'"
        )
        await page.until(f"{text('rate')} !== '{NOTHING}'")
        await cluster.kill(0)
        await page.until(f"{text('worker-count-detail')} === 'this worker does not answer'")
        for figure in ("rate", "lag", "failed", "memory", "connections", "checkpoint", "worker-count"):
            assert await page.ask(text(figure)) == NOTHING
        said = await page.ask("document.querySelector('main').innerText")
        assert "caught up" not in said
        assert "ready" not in said
        assert "This worker does not answer since" in said
        await page.until("document.querySelector('section .is-stale table') !== null")


async def test_a_peer_that_is_dead_or_stalled_is_not_caught_up(page: Page, cluster: Cluster) -> None:
    async with cluster.run([0, 1], [2]) as (served, other):
        await page.open(served.url)
        await page.until(f"{text('lag-detail')} === 'caught up'")
        other.is_ready, other.reason = False, "the broker has not answered for 42 s"
        await page.until(f"{text('lag-detail')} === 'known of 1 of 2 workers'")
        assert await page.ask(text("lag")) == NOTHING
        await cluster.kill(1)
        await page.until("document.getElementById('alarm').innerText.includes('(events 2)')")
        assert await page.ask(text("lag-detail")) == "known of 1 of 2 workers"
        # What it owned is missing in each figure of a table.
        await page.until("document.querySelector('tbody')?.innerText.includes('2 missing')")
        await page.until("[...document.querySelectorAll('tbody tr')].every(tr => tr.innerText.includes('≥'))")


async def test_the_workers_page_tells_who_owns_what_and_who_is_silent(page: Page, cluster: Cluster) -> None:
    async with cluster.run([0, 1], [2]) as (served, other):
        await page.open(f"{served.url}/console/workers")
        await page.until("document.querySelectorAll('.worker[data-state=ready]').length === 2")
        partitions = "[...document.querySelectorAll('.partition')].map(p => p.textContent).sort().join()"
        assert await page.ask(partitions) == "0,1,2"
        other.is_ready, other.reason = False, "the broker has not answered for 42 s"
        await page.until(
            "document.querySelector('.worker[data-state=stalled]')?.innerText.includes('for 42 s')"
        )
        await cluster.kill(1)
        await page.until("document.querySelector('.worker[data-state=unreachable]') !== null")
        await page.until("document.getElementById('nav').innerText.includes('1 silent')")
        await cluster.kill(0)
        states = "[...document.querySelectorAll('.worker')].map(w => w.dataset.state).sort().join()"
        await page.until(f"{states} === 'unknown,unreachable'")


async def test_an_app_without_events_says_what_to_do_next(page: Page) -> None:
    async with Cluster().run() as (served,):
        for address in ("/", "/console/tables"):
            await page.open(served.url + address)
            await page.until("document.querySelector('.empty')?.innerText.includes('streamflow send')")
        await page.open(f"{served.url}/console/tables/counts")
        await page.until(f"{text('counted')}.startsWith('No rows yet')")


async def test_a_token_is_asked_for_and_kept_in_the_tab(page: Page, cluster: Cluster) -> None:
    cluster.settings = replace(SETTINGS, tokens=("secret",))
    async with cluster.run() as (served,):
        await page.open(f"{served.url}/console/tables/counts")
        await page.until("document.getElementById('token-dialog').open")
        await page.until("document.activeElement.id === 'token'")
        await page.ask("document.getElementById('token').value = 'secret'")
        await page.press("Enter")
        await page.until(f"{LIVE} && {number('ann')} === '10'")
        assert not await page.ask("document.getElementById('token-dialog').open")
        assert await page.ask("localStorage.getItem('token')") is None


async def test_the_theme_is_chosen_by_button_and_kept(page: Page, cluster: Cluster) -> None:
    background = "getComputedStyle(document.body).backgroundColor"
    async with cluster.run() as (served,):
        await page.look(width=1200, height=800, dark=True)
        await page.open(served.url)
        await page.until(LIVE)
        dark = await page.ask(background)
        await page.ask("document.getElementById('theme').click()")
        light = await page.ask(background)
        assert light != dark
        await page.open(served.url)
        await page.until(LIVE)
        assert await page.ask(background) == light


async def test_the_scripts_and_styles_of_every_page_pass_the_strict_policy(
    page: Page, cluster: Cluster
) -> None:
    async with cluster.run() as (served,):
        await page.open(served.url)
        await page.until(f"{LIVE} && document.querySelectorAll('#nav a').length === 9")
        assert page.console == []
        # The policy is there, and bites.
        await page.ask(
            "document.body.append(Object.assign(document.createElement('script'), {text: 'window.bad=1'}))"
        )
        assert await page.ask("window.bad") is None
        assert page.console != []
