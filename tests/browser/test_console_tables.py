"""Tables in the console: live rows, order over the whole table, long lists, coming back, one row."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from streamflow.query.rows import LateRow, Row
from tests.browser.chrome import Page
from tests.browser.conftest import NOW_MS, keys, number, row, send_events, text
from tests.support.web_fakes import SETTINGS, SIZE_MS, Cluster, partition_of

LIVE = "document.getElementById('state').dataset.state === 'live'"
DOWN = "document.getElementById('state').dataset.state === 'down'"
TOLD = "document.getElementById('told').innerText"


async def test_rows_are_shown_newest_window_first_and_change_live(page: Page, cluster: Cluster) -> None:
    async with cluster.run([0], [1, 2]) as (served, _):
        await page.open(f"{served.url}/console/tables/counts")
        await page.until(f"{LIVE} && {keys()} === 'cyd,bob,ann,cyd,bob,ann'")
        for index, name in enumerate(["ann", "bob", "cyd"]):
            await page.until(f"{number(name)} === '{10 * (index + 1)}'")
            await page.until(f"{number(name, 1)} === '{index + 1}'")
        for index, name in enumerate(["ann", "bob", "cyd"]):  # they live on both workers
            cluster.put("counts", name, 1_000 + index, start_ms=NOW_MS)
            await page.until(f"{number(name)} === '1,00{index}'")
        assert await page.ask(f"Number({row('ann')}.dataset.changes)") >= 1
        await page.until(f"{row('ann')}.classList.contains('is-flashing')")
        cluster.put("counts", "dan", 5, start_ms=NOW_MS + SIZE_MS)
        await page.until(f"{keys()} === 'dan,cyd,bob,ann,cyd,bob,ann'")
        cluster.put("counts", "bob", None, start_ms=NOW_MS - SIZE_MS, op="expire")
        await page.until(f"{keys()} === 'dan,cyd,bob,ann,cyd,ann'")
        await page.until(f"{text('counted')} === '6 rows'")
        assert page.console == []


async def test_paused_rows_stand_still_and_go_on_where_they_should_be(page: Page, cluster: Cluster) -> None:
    async with cluster.run() as (served,):
        await page.open(f"{served.url}/console/tables/counts")
        await page.until(f"{LIVE} && {number('ann')} === '10'")
        await page.press("p")
        await page.until(f"{TOLD}.startsWith('Paused: 0 changes')")
        cluster.put("counts", "ann", 11, start_ms=NOW_MS)
        cluster.put("counts", "eve", 1, start_ms=NOW_MS)
        await page.until(f"{TOLD}.startsWith('Paused: 2 changes')")
        assert await page.ask(number("ann")) == "10"
        assert await page.ask("document.getElementById('pause').getAttribute('aria-pressed')") == "true"
        await page.press("p")
        await page.until(f"{number('ann')} === '11' && {number('eve')} === '1'")
        assert await page.ask(TOLD) == ""


async def test_what_is_chosen_stands_in_the_address(page: Page, cluster: Cluster) -> None:
    async with cluster.run() as (served,):
        await page.open(f"{served.url}/console/tables/counts?state=closed&sort=key")
        await page.until(f"{keys()} === 'ann,bob,cyd'")
        assert await page.ask(number("ann")) == "1"
        choose = "s => { s.value = 'all'; s.dispatchEvent(new Event('change')); }"
        await page.ask(f"({choose})(document.getElementById('window-state'))")
        await page.until(f"{keys()} === 'ann,ann,bob,bob,cyd,cyd'")
        assert await page.ask("location.search") == "?sort=key"
        cluster.put("counts", "abe", 7, start_ms=NOW_MS)
        await page.until(f"{keys()} === 'abe,ann,ann,bob,bob,cyd,cyd'")
        # Copied as curl: with what is chosen. The clipboard is the browser's own affair.
        await page.ask(
            "Object.defineProperty(navigator, 'clipboard', {value: {writeText: t => { window.copied = t; }}})"
        )
        await page.press("c")
        await page.until("window.copied?.startsWith('curl -fsS ')")
        assert f"'{served.url}/v1/tables/counts/rows?sort=key&limit=100'" in await page.ask("window.copied")


async def test_a_window_is_picked_and_its_neighbours_follow(page: Page, cluster: Cluster) -> None:
    async with cluster.run() as (served,):
        start = NOW_MS + SIZE_MS
        cluster.put("counts", "dan", 5, start_ms=start)
        await page.open(f"{served.url}/console/tables/counts?start={iso(start)}&end={iso(start + SIZE_MS)}")
        await page.until(f"{keys()} === 'dan'")
        await page.ask("document.getElementById('earlier').click()")
        await page.until(f"{keys()} === 'cyd,bob,ann' && {number('ann')} === '10'")
        await page.ask("document.getElementById('earlier').click()")
        await page.until(f"{number('ann')} === '1'")
        await page.ask("document.getElementById('earlier').click()")
        await page.until(f"{text('counted')}.startsWith('No row is so')")
        await page.ask("document.getElementById('any-window').click()")
        await page.until("document.querySelectorAll('.vrow').length === 7")


def iso(ms: int) -> str:
    from streamflow.clock import rfc3339

    return rfc3339(ms)


async def test_a_row_has_a_page_that_is_live(page: Page, cluster: Cluster) -> None:
    async with cluster.run([0], [1, 2]) as (served, _):
        await page.open(f"{served.url}/console/tables/counts")
        await page.until(f"{LIVE} && {number('ann')} === '10'")
        await page.ask("document.querySelector('.vlist').focus()")
        await page.press("ArrowDown")
        await page.press("j")
        await page.press("k")
        await page.press("ArrowDown")
        await page.until("document.querySelector('.vrow.is-active .text').textContent === 'ann'")
        await page.press("Enter")
        await page.until("document.querySelector('h1').textContent === 'ann'")
        value, windows = (
            "document.getElementById('value').textContent",
            "document.querySelectorAll('.vrow').length",
        )
        await page.until(f"{value} === '10' && {windows} === 2")
        await page.until("document.getElementById('row-facts').innerText.includes('127.0.0.1')")
        cluster.put("counts", "ann", 11, start_ms=NOW_MS)
        await page.until(f"{value} === '11'")
        await page.press("Escape")
        await page.until(f"{number('ann')} === '11'")
        await page.ask("document.getElementById('key').value = 'bob'")
        await page.ask("document.querySelector('form.field button').click()")
        await page.until(f"document.querySelector('h1').textContent === 'bob' && {value} === '20'")
        cluster.put("counts", "bob", 21, start_ms=NOW_MS + SIZE_MS)  # without a time: the newest window
        await page.until(f"{value} === '21' && {windows} === 3")
        await page.go(f"{served.url}/console/tables/counts/row?key=nobody")
        await page.until(f"{TOLD}.includes('no row for the key')")


async def test_the_page_comes_back_after_its_worker_did(page: Page, cluster: Cluster) -> None:
    settings = replace(SETTINGS, ws_reconnect_ms=200)
    cluster.settings = settings
    async with cluster.run() as (served,):
        await page.open(f"{served.url}/console/tables/counts")
        await page.until(f"{LIVE} && {number('ann')} === '10'")
        await cluster.kill(0)
        await page.until(DOWN)
        assert "Reconnecting" in await page.ask(text("state"))
        await page.until(f"{TOLD}.includes('Not live since')")
        assert await page.ask("document.querySelector('.vlist').classList.contains('is-stale')")
        cluster.put("counts", "ann", 77, start_ms=NOW_MS)
        port = int(served.url.rpartition(":")[2])
        cluster.workers.clear()
        await cluster.add(range(3), replace(settings, port=port, port_explicit=True))
        await page.until(f"{LIVE} && {number('ann')} === '77'")
        cluster.put("counts", "ann", 78, start_ms=NOW_MS)
        await page.until(f"{number('ann')} === '78'")
        await page.until("!document.querySelector('.is-stale')")


async def test_a_worker_that_comes_back_without_knowing_its_tables_does_not_freeze_the_page(
    page: Page, cluster: Cluster
) -> None:
    settings = replace(SETTINGS, ws_reconnect_ms=200)
    cluster.settings = settings
    async with cluster.run() as (served,):
        await page.open(f"{served.url}/console/tables/counts")
        await page.until(f"{LIVE} && {number('ann')} === '10'")
        await cluster.kill(0)
        await page.until(DOWN)
        port = int(served.url.rpartition(":")[2])
        cluster.workers.clear()
        back = await cluster.add(range(3), replace(settings, port=port, port_explicit=True), knows=False)
        await page.until(f"{LIVE} && {TOLD}.includes('Not live: ')")
        assert await page.ask(number("ann")) == "10"  # what was shown stays
        assert await page.ask("document.querySelector('.vlist').classList.contains('is-stale')")
        cluster.put("counts", "ann", 77, start_ms=NOW_MS)
        back.know_tables()
        await page.until(f"{number('ann')} === '77'")
        cluster.put("counts", "ann", 78, start_ms=NOW_MS)
        await page.until(f"{number('ann')} === '78'")
        await page.until(f"!{TOLD}.includes('Not live')")


async def test_rows_of_a_dead_peer_look_old_and_are_said_to_be(page: Page, cluster: Cluster) -> None:
    async with cluster.run([0], [1, 2]) as (served, _):
        await page.open(f"{served.url}/console/tables/counts")
        await page.until(f"{LIVE} && {keys()} === 'cyd,bob,ann,cyd,bob,ann'")
        await cluster.kill(1)
        await page.until(f"{TOLD}.includes('partitions 1, 2')")
        theirs = {name for name in ("ann", "bob", "cyd") if partition_of(name) != 0}
        assert theirs
        for name in theirs:
            await page.until(f"{row(name)}.classList.contains('is-stale')")
        for name in {"ann", "bob", "cyd"} - theirs:
            assert not await page.ask(f"{row(name)}.classList.contains('is-stale')")
        await page.until("document.querySelector('.facts').innerText.includes('≥')")


async def test_what_is_selected_stays_selected(page: Page, cluster: Cluster) -> None:
    async with cluster.run([0, 1], [2]) as (served, _):
        await page.open(f"{served.url}/console/tables/counts?sort=-value")
        await page.until(f"{number('ann')} === '10'")
        asked = "performance.getEntriesByType('resource').filter(e => e.name.endsWith('/v1/status')).length"
        for place in ("document.querySelector('h1')", f"{row('ann')}.querySelector('.text')"):
            await page.ask(f"getSelection().selectAllChildren({place})")
            selected = await page.ask("getSelection().toString()")
            assert selected
            before = await page.ask(asked)
            sending = asyncio.create_task(send_events(cluster))  # 'ann' changes, and becomes the largest
            await page.until(f"{asked} >= {before + 3}")
            sending.cancel()
            assert await page.ask("getSelection().toString()") == selected


async def test_what_users_send_is_text_and_never_markup(page: Page, cluster: Cluster) -> None:
    evil = "<img src=x onerror=document.title=1>"
    cluster.put("counts", evil, 3, start_ms=NOW_MS)
    cluster.put("totals", None, {"n": 1, evil: evil, "deep": {evil: 3}}, start_ms=NOW_MS)
    cluster.put("users", evil, evil)
    async with cluster.run() as (served,):
        await page.open(f"{served.url}/console/tables/counts")
        await page.until(f"{number(evil)} === '3'")
        await page.ask(f"{row(evil)}.click()")
        await page.until(f"document.querySelector('h1').textContent === '{evil}'")
        await page.until("document.getElementById('value').textContent === '3'")
        for name in ("totals", "users"):
            await page.go(f"{served.url}/console/tables/{name}")
            await page.until("document.querySelector('.vlist')?.innerText.includes('<img')")
            assert await page.ask("document.querySelectorAll('img').length") == 0
        assert page.console == []


async def test_who_prefers_less_motion_gets_none(page: Page, cluster: Cluster) -> None:
    async with cluster.run() as (served,):
        await page.look(width=1200, height=800, still=True)
        await page.open(f"{served.url}/console/tables/counts")
        await page.until(f"{LIVE} && {number('ann')} === '10'")
        cluster.put("counts", "ann", 11, start_ms=NOW_MS)
        await page.until(f"{number('ann')} === '11'")
        assert await page.ask("document.getAnimations().length") == 0


async def test_ten_thousand_rows_scroll_to_their_end_and_few_are_on_the_page(
    page: Page, cluster: Cluster
) -> None:
    data = cluster.data["users"]
    for index in range(10_000):
        key = f"k{index:05d}"
        where = partition_of(key)
        data.rows[where][None, key] = Row(key, None, None, None, index, where)
    async with cluster.run([0], [1, 2]) as (served, _):
        await page.open(f"{served.url}/console/tables/users")
        await page.until(f"{LIVE} && {number('k00000')} === '0'")
        assert "of 10,000 rows" in await page.ask(text("counted"))
        scroll = "l => { l.scrollTop = l.scrollHeight; return l.innerText.includes('k09999'); }"
        await page.until(f"({scroll})(document.querySelector('.vlist'))", 60)
        assert await page.ask(text("counted")) == "10,000 rows"
        assert await page.ask("document.querySelectorAll('.vrow').length") < 60
        assert await page.ask("document.querySelector('.vlist').getAttribute('aria-rowcount')") == "10001"
        cluster.put("users", "k09999", 123_456)
        await page.until(f"{number('k09999')} === '123.5K'")
        await page.ask("document.querySelector('.vlist').focus()")
        await page.press("Home")
        await page.until(f"{number('k00000')} === '0'")


async def test_a_busy_table_stays_small_on_the_page(page: Page, cluster: Cluster) -> None:
    async with cluster.run() as (served,):
        await page.open(f"{served.url}/console/tables/counts")
        await page.until(LIVE)
        for window in range(30):
            for index in range(100):
                cluster.put("counts", f"k{index}", index, start_ms=NOW_MS + window * SIZE_MS)
            await asyncio.sleep(0.01)
        await page.until(f"{number('k99')} === '99'")
        assert await page.ask("document.querySelectorAll('.vrow').length") < 60


async def test_late_events_are_listed_and_applied(page: Page, cluster: Cluster) -> None:
    for partition in range(3):
        cluster.data["by_type"].late[partition] = [LateRow("click", ((0, SIZE_MS),), 5, 90, partition, True)]
    async with cluster.run([0], [1, 2]) as (served, _):
        await page.open(f"{served.url}/console/windows")
        await page.until("document.querySelector('tbody')?.innerText.includes('by_type')")
        await page.go(f"{served.url}/console/windows/by_type")
        await page.until("document.querySelectorAll('.vrow').length === 3")
        await page.ask("document.getElementById('apply').click()")
        await page.until("document.querySelector('dialog[open] h2').textContent.startsWith('Apply')")
        await page.ask("document.querySelector('dialog[open] button.primary').click()")
        await page.until("document.getElementById('applied').innerText.startsWith('3 applied')")
        await page.until("document.querySelectorAll('.vrow').length === 0")
        assert cluster.data["by_type"].late == {0: [], 1: [], 2: []}
