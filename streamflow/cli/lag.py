"""``streamflow lag -A MODULE``."""

from __future__ import annotations

import json

import click
from rich.console import Console
from rich.table import Table

from streamflow.cli.apps import app_option, load
from streamflow.cli.asking import ask, json_option, url_option


@click.command()
@app_option
@url_option
@json_option
def command(module: str, url: str | None, as_json: bool) -> None:
    """How far a running app is behind its topics, by table and source partition."""
    tables = ask(load(module), url, "tables")["tables"]
    if as_json:
        click.echo(json.dumps({t["name"]: {"position": t["position"], "lag": t["lag"]} for t in tables}))
        return
    shown = Table("table", "topic", "partition", "position", "lag")
    for table in tables:
        for partition, position in sorted(table["position"].items(), key=lambda item: int(item[0])):
            lag = table["lag"].get(partition)
            shown.add_row(
                table["name"], table["source_topic"], partition, position, "?" if lag is None else str(lag)
            )
    Console().print(shown)
