"""The dashboard in a real browser: live rows, coming back, keyboard, names for what is on the page."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from tests.browser.chrome import Page
from tests.browser.conftest import NOW_MS
from tests.support.web_fakes import SETTINGS, SIZE_MS, Cluster

LIVE = "document.getElementById('state').dataset.state === 'live'"
DOWN = "document.getElementById('state').dataset.state === 'down'"


def row(table: str, key: str, window: int = 0) -> str:
    """The line of a key in the window number ``window`` of a card, newest first."""
    return (
        f"[...(document.querySelectorAll('[data-table={table}] tbody')[{window}] ?? document)"
        f".querySelectorAll('tr.row')].find(tr => tr.querySelector('th').textContent === '{key}')"
    )


def number(table: str, key: str, window: int = 0) -> str:
    return f"({row(table, key, window)})?.querySelector('.number').textContent"


async def test_rows_are_shown_newest_window_first_and_change_live(page: Page, cluster: Cluster) -> None:
    async with cluster.run([0], [1, 2]) as (served, _):
        await page.open(served.url)
        await page.until(LIVE)
        for index, name in enumerate(["ann", "bob", "cyd"]):
            await page.until(f"{number('counts', name)} === '{10 * (index + 1)}'")
            await page.until(f"{number('counts', name, 1)} === '{index + 1}'")
        assert await page.ask("document.querySelectorAll('[data-table=counts] .badge').length") == 2
        for index, name in enumerate(["ann", "bob", "cyd"]):  # they live on both workers
            cluster.put("counts", name, 1_000 + index, start_ms=NOW_MS)
            await page.until(f"{number('counts', name)} === '1,00{index}'")
        assert await page.ask(f"Number({row('counts', 'ann')}.dataset.changes)") >= 1
        await page.until(f"{row('counts', 'ann')}.classList.contains('is-flashing')")
        cluster.put("counts", "dan", 5, start_ms=NOW_MS + SIZE_MS)
        await page.until(f"{number('counts', 'dan')} === '5'")
        assert await page.ask("document.querySelectorAll('[data-table=counts] tbody').length") == 3
        cluster.put("counts", "bob", None, start_ms=NOW_MS - SIZE_MS, op="expire")
        await page.until(f"!({row('counts', 'bob', 2)})")
        await page.until("document.querySelector('[data-table=totals]').innerText.includes('click 40')")
        assert page.console == []


async def test_the_overview_tells_rate_workers_and_checkpoints(page: Page, cluster: Cluster) -> None:
    async with cluster.run([0, 1], [2]) as (served, other):
        served.metrics.checkpoint_seconds.observe(0.012)
        await page.open(served.url)
        await page.until("document.getElementById('worker-count').textContent === '2'")
        await page.until("document.getElementById('checkpoint').textContent === '12ms'")
        await page.until("document.querySelectorAll('.worker').length === 2")
        partitions = "[...document.querySelectorAll('.partition')].map(p => p.textContent).sort().join()"
        assert await page.ask(partitions) == "0,1,2"
        sending = asyncio.create_task(send_events(cluster))
        await page.until("Number(document.getElementById('rate').textContent.replaceAll(',', '')) > 5")
        sending.cancel()
        await cluster.kill(cluster.workers.index(other))
        await page.until("document.querySelector('.worker[data-state=away]') !== null")


async def send_events(cluster: Cluster) -> None:
    for count in range(2_000):
        cluster.put("counts", "ann", count, start_ms=NOW_MS)
        await asyncio.sleep(0.02)


NOTHING = "\N{EN DASH}"


def text(element: str) -> str:
    return f"document.getElementById('{element}').textContent"


async def test_without_its_worker_the_page_claims_nothing(page: Page, cluster: Cluster) -> None:
    async with cluster.run([0, 1], [2]) as (served, _):
        served.metrics.checkpoint_seconds.observe(0.012)
        await page.open(served.url)
        await page.until(f"{text('worker-detail')} === 'all ready' && {text('lag-detail')} === 'caught up'")
        await page.until(f"{text('rate')} !== '{NOTHING}'")
        await cluster.kill(0)
        await page.until(f"{text('worker-detail')} === 'this worker does not answer'")
        for figure in ("rate", "lag", "checkpoint", "worker-count"):
            assert await page.ask(text(figure)) == NOTHING
        states = "[...document.querySelectorAll('.worker')].map(w => w.dataset.state).sort().join()"
        assert await page.ask(states) == "away,unknown"
        said = await page.ask("document.querySelector('main').innerText")
        assert "caught up" not in said
        assert "ready" not in said


async def test_a_peer_that_is_dead_or_stalled_is_not_caught_up(page: Page, cluster: Cluster) -> None:
    async with cluster.run([0, 1], [2]) as (served, other):
        await page.open(served.url)
        await page.until(f"{text('lag-detail')} === 'caught up'")
        other.is_ready, other.reason = False, "the broker has not answered for 42 s"
        await page.until(f"{text('lag-detail')} === 'known of 1 of 2 workers'")
        assert await page.ask(text("lag")) == NOTHING
        await page.until(
            "document.querySelector('.worker[data-state=stalled]').innerText.includes('for 42 s')"
        )
        await cluster.kill(1)
        await page.until("document.querySelector('.worker[data-state=away]') !== null")
        assert await page.ask(text("lag-detail")) == "known of 1 of 2 workers"


async def test_what_is_selected_stays_selected(page: Page, cluster: Cluster) -> None:
    async with cluster.run([0, 1], [2]) as (served, _):
        await page.open(served.url)
        await page.until(
            f"{number('counts', 'ann')} === '10' && document.querySelector('.worker .name') !== null"
        )
        asked = "performance.getEntriesByType('resource').filter(e => e.name.endsWith('/v1/status')).length"
        name, key = "document.querySelector('.worker .name')", row("counts", "ann") + ".querySelector('th')"
        for place in (name, key):
            await page.ask(f"getSelection().selectAllChildren({place})")
            selected = await page.ask("getSelection().toString()")
            assert selected
            before = await page.ask(asked)
            sending = asyncio.create_task(send_events(cluster))  # 'ann' changes, and becomes the largest
            await page.until(f"{asked} >= {before + 3}")
            sending.cancel()
            assert await page.ask("getSelection().toString()") == selected


async def test_the_largest_rows_are_those_of_all_keys_or_say_of_which(page: Page, cluster: Cluster) -> None:
    for index in range(1_500):
        cluster.put("users", f"k{index:05d}", 10_000 if index == 0 else index % 7)
    async with cluster.run() as (served,):
        await page.open(served.url)
        await page.until(f"{number('users', 'k00000')} === '10,000'")
        card = "(document.querySelector('[data-table=users]')?.innerText ?? '')"
        assert "largest of" not in await page.ask(card)
        for index in range(1_500, 5_000):
            cluster.put("users", f"k{index:05d}", 1)
        await page.open(served.url)
        await page.until(f"{card}.includes('largest of the first 4,000 rows')")
        assert "at least" in await page.ask(card)


async def test_the_page_comes_back_after_its_worker_did(page: Page, cluster: Cluster) -> None:
    settings = replace(SETTINGS, ws_reconnect_ms=200)
    cluster.settings = settings
    async with cluster.run() as (served,):
        await page.open(served.url)
        await page.until(f"{LIVE} && {number('counts', 'ann')} === '10'")
        await cluster.kill(0)
        await page.until(DOWN)
        assert "Reconnecting" in await page.ask("document.getElementById('state').textContent")
        cluster.put("counts", "ann", 77, start_ms=NOW_MS)
        port = int(served.url.rpartition(":")[2])
        cluster.workers.clear()
        await cluster.add(range(3), replace(settings, port=port, port_explicit=True))
        await page.until(f"{LIVE} && {number('counts', 'ann')} === '77'")
        cluster.put("counts", "ann", 78, start_ms=NOW_MS)
        await page.until(f"{number('counts', 'ann')} === '78'")


async def test_a_worker_that_comes_back_without_knowing_its_tables_does_not_freeze_the_page(
    page: Page, cluster: Cluster
) -> None:
    settings = replace(SETTINGS, ws_reconnect_ms=200)
    cluster.settings = settings
    async with cluster.run() as (served,):
        await page.open(served.url)
        await page.until(f"{LIVE} && {number('counts', 'ann')} === '10'")
        await cluster.kill(0)
        await page.until(DOWN)
        port = int(served.url.rpartition(":")[2])
        cluster.workers.clear()
        back = await cluster.add(range(3), replace(settings, port=port, port_explicit=True), knows=False)
        await page.until(
            f"{LIVE} && document.querySelector('[data-table=counts]').innerText.includes('not live')"
        )
        assert await page.ask(number("counts", "ann")) == "10"  # what was shown stays
        cluster.put("counts", "ann", 77, start_ms=NOW_MS)
        back.know_tables()
        await page.until(f"{number('counts', 'ann')} === '77'")
        cluster.put("counts", "ann", 78, start_ms=NOW_MS)
        await page.until(f"{number('counts', 'ann')} === '78'")
        assert not await page.ask("document.body.innerText.includes('not live')")


async def test_an_app_without_events_says_what_to_do_next(page: Page) -> None:
    async with Cluster().run() as (served,):
        await page.open(served.url)
        await page.until("document.getElementById('no-tables').innerText.includes('streamflow send')")
        await page.until("document.querySelectorAll('.card .empty').length === 4")


async def test_what_users_send_is_text_and_never_markup(page: Page, cluster: Cluster) -> None:
    evil = "<img src=x onerror=document.title=1>"
    cluster.put("counts", evil, 3, start_ms=NOW_MS)
    cluster.put("totals", None, {"n": 1, evil: evil, "deep": {evil: 3}}, start_ms=NOW_MS)
    cluster.put("users", evil, evil)
    async with cluster.run() as (served,):
        await page.open(served.url)
        await page.until(f"{number('counts', evil)} === '3'")
        await page.until("document.querySelector('[data-table=users]').innerText.includes('<img')")
        assert await page.ask("document.querySelectorAll('img').length") == 0
        assert page.console == []


async def test_a_token_is_asked_for_and_kept_in_the_tab(page: Page, cluster: Cluster) -> None:
    cluster.settings = replace(SETTINGS, tokens=("secret",))
    async with cluster.run() as (served,):
        await page.open(served.url)
        await page.until("document.getElementById('token-dialog').open")
        await page.until("document.activeElement.id === 'token'")
        await page.ask("document.getElementById('token').value = 'secret'")
        await page.press("Enter", 13)
        await page.until(f"{LIVE} && {number('counts', 'ann')} === '10'")
        assert not await page.ask("document.getElementById('token-dialog').open")
        assert await page.ask("localStorage.getItem('token')") is None


async def test_everything_can_be_reached_by_keyboard_and_has_a_name(page: Page, cluster: Cluster) -> None:
    async with cluster.run() as (served,):
        await page.open(served.url)
        await page.until(f"{number('counts', 'ann')} === '10'")
        reached: list[str] = []
        describe = (
            "(e => e.getAttribute('aria-label') || (e.getAttribute('aria-labelledby') || '').split(' ')"
            ".map(id => document.getElementById(id)?.textContent).join('') || e.textContent.trim())"
            "(document.activeElement)"
        )
        for _ in range(16):
            await page.press("Tab", 9)
            reached.append(await page.ask(describe))
        assert reached[0] == "Skip to the tables"
        assert "Theme: auto" in reached
        assert {"by_type", "counts", "totals", "users"} <= set(reached)
        assert "Metrics" in reached
        assert all(reached)
        assert await page.ask("document.documentElement.lang") == "en"
        assert await page.ask("document.querySelectorAll('h1').length") == 1
        assert await page.ask("[...document.querySelectorAll('table')].every(t => t.caption.textContent)")
        unnamed = "[...document.querySelectorAll('input')].filter(i => !i.labels.length).length"
        assert await page.ask(unnamed) == 0


async def test_the_theme_is_chosen_by_button_and_kept(page: Page, cluster: Cluster) -> None:
    background = "getComputedStyle(document.body).backgroundColor"
    async with cluster.run() as (served,):
        await page.look(width=1200, height=800, dark=True)
        await page.open(served.url)
        dark = await page.ask(background)
        await page.ask("document.getElementById('theme').click()")
        light = await page.ask(background)
        assert light != dark
        await page.open(served.url)
        assert await page.ask(background) == light


async def test_colours_are_readable_in_light_and_dark(page: Page, cluster: Cluster) -> None:
    """Contrast of text on its background, by WCAG's formula: 4.5 at least."""
    contrast = """
      (() => {
        const channel = c => (c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
        const parse = text => text.match(/[\\d.]+/g).map(Number);
        const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
        const behind = node => {
          for (; node; node = node.parentElement) {
            const colour = parse(getComputedStyle(node).backgroundColor);
            if (colour.length === 3 || colour[3] > 0.9) return colour;
          }
          return [255, 255, 255];
        };
        let worst = 21, where = '';
        for (const node of document.querySelectorAll('body *')) {
          const hasText = [...node.childNodes].some(c => c.nodeType === 3 && c.textContent.trim());
          if (!hasText || !node.getClientRects().length || node.closest('noscript, .skip')) continue;
          const [a, b] = [light(parse(getComputedStyle(node).color)), light(behind(node))];
          const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
          if (ratio < worst) { worst = ratio; where = node.outerHTML.slice(0, 120); }
        }
        return [worst, where];
      })()"""
    async with cluster.run() as (served,):
        for dark in (False, True):
            await page.look(width=1200, height=800, dark=dark, still=True)
            await page.open(served.url)
            await page.until(f"{LIVE} && {number('counts', 'ann')} === '10'")
            worst, where = await page.ask(contrast)
            assert worst >= 4.5, (dark, worst, where)


async def test_a_narrow_window_does_not_scroll_sideways(page: Page, cluster: Cluster) -> None:
    cluster.put("counts", "a-very-long-key-" * 12, 123_456_789, start_ms=NOW_MS)
    async with cluster.run() as (served,):
        await page.look(width=400, height=800)
        await page.open(served.url)
        await page.until(f"{number('counts', 'ann')} === '10'")
        assert await page.ask("document.documentElement.scrollWidth") <= 400


async def test_who_prefers_less_motion_gets_none(page: Page, cluster: Cluster) -> None:
    async with cluster.run() as (served,):
        await page.look(width=1200, height=800, still=True)
        await page.open(served.url)
        await page.until(f"{LIVE} && {number('counts', 'ann')} === '10'")
        cluster.put("counts", "ann", 11, start_ms=NOW_MS)
        await page.until(f"{number('counts', 'ann')} === '11'")
        assert await page.ask("document.getAnimations().length") == 0


async def test_a_busy_table_stays_small_on_the_page(page: Page, cluster: Cluster) -> None:
    async with cluster.run() as (served,):
        await page.open(served.url)
        await page.until(LIVE)
        for window in range(30):
            for index in range(100):
                cluster.put("counts", f"k{index}", index, start_ms=NOW_MS + window * SIZE_MS)
            await asyncio.sleep(0.01)
        await page.until(f"{number('counts', 'k99')} === '99'")
        lines = await page.ask("document.querySelectorAll('[data-table=counts] tr').length")
        assert lines <= 8 * 12
