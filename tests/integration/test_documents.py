"""Every code block of our documents does what it says, on the broker that it names."""

from __future__ import annotations

import os
import pathlib
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from uuid import uuid4

import click
import pytest

from streamflow.cli import COMMANDS, main
from tests.clients.node import find_node
from tests.integration.workers import ROOT, free_port
from tests.support.documents import LANGUAGES, Reader, blocks_of, checkout, path_with
from tests.support.redis_server import needs_wheel

DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
BLOCKS = {str(path.relative_to(ROOT)): blocks_of(path.read_text(encoding="utf-8")) for path in DOCUMENTS}
RUN = [name for name, blocks in BLOCKS.items() if any(b.language in ("sh", "python") for b in blocks)]
NOT_RUN_MAX = 5

CURL_AS = 'curl -s -H "Authorization: Bearer'
# Document -> beginning of a line -> what its answer holds.
WANTED = {
    "README.md": {
        "curl http://127.0.0.1:6066/v1/tables/orders_by_user/keys": r'"key": ?"ann".*"value": ?1\b',
        "curl http://127.0.0.1:6066/v1/tables/orders_by_shop/rows": r'"toys".*"buy": ?1\b',
    },
    "docs/tutorial/first-app.md": {
        "curl http://127.0.0.1:6066/v1/tables/events_by_type": r'"value": ?[1-9]',
        "curl http://127.0.0.1:6066/v1/tables/orders_by_user": (
            r'12:00:00Z.*"value": ?1\b.*12:02:00Z.*"value": ?1\b'
        ),
        "curl http://127.0.0.1:6066/v1/tables/orders_by_shop": r'12:04:00Z.*"closed".*"buy": ?1, ?"look": ?1',
    },
    "docs/how-to/run-on-redis.md": {
        "python -c": r"^2$",
        "curl": r'"value": ?2\b',
        "redis-cli XINFO GROUPS events:2": r"lag\n0\n",
        "redis-cli XRANGE window-results:0": r'"total_events": ?[12]\b',
        "redis-cli HGETALL": r"events",
    },
    "docs/how-to/secure-it.md": {
        "curl -s -o /dev/null": r"401",
        f'{CURL_AS} $REPORTS" http://127.0.0.1:6066/v1/tables/events_by_user': r'"rows"',
        f'{CURL_AS} $REPORTS" http://127.0.0.1:6066/v1/tables/window_totals': r"forbidden",
        f"{CURL_AS} $(cat": r'"rows"',
        "curl -s --retry": r'"status": ?"',
        "STREAMFLOW_BROKER=kafka": r"SASL_SSL as shop",
    },
    "docs/how-to/monitor.md": {"curl": r"(?s)streamflow_consumer_events\{.*shop_paid_cents_total [1-9]"},
    "docs/how-to/read-tables-over-http.md": {
        "curl http://127.0.0.1:6066/v1/tables/events_by_user/keys/ann": r'"value": ?[1-9]',
        "curl 'http://127.0.0.1:6066/v1/tables/events_by_user/rows?keys=ann&keys=zoe": r'"ann".*"open"',
        "curl 'http://127.0.0.1:6066/v1/tables/events_by_user/rows?key_from": r'"mona"',
        "curl 'http://127.0.0.1:6066/v1/tables/events_by_user/rows?within": r'"ann"',
        "curl -G http://127.0.0.1:6066/v1/tables/window_totals": r'"search": ?[1-9]',
        "curl -G http://127.0.0.1:6066/v1/tables/events_by_user": r'"rows": ?\[\{"key"',
        "curl 'http://127.0.0.1:6066/v1/tables/events_by_user/rows?sort=-value": r'"key": ?"ann"',
        "curl 'http://127.0.0.1:6066/v1/tables/window_totals": r'"event_types.search": ?[1-9]',
        "curl 'http://127.0.0.1:6066/v1/tables/events_by_user/rows?count=only": r'"count": ?[1-9]',
        "curl -H 'Accept: application/x-ndjson'": r'\{"key": ?"ann"',
        "curl -H 'Accept: text/csv'": r"key,window_start,window_end,window_state,partition,total_events",
        "curl 'http://127.0.0.1:6066/v1/tables/events_by_user/keys/ann?stale": r'"stale": ?\{\}',
    },
    "docs/how-to/connect-a-browser.md": {"node --experimental-websocket watch.mjs": r"changed: \d+ rows"},
    "docs/how-to/read-and-write-elsewhere.md": {
        "curl http://127.0.0.1:6066/v1/tables/spent/keys/ann": r'"value": ?35\b',
        "cat out/orders/0": r'"bob"[^$]*"amount": 5\b',
        "cat posted": r'"id": ?"invoices:[^:]*:0:\d+".*"amount": ?4\b',
        "psql postgresql://localhost/shop -c 'SELECT * FROM paid": r"ann +\| +5\n *bob +\| +7\n",
        "psql postgresql://localhost/shop -c 'SELECT sink": r"paid +\| paid +\| +0 \| +3\n",
        "python -m pytest": r"7 passed",
    },
    "docs/how-to/run-embedded.md": {"redis-cli": r"lag\n0\n"},
    "docs/how-to/publish-and-browse.md": {
        "curl http://127.0.0.1:6066/v1/tables/spent/keys/ann": r'"value": ?35\b',
        'curl http://127.0.0.1:6066/v1/topics/orders --json \'{"value"': r'"event": ?0\b.*amount',
        "curl 'http://127.0.0.1:6066/v1/topics/orders/messages?time": r'"amount": ?30\b.*"amount": ?5\b',
        "curl http://127.0.0.1:6066/v1/agents": r'"processed": ?5\b',
        "curl http://127.0.0.1:6066/v1/workers": r'"state": ?"ready"',
    },
    "docs/how-to/handle-failures.md": {
        "streamflow dead-letters -A shop show": r"raise ValueError",
        "curl http://127.0.0.1:6066/v1/dead-letters": r"-30 is negative.*-7 is negative",
        "curl http://127.0.0.1:6066/v1/tables/spent": r'"value": ?30\b',
        "curl http://127.0.0.1:6066/v1/tables/seen": r'"value": ?1\b',
        "streamflow dead-letters -A shop list --state replayed": r"replayed",
        "streamflow dead-letters -A shop list --json": r"^\[\]",
    },
    "docs/how-to/change-an-event.md": {"curl": r'"value": ?750\b'},
    "docs/how-to/wait-out-an-outage.md": {
        "curl http://127.0.0.1:6066/v1/tables/paid": r'"value": ?7\b',
        "curl http://127.0.0.1:6066/metrics": r'streamflow_circuit_state{name="billing"} 0',
    },
}


@pytest.fixture
def folder() -> Iterator[pathlib.Path]:
    """A checkout with a short path: sockets lie below it."""
    made = pathlib.Path(tempfile.mkdtemp(prefix="sf-docs-"))
    checkout(ROOT, made)
    yield made
    shutil.rmtree(made)


@pytest.fixture
def make_reader(folder: pathlib.Path) -> Iterator[Callable[[dict[str, str]], Reader]]:
    readers: list[Reader] = []

    def make(names: dict[str, str]) -> Reader:
        port = free_port()
        environ = {name: value for name, value in os.environ.items() if not name.startswith("STREAMFLOW_")}
        environ |= {
            "HOME": str(folder),
            "PATH": path_with(folder / "bin", pathlib.Path(sys.executable).parent),
            "PYTHONPATH": str(ROOT),
            "STREAMFLOW_WEB_PORT": str(port),
            "XDG_STATE_HOME": str(folder),
        }
        readers.append(Reader(folder, {**names, "127.0.0.1:6066": f"127.0.0.1:{port}"}, environ))
        return readers[-1]

    yield make
    for reader in readers:
        reader.close()


def names_for(text: str, folder: pathlib.Path, request: pytest.FixtureRequest) -> dict[str, str]:
    """Names in the text -> those of this run: the broker that it names, topics of its own on a shared one."""
    names = {"/var/lib/shop": str(folder / "embedded")}
    if "kafka://" in text:
        bootstrap = request.getfixturevalue("kafka")
        names |= dict.fromkeys(["localhost:9092", "host-1:9092", "host-2:9092"], bootstrap)
        own = uuid4().hex[:8]
        names |= {name: f"{name}_{own}" for name in ("orders", "payments", "shop-windows")}
        names |= {f'App("{name}"': f'App("{name}-{own}"' for name in ("shop", "bank")}
        for path in (folder / "agents").glob("*.py"):
            path.write_text(re.sub(r'App\("(\w+)"', rf'App("\1-{own}"', path.read_text()))
    if "redis://localhost" in text:
        port = request.getfixturevalue("make_redis")().port
        names["localhost:6379"] = f"127.0.0.1:{port}"
        (folder / "bin").mkdir()
        client = folder / "bin" / "redis-cli"
        client.write_text(f'#!/bin/sh\nexec {shutil.which("redis-cli")} -p {port} "$@"\n')
        client.chmod(0o755)
    if "postgresql://localhost" in text:
        names["postgresql://localhost/shop"] = request.getfixturevalue("postgres").url
    if "redis+embedded:" in text:
        needs_wheel()
    return names


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", RUN)
def test_a_document_does_what_it_says(
    name: str,
    folder: pathlib.Path,
    make_reader: Callable[[dict[str, str]], Reader],
    request: pytest.FixtureRequest,
) -> None:
    blocks = [block for block in BLOCKS[name] if block.not_run is None]
    text = "\n".join(block.text for block in blocks)
    if "redis-cli" in text and shutil.which("redis-cli") is None:
        pytest.skip("there is no redis-cli on the path (Debian: apt install redis-tools)")
    if "\nnode " in text and find_node() is None:
        pytest.skip("there is no node of version 20 or newer on the path")
    reader = make_reader(names_for(text, folder, request))
    for block in blocks:
        reader.run(block, WANTED.get(name, {}))


def test_every_block_says_what_it_is_and_few_are_not_run() -> None:
    strange = [
        f"{name}:{block.line}"
        for name, blocks in BLOCKS.items()
        for block in blocks
        if block.language not in LANGUAGES
    ]
    assert strange == []
    not_run = [
        f"{name}:{b.line}: {b.not_run}" for name, blocks in BLOCKS.items() for b in blocks if b.not_run
    ]
    assert len(not_run) <= NOT_RUN_MAX, not_run


def test_what_is_looked_for_is_in_the_documents() -> None:
    for name, wanted in WANTED.items():
        lines = [line for block in BLOCKS[name] for line in block.text.splitlines()]
        assert [begin for begin in wanted if not any(line.startswith(begin) for line in lines)] == []


def flags(command: str) -> set[str]:
    found = main.get_command(click.Context(main), command)
    assert found is not None
    return {flag for parameter in found.params for flag in parameter.opts}


def test_commands_in_running_text_exist_with_their_options() -> None:
    targets = re.search(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert targets is not None
    wrong = []
    for path in DOCUMENTS:
        for told in re.findall(r"`((?:streamflow|make) [^`]+)`", path.read_text(encoding="utf-8")):
            program, command, *rest = told.replace("\n", " ").split()
            if program == "make":
                if command not in targets[1].split():
                    wrong.append(told)
                continue
            if command not in COMMANDS:
                wrong.append(told)
                continue
            known = flags(command)
            wrong += [f"{told}: {flag}" for flag in rest if flag.startswith("-") and flag not in known]
    assert wrong == []
