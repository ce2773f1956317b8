"""The `streamflow` command: one file for each of its commands, imported when it is called."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

import click

from streamflow.errors import StreamflowError
from streamflow.settings import version

COMMANDS = {
    "demo": "A worker, a generator of events and a live dashboard; needs no broker.",
    "worker": "Start a worker of an app.",
    "send": "Send one message to a topic of an app.",
    "tables": "What a running worker shows: its tables, the rows of one, or one key.",
    "verify": "Recounts a table's source topic and compares; exit 1 on a difference.",
    "late": "What came too late for its windows; --apply folds it into them after all.",
    "lag": "How far a running app is behind its topics.",
    "dead-letters": "Events that were set aside: list them, or replay them.",
    "token": "Make a token for the web view, and the hash of it that the settings hold.",
    "doctor": "Check an app's broker, topics, keys and security.",
    "reset": "Start an app anew: deletes its tables and offsets.",
    "grow": "Bring tables to the new partitions of a topic.",
    "migrate-check": "What changes for a Faust app, and where in its code.",
}


def __getattr__(name: str) -> Any:
    """What ``from faust.cli import ...`` gives: for an app's own commands."""
    if name in ("AppCommand", "Command", "argument", "call_command", "option"):
        return getattr(import_module("faust.cli"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class Commands(click.Group):
    """Commands by name; ``--help`` needs to import none of them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(f"streamflow.cli.{cmd_name.replace('-', '_')}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def main(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().main(*args, **kwargs)
        except StreamflowError as exc:
            click.secho(f"Error: {exc}", fg="red", err=True)
            sys.exit(2)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version(), prog_name="streamflow")
def main() -> None:
    """Stream processing on Kafka: exactly once, in windows of event time, live in the browser."""
