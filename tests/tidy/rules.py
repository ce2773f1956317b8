"""The rules that no linter has: each takes a source and says what breaks it, in words."""

from __future__ import annotations

import ast
import os
import pathlib
import re
import subprocess
from collections.abc import Iterator

ROOT = pathlib.Path(__file__).resolve().parents[2]

FUNCTION_LINES_MAX = 70
MODULE_LINES_MAX = 600
PARAMETERS_MAX = 10

# Written in two pieces, so that this file does not break its own rule.
FORBIDDEN_WORDS = ("/wo" + "rk/", ".lib" + "rary")

TOP_LEVEL = frozenset(
    {
        "CHANGELOG.md",
        "LICENSE",
        "Makefile",
        "README.md",
        "agents",
        "compose.yaml",
        "docs",
        "pyproject.toml",
        "requirements.lock",
        "streamflow",
        "tests",
    }
)

# What asks the machine for the time of day. `monotonic` and a loop's `time()` are durations: allowed.
WALL_CLOCKS = frozenset(
    {
        "time.time",
        "time.time_ns",
        "time.localtime",
        "time.gmtime",
        "time.ctime",
        "datetime.datetime.now",
        "datetime.datetime.utcnow",
        "datetime.datetime.today",
        "datetime.date.today",
    }
)

Function = ast.FunctionDef | ast.AsyncFunctionDef


def source_files(*folders: str) -> list[pathlib.Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def committed_files() -> list[str]:
    """Paths that git holds, from the root of the checkout."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True)
    return [name for name in listed.stdout.decode().split("\0") if name]


def _functions(source: str) -> Iterator[Function]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, Function):
            yield node


def long_functions(source: str) -> list[str]:
    """From `def` to the last line, decorators not counted."""
    found = []
    for function in _functions(source):
        lines = (function.end_lineno or function.lineno) - function.lineno + 1
        if lines > FUNCTION_LINES_MAX:
            found.append(f"line {function.lineno}: {function.name} has {lines} lines")
    return found


def long_modules(source: str) -> list[str]:
    lines = len(source.splitlines())
    return [f"the module has {lines} lines"] if lines > MODULE_LINES_MAX else []


def wide_functions(source: str) -> list[str]:
    """`self` and `cls` are not counted."""
    found = []
    for function in _functions(source):
        arguments = function.args
        names = [a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
        names += [a.arg for a in (arguments.vararg, arguments.kwarg) if a is not None]
        if names and names[0] in {"self", "cls"}:
            names = names[1:]
        if len(names) > PARAMETERS_MAX:
            found.append(f"line {function.lineno}: {function.name} takes {len(names)} parameters")
    return found


def wall_clocks(source: str) -> list[str]:
    """Every mention, not only calls: a clock that is handed on as a function is a clock too."""
    tree = ast.parse(source)
    known: dict[str, str] = {}  # name in this module -> what it stands for
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                known[alias.asname or alias.name] = alias.name
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            for alias in node.names:
                known[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute):
            name = _resolve(node, known)
            if name in WALL_CLOCKS:
                found.add((node.lineno, name))
    return [f"line {line}: {name}" for line, name in sorted(found)]


def _resolve(node: ast.expr, known: dict[str, str]) -> str | None:
    if isinstance(node, ast.Name):
        return known.get(node.id)
    if isinstance(node, ast.Attribute):
        inner = _resolve(node.value, known)
        return f"{inner}.{node.attr}" if inner is not None else None
    return None


def strangers_at_the_top(paths: list[str]) -> list[str]:
    """Names at the top of the repository that have no business there; dot files are free."""
    tops = {path.split("/", 1)[0] for path in paths}
    return sorted(top for top in tops if top not in TOP_LEVEL and not top.startswith("."))


def dead_links(page: str, text: str, paths: set[str]) -> list[str]:
    """Relative links of ``page`` that lead to nothing among ``paths``."""
    found = []
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
        if "://" not in target:
            path = pathlib.PurePosixPath(os.path.normpath(pathlib.PurePosixPath(page).parent / target))
            if not any(known == str(path) or known.startswith(f"{path}/") for known in paths):
                found.append(f"{page}: {target}")
    return found


def forbidden_words(text: str) -> list[str]:
    """Words that would tie the project to one machine."""
    return [
        f"line {number}: {word}"
        for number, line in enumerate(text.splitlines(), 1)
        for word in FORBIDDEN_WORDS
        if word in line
    ]


def tests_named_in_tables(text: str) -> list[tuple[str, str]]:
    """(file below tests, function) of every test that a Markdown table names as `file.py::function`."""
    rows = [line for line in text.splitlines() if line.startswith("|")]
    return [found for line in rows for found in re.findall(r"`([\w/]+\.py)::(\w+)`", line)]


def rows_without_a_test(text: str) -> list[str]:
    """Rows of Markdown tables, apart from their heads, whose last cell names no test."""
    rows = [line for line in text.splitlines() if line.startswith("|") and not line.startswith("|---")]
    heads = ("| Faust |",)
    return [
        row for row in rows if not row.startswith(heads) and "::" not in row.rstrip(" |").rsplit("|", 1)[-1]
    ]
