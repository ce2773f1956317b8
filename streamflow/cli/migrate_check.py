"""``streamflow migrate-check MODULE``: what changes for a Faust app, and where in its code."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, NamedTuple

import click
from rich.console import Console
from rich.table import Table

from streamflow.cli.asking import json_option

Level = Literal["change", "better", "stop"]
STYLES = {"change": "cyan", "better": "green", "stop": "bold red"}


class Finding(NamedTuple):
    """One place in the code. ``stop``: it has to be written otherwise before the app runs."""

    file: str
    line: int
    level: Level
    what: str
    said: str


# Name of a call's method, or of its keyword -> what is to be known about it.
CALLS: dict[str, tuple[Level, str]] = {
    "SetTable": ("change", "keeps whole sets: it can't go on from stock Faust's changelog, name it anew"),
    "SetGlobalTable": (
        "change",
        "keeps whole sets: it can't go on from stock Faust's changelog, name it anew",
    ),
    "GlobalTable": ("better", "no recovery loop: every worker follows all partitions of the changelog"),
    "tumbling": ("better", "windows of event time in whole ms, which expire by event time"),
    "hopping": ("better", "windows of event time in whole ms, which expire by event time"),
    "relative_to_now": ("better", "the wall clock's window; stock Faust put all in one"),
    "ask": ("change", "from inside an agent it raises under exactly_once: use cast, or ask from a task"),
    "join": ("change", "asking many from inside an agent raises under exactly_once"),
    "send_soon": ("better", "from inside an event it is part of that event's checkpoint"),
    "table_route": ("better", "routes by the app's own partitioner; hands on the body, not the headers"),
}
KEYWORDS: dict[str, tuple[Level, str]] = {
    "on_changelog_event": ("stop", "is never called: a restore reads rows in batches"),
    "changelog_topic": ("stop", "can't be chosen: changelogs are named <app>-<table>-changelog"),
    "on_window_close": ("better", "once for each key, with its value, in every partition"),
    "stream_wait_empty": ("change", "is ignored: a revoke ends with a last checkpoint"),
    "stream_publish_on_commit": (
        "change",
        "is ignored: what an event sends is part of its checkpoint",
    ),
    "broker_commit_every": ("change", "is ignored; see `commit_events_max`"),
    "broker_producer": ("change", "is ignored: one broker for reading and writing"),
    "transport": ("change", "means an own transport object here"),
}


@click.command()
@click.argument("module")
@json_option
def command(module: str, as_json: bool) -> None:
    """What changes for the Faust app in MODULE (a module, a package or a file), and where.

    Exits 1 where something has to be written otherwise first. Reads the code; imports none of it.
    """
    findings = [finding for path in _files(module) for finding in _look_at(path)]
    if as_json:
        click.echo(json.dumps([finding._asdict() for finding in findings]))
    else:
        table = Table("place", "", "what", "")
        for file, line, level, what, said in findings:
            table.add_row(f"{file}:{line}", f"[{STYLES[level]}]{level}[/]", what, said)
        Console().print(table)
        click.echo(
            "Keys are placed by `partitioner` (fnv1a). Topics and tables that stock Faust or a Java client "
            'filled lie by murmur2: App(..., partitioner="murmur2") goes on with them.'
        )
    if any(finding.level == "stop" for finding in findings):
        raise SystemExit(1)


def _files(module: str) -> list[Path]:
    path = Path(module)
    if path.is_file():
        return [path]
    if path.is_dir():
        return sorted(path.rglob("*.py"))
    try:
        spec = find_spec(module)
    except (ImportError, ValueError) as exc:
        raise click.BadParameter(f"{module}: {exc}") from exc
    if spec is None or spec.origin is None:
        raise click.BadParameter(f"there is no module {module!r} here")
    found = Path(spec.origin)
    return sorted(found.parent.rglob("*.py")) if spec.submodule_search_locations else [found]


def _look_at(path: Path) -> Iterator[Finding]:
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    except (SyntaxError, UnicodeDecodeError) as exc:
        raise click.BadParameter(f"{path} can't be read: {exc}") from exc
    found: list[Finding] = []
    for node in ast.walk(tree):
        found.extend(_imports(path, node))
        if isinstance(node, ast.Call):
            found.extend(_call(path, node))
    yield from sorted(found, key=lambda finding: finding.line)


def _imports(path: Path, node: ast.AST) -> Iterator[Finding]:
    if isinstance(node, ast.Import):
        for name in node.names:
            if name.name == "faust":
                alias = name.asname or "faust"
                said = f"import streamflow as {alias}"
                yield Finding(str(path), node.lineno, "change", "import faust", said)
            elif name.name.startswith("faust."):
                ours = name.name.replace("faust", "streamflow", 1)
                said = f"import {ours} as {name.asname}" if name.asname else f"import {ours}, by that name"
                yield Finding(str(path), node.lineno, "change", f"import {name.name}", said)
    elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("faust."):
        names = ", ".join(name.name for name in node.names)
        ours = str(node.module).replace("faust", "streamflow", 1)
        said = f"from {ours} import {names}"
        yield Finding(str(path), node.lineno, "change", f"from {node.module} import", said)
    elif isinstance(node, ast.ImportFrom) and node.module == "faust":
        names = ", ".join(name.name for name in node.names)
        said = f"from streamflow import {names}"
        if any(name.name == "Event" for name in node.names):
            said += "; Event is another class there: the events of a stream are EventT"
        yield Finding(str(path), node.lineno, "change", "from faust import", said)


def _call(path: Path, node: ast.Call) -> Iterator[Finding]:
    name = _name(node.func)
    if name in CALLS:
        level, said = CALLS[name]
        if not (name == "join" and isinstance(node.func, ast.Attribute) and _is_text(node.func.value)):
            yield Finding(str(path), node.lineno, level, name, said)
    for keyword in node.keywords:
        if keyword.arg in KEYWORDS:
            level, said = KEYWORDS[keyword.arg]
            yield Finding(str(path), keyword.value.lineno, level, f"{keyword.arg}=", said)
    if name == "App":
        given = {keyword.arg for keyword in node.keywords}
        if "partitioner" not in given:
            said = "without partitioner= keys are placed by fnv1a, not by murmur2 as before"
            yield Finding(str(path), node.lineno, "change", "App", said)
        if "processing_guarantee" not in given:
            said = "exactly_once is the default; at_least_once is to be asked for"
            yield Finding(str(path), node.lineno, "better", "App", said)


def _name(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _is_text(node: ast.expr) -> bool:
    """``", ".join(...)`` asks nobody."""
    return isinstance(node, ast.Constant | ast.JoinedStr)
