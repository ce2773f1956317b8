"""``streamflow doctor -A MODULE``: what is wrong, or might become so, before it hurts."""

from __future__ import annotations

import asyncio
import json
import platform
from collections.abc import AsyncIterator, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Literal, NamedTuple

import click
from rich.console import Console
from rich.table import Table

from streamflow.app.app import App
from streamflow.cli.apps import app_option, load
from streamflow.cli.asking import json_option
from streamflow.cli.connected import engine_of, whole_log
from streamflow.clock import rfc3339
from streamflow.codecs.times import look_like_seconds, seconds_sentence
from streamflow.engine.dead_letters import dead_letter_topic
from streamflow.engine.engine import Engine
from streamflow.engine.internal_topics import deleting, to_compact
from streamflow.errors import ConfigurationError, DecodeError, TransportError
from streamflow.settings import DISTRIBUTION
from streamflow.transports.base import KnowsRights, Transport
from streamflow.transports.connect import scheme_of
from streamflow.transports.kafka import KafkaTransport
from streamflow.web.settings import WebSettings, is_loopback
from streamflow.web.tokens import is_hashed

PACKAGES = (DISTRIBUTION, "faust-streaming", "aiokafka", "msgspec", "orjson", "redis", "rocksdict")
RECORDS_LOOKED_AT_MAX = 20_000
STYLES = {"ok": "green", "warning": "yellow", "error": "bold red"}


class Finding(NamedTuple):
    """One thing that was looked at."""

    check: str
    status: Literal["ok", "warning", "error"]
    said: str


@click.command()
@app_option
@click.option(
    "--records", default=RECORDS_LOOKED_AT_MAX, show_default=True, help="Keys to look at per topic."
)
@json_option
def command(module: str, records: int, as_json: bool) -> None:
    """Check an app's versions, broker, topics, keys and security. Exits 1 when something is wrong."""
    app = load(module)
    findings = [*_versions(), *_security(app), *asyncio.run(_broker(app, records))]
    if as_json:
        click.echo(json.dumps([finding._asdict() for finding in findings]))
    else:
        table = Table("check", "status", "")
        for check, status, said in findings:
            table.add_row(check, f"[{STYLES[status]}]{status}[/]", said)
        Console().print(table)
    if any(finding.status == "error" for finding in findings):
        raise SystemExit(1)


def _versions() -> list[Finding]:
    found = []
    for package in PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return [Finding("versions", "ok", ", ".join([f"Python {platform.python_version()}", *found]))]


def _security(app: App) -> list[Finding]:
    web, conf = app.settings.web_settings(), app.conf
    findings: list[Finding] = []
    if not conf.web_enabled:
        findings.append(Finding("web", "warning", "no web view: other workers can't ask this one for rows"))
    elif is_loopback(web.host):
        findings.append(Finding("web", "ok", f"bound to {web.host}: this machine only"))
    elif web.needs_token:
        findings.append(Finding("web", "ok", f"bound to {web.host}, with authentication"))
    else:
        findings.append(Finding("web", "error", f"bound to {web.host} without authentication (web_tokens)"))
    findings += _web_secrets(web)
    if scheme_of(app.broker_url) == "memory":
        return findings
    if app.engine_settings.processing_guarantee != "exactly_once":
        said = "at_least_once: what came since the last checkpoint may count or be sent twice after a crash"
        findings.append(Finding("guarantee", "warning", said))
    return findings


def _broker_security(app: App, transport: Transport) -> Finding:
    check = "broker security"
    if isinstance(transport, KafkaTransport):
        found = transport.settings
        if found.security_protocol == "PLAINTEXT":
            return Finding(check, "warning", "PLAINTEXT, no login: anybody may read and write")
        login = f" as {found.sasl_username}" if found.sasl_username else ""
        said = f"{found.security_protocol}{login}"
        if found.security_protocol == "SASL_PLAINTEXT":
            return Finding(check, "warning", f"{said}: whoever is on the way can read the login")
        return Finding(check, "ok", said)
    settings = app.engine_settings
    if app.conf.broker_credentials is None and not settings.redis_password:
        return Finding(check, "warning", "no credentials: anybody may read and write")
    has_tls = scheme_of(app.broker_url) == "rediss"
    if not has_tls:
        return Finding(check, "warning", "a login without TLS (rediss://): whoever is on the way can read it")
    return Finding(check, "ok", "a login, and TLS")


def _web_secrets(web: WebSettings) -> list[Finding]:
    findings: list[Finding] = []
    if any(not is_hashed(token) for token in web.tokens):
        said = "some can be read where the settings can be read: `streamflow token` makes hashes"
        findings.append(Finding("web_tokens", "warning", said))
    if web.worker_secret is None and not is_loopback(web.host):
        said = "is not set: workers on other machines can't ask each other for rows"
        findings.append(Finding("web_peer_secret", "warning", said))
    return findings


async def _broker(app: App, records: int) -> list[Finding]:
    if scheme_of(app.broker_url) == "memory":
        return [Finding("broker", "ok", "memory:// lives inside one worker; there is nothing to look at")]
    findings: list[Finding] = []
    try:
        findings.append(_broker_security(app, app.prepare_engine().transport))
        async with engine_of(app) as engine:
            findings.append(Finding("broker", "ok", f"{app.broker_url} answers"))
            findings += await _rights(engine)
            async for finding in _topics(engine, records):
                findings.append(finding)
    except (TransportError, ConfigurationError, OSError) as exc:
        findings.append(Finding("broker", "error", str(exc)))
    return findings


async def _rights(engine: Engine) -> list[Finding]:
    """May this user do what workers do? Only where the broker tells."""
    if not isinstance(engine.transport, KnowsRights):
        return []
    topology = engine.topology
    sources = {source.name for source in topology.sources.values()}
    kept = set(topology.state_topics())
    closed = {aggregate.spec.emit_closed for aggregate in topology.aggregates.values()}
    outputs = {name for name in closed if name} | (topology.topics.wanted - sources)
    retries = set(topology.retry_topics)
    writes = kept | outputs | retries | {dead_letter_topic(source) for source in sources}
    lacks = await engine.transport.missing_rights(reads=sources | kept | retries, writes=writes, makes=writes)
    if not lacks:
        return [Finding("broker rights", "ok", "this user may do all that a worker does")]
    return [Finding("broker rights", "error", f"this user lacks {lack}") for lack in lacks]


async def _topics(engine: Engine, records: int) -> AsyncIterator[Finding]:
    topics, transport = engine.topology.topics, engine.transport
    sources = sorted({source.name for source in engine.topology.sources.values()})
    counts = await transport.partition_counts(sources)
    for name in sources:
        if name not in counts:
            yield Finding(f"topic {name}", "warning", "is not there yet; the first worker creates it")
            continue
        topics.counts[name] = counts[name]
        yield Finding(f"topic {name}", "ok", f"{counts[name]} partitions")
        yield await _keys(engine, name, counts[name], records)
        async for finding in event_findings(engine, name, counts[name], records):
            yield finding
    for table in [*engine.topology.tables, *engine.topology.aggregates]:
        changelog = topics.changelog(table)
        found = (await transport.partition_counts([changelog])).get(changelog)
        wanted = _partitions_of(engine, table, counts)
        if found is None:
            yield Finding(f"table {table}", "ok", "has no changelog yet")
        elif wanted is not None and found != wanted:
            cure = "grow` brings it there" if wanted % found == 0 else "reset` starts anew"
            said = f"its changelog has {found} partitions, its topic {wanted}: `streamflow {cure}"
            yield Finding(f"table {table}", "error", said)
        else:
            yield Finding(f"table {table}", "ok", f"{found} partitions")
    there = await transport.partition_counts(engine.topology.state_topics())
    for name, policy in sorted((await deleting(transport, there)).items()):
        status: Literal["warning", "error"] = "warning" if "compact" in policy else "error"
        yield Finding(f"topic {name}", status, to_compact(name, policy))
    topics.counts.update(there)
    for name, wrong in sorted((await topics.thin(transport, there)).items()):
        yield Finding(f"topic {name}", "warning", wrong)


def _partitions_of(engine: Engine, table: str, counts: dict[str, int]) -> int | None:
    if table in engine.topology.aggregates:
        return counts.get(engine.topology.aggregates[table].spec.topic)
    found = {
        counts[topic] for agent in engine.topology.agents for topic in agent.source_topics if topic in counts
    }
    return found.pop() if len(found) == 1 else None


async def _keys(engine: Engine, topic: str, partitions: int, records: int) -> Finding:
    """Do the records lie where their keys belong by the app's partitioner?"""
    seen = misrouted = 0
    async for batch in whole_log(engine, topic, partitions):
        for key in batch.keys:
            if key is not None:
                seen += 1
                misrouted += engine.topology.topics.place(topic, key) != batch.partition
        if seen >= records:
            break
    name = f"keys of {topic}"
    if not misrouted:
        return Finding(name, "ok", f"{seen} looked at, all where {engine.settings.partitioner} puts them")
    said = (
        f"{misrouted} of {seen} lie on another partition than {engine.settings.partitioner} says: queries "
        "miss them; another producer's partitioner can be set with `partitioner`"
    )
    return Finding(name, "error", said)


async def event_findings(engine: Engine, topic: str, partitions: int, records: int) -> AsyncIterator[Finding]:
    """Are the event times of today, and do events have the fields that are asked for?"""
    newest: dict[str | None, int] = {}  # field, or None: the record's timestamp -> the newest time there
    decoders = [decoder for decoder in engine.topology.decoders.values() if decoder.source.name == topic]
    watches = {aggregate: aggregate.new_watch() for decoder in decoders for aggregate in decoder.aggregates}
    seen = 0
    async for batch in whole_log(engine, topic, partitions):
        for decoder in decoders:
            chunk = decoder.sample(batch)
            seen += len(chunk)
            _note(newest, decoder.source.value.time_field, chunk.times_ms)
            for aggregate in decoder.aggregates:
                watches[aggregate].see(partial(aggregate.column, chunk))
                wrong: dict[int, DecodeError] = {}
                times, field = aggregate.read_times(chunk, wrong)
                if field is not None:
                    _note(newest, field, [time for index, time in enumerate(times) if index not in wrong])
        records -= len(batch.offsets)
        if records <= 0:
            break
    for field, time_ms in newest.items():
        name = f"times of {topic}" if field is None else f"times of {topic}: {field}"
        if look_like_seconds([time_ms]):
            yield Finding(name, "warning", seconds_sentence(field, time_ms))
        else:
            yield Finding(name, "ok", f"up to {rfc3339(time_ms)}")
    for aggregate, watch in watches.items():
        for use in watch.unseen if seen else ():
            said = f"{use.said} is missing or null in each event that was looked at; is the name right?"
            yield Finding(f"fields of {aggregate.spec.name}", "warning", said)


def _note(newest: dict[str | None, int], field: str | None, times: Sequence[int]) -> None:
    if times:
        newest[field] = max(*times, newest.get(field, times[0]))
