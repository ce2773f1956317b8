"""``streamflow tables -A MODULE [TABLE [KEY]]``."""

from __future__ import annotations

import json
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from streamflow.cli.apps import app_option, load
from streamflow.cli.asking import ask, json_option, url_option


@click.command()
@app_option
@click.argument("table", required=False)
@click.argument("key", required=False)
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1, 1_000), help="Rows to show.")
@url_option
@json_option
def command(
    module: str, table: str | None, key: str | None, limit: int, url: str | None, as_json: bool
) -> None:
    """What a running worker shows: its tables, the newest rows of one, or the windows of one key."""
    app = load(module)
    if table is None:
        body = ask(app, url, "tables")
        _show(body, as_json, _tables(body["tables"]))
    elif key is None:
        body = ask(app, url, "tables", table, "rows", query=f"?limit={limit}&sort=-window")
        _show(body, as_json, _rows(body["rows"]), body)
    else:
        body = ask(app, url, "tables", table, "keys", key, "windows", query=f"?limit={limit}&sort=-window")
        body["rows"].reverse()
        _show(body, as_json, _rows(body["rows"]), body)


def _show(body: dict[str, Any], as_json: bool, table: Table, whole: dict[str, Any] | None = None) -> None:
    if as_json:
        click.echo(json.dumps(body))
        return
    console = Console()
    console.print(table)
    if whole is not None and whole.get("partial"):
        console.print(f"partitions {whole['missing_partitions']} are missing", style="yellow")


def _tables(tables: list[dict[str, Any]]) -> Table:
    shown = Table("table", "kind", "rows", "window", "lag", "watermark")
    for table in tables:
        window = table["window"]
        lag = sum(value or 0 for value in table["lag"].values())
        size = "" if window is None else f"{window['kind']} {window['size_ms'] / 1_000:g} s"
        shown.add_row(
            table["name"], table["kind"], str(table["rows"]), size, str(lag), str(table["watermark"] or "")
        )
    return shown


def _rows(rows: list[dict[str, Any]]) -> Table:
    shown = Table("key", "window", "state", "value", "partition")
    for row in rows:
        window = row["window"] or {}
        value = row["value"] if isinstance(row["value"], str) else json.dumps(row["value"])
        key = "" if row["key"] is None else str(row["key"])
        shown.add_row(key, window.get("start", ""), window.get("state", ""), value, str(row["partition"]))
    return shown
