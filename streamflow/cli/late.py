"""``streamflow late -A MODULE TABLE [--apply]``."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

import click
from rich.console import Console
from rich.table import Table

from streamflow.app.app import App
from streamflow.cli.apps import app_option, load
from streamflow.cli.asking import ask, json_option, url_option

PAGE = 1_000


@click.command()
@app_option
@click.argument("table")
@click.option("--apply", is_flag=True, help="Fold them into their closed windows; what changes is revised.")
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1), help="Events to show.")
@url_option
@json_option
def command(module: str, table: str, apply: bool, limit: int, url: str | None, as_json: bool) -> None:
    """Events that came too late for every window that they belong to, as the running app keeps them.

    Exits with 1 where not all partitions answered: asking again does the rest, and nothing twice.
    """
    app = load(module)
    body = ask(app, url, "tables", table, "late", method="POST") if apply else _list(app, url, table, limit)
    if as_json:
        click.echo(json.dumps(body))
    elif apply:
        click.echo(
            f"{body['applied']} applied, {body['expired']} expired (their windows are gone), "
            f"{body['unsupported']} of windows that can't be revised"
        )
    else:
        _show(body)
    if body["partial"]:
        click.secho(f"partitions {body['missing_partitions']} did not answer", fg="yellow", err=True)
        raise SystemExit(1)


def _list(app: App, url: str | None, table: str, limit: int) -> Any:
    """All pages as one, up to ``limit`` events."""
    body = ask(app, url, "tables", table, "late", query=f"?limit={min(limit, PAGE)}")
    while body["next"] is not None and len(body["late"]) < limit:
        query = f"?limit={min(limit - len(body['late']), PAGE)}&cursor={quote(body['next'])}"
        more = ask(app, url, "tables", table, "late", query=query)
        body = {**more, "late": [*body["late"], *more["late"]]}
    return body


def _show(body: dict[str, Any]) -> None:
    shown = Table("key", "time", "windows", "behind", "place", "applies")
    for event in body["late"]:
        key = event["key"] if isinstance(event["key"], str) else json.dumps(event["key"])
        windows = ", ".join(f"{window['start']} to {window['end']}" for window in event["windows"])
        place = f"{event['topic']}[{event['partition']}]@{event['offset']}"
        behind = f"{event['behind_ms'] / 1_000:g} s"
        shown.add_row(key, event["time"], windows, behind, place, "yes" if event["applies"] else "no")
    console = Console()
    console.print(shown)
    totals = {name: sum(of[name] for of in body["totals"].values()) for name in ("came", "lost", "applied")}
    console.print(
        f"{totals['came']} came, {totals['applied']} were applied, {totals['lost']} were lost for later ones"
    )
