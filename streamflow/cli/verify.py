"""``streamflow verify -A MODULE TABLE``."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from streamflow.app.app import App
from streamflow.cli.apps import app_option, load
from streamflow.cli.asking import json_option
from streamflow.clock import SystemClock
from streamflow.engine.decoding import TopicSource
from streamflow.engine.engine import Engine
from streamflow.engine.first_connection import first_connection
from streamflow.state.progress import OUTCOMES
from streamflow.transports.connect import scheme_of
from streamflow.verify.agents import AgentVerifier, verify_agents
from streamflow.verify.recount import Verifier
from streamflow.verify.report import PartitionCount, Report


@click.command()
@app_option
@click.argument("table")
@json_option
def command(module: str, table: str, as_json: bool) -> None:
    """Recounts the source topic of a table, from its beginning, and compares with the table.

    The rows of a declared table are compared; of one in Faust's form, what became of each record.
    Reads logs only: it may run beside workers, or without any. Exits with 1 on a difference.
    """
    app = load(module)
    if scheme_of(app.broker_url) == "memory":
        raise click.UsageError("memory:// is one process: there is nothing that this one could read")
    report = asyncio.run(_verify(app, table, as_json))
    if as_json:
        click.echo(json.dumps(report_object(report), default=str))
    else:
        _show(report)
    if not report.ok:
        raise SystemExit(1)


async def _verify(app: App, table: str, as_json: bool) -> Report:
    engine = app.prepare_engine()
    aggregate = engine.topology.aggregates.get(table)
    if aggregate is None and table not in engine.topology.tables:
        names = ", ".join(sorted([*engine.topology.aggregates, *engine.topology.tables])) or "none"
        raise click.UsageError(f"no table {table!r} (there are: {names})")
    clock = SystemClock()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=as_json) as bar:
        task = bar.add_task("recounting", total=None)

        def progressed(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        def of_agent(agent: str, source: TopicSource) -> AgentVerifier:
            bar.update(task, description=f"recounting {source.name}")
            return AgentVerifier(engine.transport, engine.settings, clock, agent, source, progressed)

        await first_connection(engine.transport, clock)
        try:
            if aggregate is None:
                return await verify_agents(table, _writers(engine), of_agent)
            bar.update(task, description=f"recounting {aggregate.spec.topic}")
            source = engine.topology.sources[aggregate.spec.consumer]
            verifier = Verifier(engine.transport, engine.settings, clock, aggregate.spec, source, progressed)
            return await verifier.run()
        finally:
            await engine.transport.stop()


def _writers(engine: Engine) -> list[tuple[str, TopicSource]]:
    """Each agent that may write tables, with what it reads: one topic, and what it moves on to from there."""
    topology = engine.topology
    agents = [each for each in topology.agents if each.writes_tables and len(each.source_topics) == 1]
    return [
        (each.spec.name, source)
        for each in agents
        for source in (topology.sources[each.spec.consumer], *topology.retry_sources(each))
    ]


def report_object(report: Report) -> dict[str, Any]:
    """The report for programs."""
    return {
        "table": report.table,
        "ok": report.ok,
        "rows": report.rows if report.rows_compared else None,
        "differing": report.differing,
        "differences": [asdict(difference) for difference in report.differences],
        "partitions": [
            {**asdict(count), "position": str(count.position), "adds_up": count.adds_up, "same": count.same}
            for count in report.partitions
        ],
        "notes": report.notes,
    }


def _show(report: Report) -> None:
    console = Console()
    agents = ["agent"] if any(count.agent for count in report.partitions) else []
    counted = [*report.partitions, PartitionCount(0, 0, {"counted": 1}, {})]
    outcomes = [name for name in OUTCOMES if any(count.counters.get(name, 0) for count in counted)]
    counts = Table(*agents, "partition", "position", "in", "=", *outcomes, "recount", title=report.table)
    for count in report.partitions:
        counters = [str(count.counters.get(name, 0)) for name in outcomes]
        said = "same" if count.same else f"[red]{_counted(count.recounted)}[/]"
        adds_up = "=" if count.adds_up else "[red]≠[/]"
        total = str(count.counters.get("in", 0))
        place = "" if count.retry_topic is None else f" in {count.retry_topic}"
        agent = [f"{count.agent}{place}"] if agents else []
        counts.add_row(*agent, str(count.partition), str(count.position), total, adds_up, *counters, said)
    console.print(counts)
    if report.differences:
        shown = Table("key", "window", "table", "recount", title="rows that differ")
        for one in report.differences[:20]:
            window = "" if one.window is None else " to ".join(one.window)
            shown.add_row(json.dumps(one.key, default=str), window, str(one.table), str(one.recount))
        console.print(shown)
    for note in report.notes:
        console.print(note, style="yellow")
    if report.ok:
        rows = f"{report.rows} rows, each as the recount has it"
        console.print(rows if report.rows_compared else "each record was taken once", style="green")
    elif not report.rows_compared:
        console.print("not each record was taken once", style="red")
    else:
        console.print(f"{report.differing} of {report.rows} rows differ", style="red")


def _counted(counters: dict[str, int]) -> str:
    return " ".join(f"{name} {counters.get(name, 0)}" for name in ("in", *OUTCOMES) if counters.get(name))
