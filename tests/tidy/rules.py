"""The rules that no linter has: each takes a source and says what breaks it, in words."""

from __future__ import annotations

import ast
import os
import pathlib
import re
import subprocess
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet

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

# Annotations of parameters that say nothing.
ANYTHING = frozenset({"Any", "'Any'", "Any | None"})

# An object changes by its own methods. On these hot paths a call for each event would cost more than it
# hides, so they assign to attributes of others; elsewhere it is a library's object that has no such method.
ASSIGNED_FROM_OUTSIDE_MAX = 40
HOT_PATHS = ("processing/event_stream.py", "state/agent_table.py", "transports/kafka/fetcher.py")

ANY_PARAMETERS_MAX = {"streamflow": 0.05, "streamflow/app": 0.10}
REACH_INS_MAX = 0.03
"""For each test function."""

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


def assigned_from_outside(source: str) -> list[str]:
    """Attributes of objects other than `self` and `cls` that are assigned to, deleted or bound."""
    return [
        f"line {target.lineno}: {ast.unparse(target)}"
        for node in ast.walk(ast.parse(source))
        for target in _targets(node)
        if isinstance(target, ast.Attribute) and not _is_own(target.value)
    ]


def _targets(node: ast.AST) -> Iterator[ast.expr]:
    """What a statement binds, tuples and lists taken apart."""
    found: list[ast.expr] = []
    if isinstance(node, ast.Assign | ast.Delete):
        found = list(node.targets)
    elif isinstance(node, ast.AugAssign | ast.AnnAssign | ast.For | ast.AsyncFor | ast.NamedExpr):
        found = [node.target]
    elif isinstance(node, ast.With | ast.AsyncWith):
        found = [item.optional_vars for item in node.items if item.optional_vars is not None]
    while found:
        target = found.pop(0)
        if isinstance(target, ast.Tuple | ast.List):
            found += target.elts
        elif isinstance(target, ast.Starred):
            found.append(target.value)
        else:
            yield target


def _is_own(value: ast.expr) -> bool:
    return isinstance(value, ast.Name) and value.id in {"self", "cls"}


def annotated_parameters(source: str) -> list[str]:
    """The annotation of each parameter of each function that has one."""
    found = []
    for function in _functions(source):
        arguments = function.args
        parameters = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        parameters += [each for each in (arguments.vararg, arguments.kwarg) if each is not None]
        found += [ast.unparse(each.annotation) for each in parameters if each.annotation is not None]
    return found


def any_parameters(source: str) -> list[str]:
    """Those of `annotated_parameters` that say nothing."""
    return [annotation for annotation in annotated_parameters(source) if annotation in ANYTHING]


def reach_ins(source: str) -> list[str]:
    """Private attributes of other objects, not counted what a subclass asks of `super()`."""
    return [
        f"line {node.lineno}: {ast.unparse(node)}"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Attribute)
        and node.attr.startswith("_")
        and not node.attr.startswith("__")
        and not _is_own(node.value)
        and not _is_super(node.value)
    ]


def _is_super(value: ast.expr) -> bool:
    return isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id == "super"


def functions_that_test(source: str) -> list[str]:
    return [function.name for function in _functions(source) if function.name.startswith("test_")]


def imports(source: str, modules: AbstractSet[str], *, for_types: bool) -> set[str]:
    """Which of ``modules`` a module imports; ``for_types``: for type checkers, too."""
    tree = ast.parse(source)
    if not for_types:
        tree = _WithoutTypeImports().visit(tree)
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                found.add(full if full in modules else node.module)
    return found & modules


class _WithoutTypeImports(ast.NodeTransformer):
    def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
        if ast.unparse(node.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}:
            return node.orelse
        return self.generic_visit(node)


def circles(imported: Mapping[str, AbstractSet[str]]) -> list[list[str]]:
    """Groups of modules that reach each other; ``imported``: module -> the modules that it imports."""
    reached = {module: _reachable(module, imported) for module in imported}
    groups = {
        tuple(sorted({module} | {other for other in seen if module in reached[other]}))
        for module, seen in reached.items()
        if module in seen
    }
    return [list(group) for group in sorted(groups)]


def _reachable(module: str, imported: Mapping[str, AbstractSet[str]]) -> set[str]:
    """What a module imports, and what that imports, and so on."""
    seen: set[str] = set()
    waiting = list(imported[module])
    while waiting:
        other = waiting.pop()
        if other not in seen:
            seen.add(other)
            waiting += imported[other]
    return seen


def module_name(path: pathlib.Path) -> str:
    """``streamflow/web/http/api.py`` is ``streamflow.web.http.api``, a package is its folder."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


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


def missing_places(text: str, rooms: set[str]) -> list[str]:
    """Files and folders of ``streamflow/`` that a document names in backticks and that are not there."""
    named = re.findall(r"`((?:[\w-]+/)+(?:[\w-]+\.(?:py|lua))?)`", text)
    return sorted(
        {name for name in named if name.split("/")[0] in rooms and not (ROOT / "streamflow" / name).exists()}
    )
