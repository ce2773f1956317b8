"""The house is in order: sizes, clocks and what lies at the top. Each rule is also shown to bite."""

from __future__ import annotations

import pathlib
from collections.abc import Callable

import pytest

from tests.tidy import rules

Rule = Callable[[str], list[str]]

CLOCK = rules.ROOT / "streamflow" / "clock.py"


def offences(rule: Rule, paths: list[pathlib.Path]) -> list[str]:
    return [
        f"{path.relative_to(rules.ROOT)}: {offence}"
        for path in paths
        for offence in rule(path.read_text(encoding="utf-8"))
    ]


def test_no_function_is_longer_than_a_screen() -> None:
    assert offences(rules.long_functions, rules.source_files("streamflow", "agents")) == []


def test_no_module_is_longer_than_six_hundred_lines() -> None:
    assert offences(rules.long_modules, rules.source_files("streamflow", "agents")) == []


def test_no_function_takes_more_than_ten_parameters() -> None:
    assert offences(rules.wide_functions, rules.source_files("streamflow", "agents")) == []


@pytest.mark.parametrize("for_types", [False, True], ids=["at run time", "for types too"])
def test_no_modules_import_each_other_in_a_circle(for_types: bool) -> None:
    sources = {
        rules.module_name(path): path.read_text(encoding="utf-8") for path in rules.source_files("streamflow")
    }
    imported = {
        module: rules.imports(source, sources.keys(), for_types=for_types) - {module}
        for module, source in sources.items()
    }
    assert sum(map(len, imported.values())) > len(sources)
    assert rules.circles(imported) == []


def test_objects_change_by_their_own_methods_but_for_a_few() -> None:
    found = offences(rules.assigned_from_outside, rules.source_files("streamflow"))
    assert len(found) <= rules.ASSIGNED_FROM_OUTSIDE_MAX, "\n".join(found)


def test_the_hot_paths_that_are_named_are_those_that_assign_from_outside() -> None:
    for path in rules.HOT_PATHS:
        assert offences(rules.assigned_from_outside, [rules.ROOT / "streamflow" / path]) != [], path


@pytest.mark.parametrize("folder", sorted(rules.ANY_PARAMETERS_MAX))
def test_few_parameters_say_nothing_of_what_they_take(folder: str) -> None:
    sources = [path.read_text(encoding="utf-8") for path in rules.source_files(folder)]
    annotated = sum(len(rules.annotated_parameters(source)) for source in sources)
    anything = sum(len(rules.any_parameters(source)) for source in sources)
    assert anything / annotated < rules.ANY_PARAMETERS_MAX[folder], f"{anything} of {annotated}"


def test_tests_seldom_reach_into_what_they_test() -> None:
    paths = rules.source_files("tests")
    functions = sum(len(rules.functions_that_test(path.read_text(encoding="utf-8"))) for path in paths)
    found = offences(rules.reach_ins, paths)
    assert len(found) / functions < rules.REACH_INS_MAX, "\n".join(found)


def test_only_the_clock_asks_what_time_it_is() -> None:
    modules = [path for path in rules.source_files("streamflow", "agents") if path != CLOCK]
    assert offences(rules.wall_clocks, modules) == []


def test_the_clock_itself_is_where_the_wall_clock_is_found() -> None:
    assert offences(rules.wall_clocks, [CLOCK]) != []


def test_nothing_strange_lies_at_the_top_of_the_repository() -> None:
    assert rules.strangers_at_the_top(rules.committed_files()) == []


def test_nothing_committed_names_the_machine_it_was_written_on() -> None:
    found = []
    for name in rules.committed_files():
        path = rules.ROOT / name
        if path.is_file():  # a file may be committed and deleted in the work tree
            text = path.read_bytes().decode("utf-8", errors="replace")
            found += [f"{name}: {offence}" for offence in rules.forbidden_words(text)]
    assert found == []


def test_every_link_in_the_documents_leads_somewhere() -> None:
    paths = set(rules.committed_files())
    pages = [name for name in paths if name.endswith(".md") and (rules.ROOT / name).is_file()]
    assert pages
    dead = [
        link
        for page in sorted(pages)
        for link in rules.dead_links(page, (rules.ROOT / page).read_text(encoding="utf-8"), paths)
    ]
    assert dead == []


LONG_FUNCTION = "def f():\n" + "    pass\n" * rules.FUNCTION_LINES_MAX
LONG_METHOD = "class C:\n    async def f(self):\n" + "        pass\n" * rules.FUNCTION_LINES_MAX
JUST_SHORT_ENOUGH = "def f():\n" + "    pass\n" * (rules.FUNCTION_LINES_MAX - 1)
LONG_MODULE = "x = 1\n" * (rules.MODULE_LINES_MAX + 1)
ELEVEN = ", ".join(f"p{n}" for n in range(rules.PARAMETERS_MAX + 1))
TEN = ", ".join(f"p{n}" for n in range(rules.PARAMETERS_MAX))


@pytest.mark.parametrize(
    "rule, bad",
    [
        (rules.long_functions, LONG_FUNCTION),
        (rules.long_functions, LONG_METHOD),
        (rules.long_modules, LONG_MODULE),
        (rules.wide_functions, f"def f({ELEVEN}): pass"),
        (rules.wide_functions, f"def f(*, {ELEVEN}): pass"),
        (rules.wide_functions, f"def f({TEN}, **more): pass"),
        (rules.wall_clocks, "import time\nx = time.time()"),
        (rules.wall_clocks, "import time as t\nx = t.time_ns()"),
        (rules.wall_clocks, "from time import time\nx = time()"),
        (rules.wall_clocks, "from time import time as now\ncall(now)"),
        (rules.wall_clocks, "import datetime\nx = datetime.datetime.now(datetime.UTC)"),
        (rules.wall_clocks, "from datetime import datetime as dt\nx = dt.utcnow()"),
        (rules.wall_clocks, "def f():\n    from datetime import date\n    return date.today()"),
        (rules.forbidden_words, "see " + "/wo" + "rk/notes"),
        (rules.forbidden_words, "see " + ".lib" + "rary"),
        (rules.assigned_from_outside, "other.size = 1"),
        (rules.assigned_from_outside, "self.other.size += 1"),
        (rules.assigned_from_outside, "first, (*other.rest, self.mine) = found"),
        (rules.assigned_from_outside, "for other.at in range(3): pass"),
        (rules.assigned_from_outside, "with opened() as other.file: pass"),
        (rules.assigned_from_outside, "del other.size"),
        (rules.any_parameters, "def f(x: Any, y: int): pass"),
        (rules.any_parameters, "async def f(*, x: Any | None = None): pass"),
        (rules.any_parameters, "def f(**options: Any): pass"),
        (rules.reach_ins, "assert engine._tasks == []"),
        (rules.reach_ins, "engine.transport._broker.log"),
        (rules.reach_ins, "self.engine._tasks"),
    ],
)
def test_a_rule_finds_what_breaks_it(rule: Rule, bad: str) -> None:
    assert len(rule(bad)) == 1


@pytest.mark.parametrize(
    "rule, good",
    [
        (rules.long_functions, JUST_SHORT_ENOUGH),
        (rules.long_modules, "x = 1\n" * rules.MODULE_LINES_MAX),
        (rules.wide_functions, f"def f({TEN}): pass"),
        (rules.wide_functions, f"class C:\n    def f(self, {TEN}): pass"),
        (rules.wall_clocks, "import time\nx = time.monotonic()"),
        (rules.wall_clocks, "x = clock.time()\ny = loop.time()"),
        (rules.wall_clocks, "time = 1\nx = time"),
        (rules.forbidden_words, "the workers at work"),
        (rules.assigned_from_outside, "self.size = cls.count = size = 1\nrows[other.key] = 2"),
        (rules.any_parameters, "def f(self, x: object, y: dict[str, Any], z=None) -> Any: pass"),
        (rules.reach_ins, "self._tasks\nsuper()._read()\nother.__dict__\nother.tasks"),
    ],
)
def test_a_rule_leaves_good_code_alone(rule: Rule, good: str) -> None:
    assert rule(good) == []


def test_circles_are_found_whole_and_what_only_leads_there_is_left_out() -> None:
    imported = {"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set(), "e": {"e"}}
    assert rules.circles(imported) == [["b", "c"], ["e"]]


def test_imports_are_those_of_modules_and_for_types_only_where_they_are_asked_for() -> None:
    source = (
        "import a.b\nfrom a import c, thing\nfrom other import a\n"
        "if TYPE_CHECKING:\n    from a.d import D\nelse:\n    def late():\n        from a import e\n"
    )
    modules = {"a", "a.b", "a.c", "a.d", "a.e"}
    assert rules.imports(source, modules, for_types=False) == {"a", "a.b", "a.c", "a.e"}
    assert rules.imports(source, modules, for_types=True) == modules


def test_a_package_is_the_module_of_its_folder() -> None:
    package = rules.ROOT / "streamflow" / "web" / "http"
    assert rules.module_name(package / "__init__.py") == "streamflow.web.http"
    assert rules.module_name(package / "api.py") == "streamflow.web.http.api"


def test_a_new_folder_at_the_top_is_a_stranger_and_a_dot_file_is_not() -> None:
    paths = ["README.md", "streamflow/app.py", "scripts/run.sh", "notes.txt", ".ci/run", ".gitignore"]
    assert rules.strangers_at_the_top(paths) == ["notes.txt", "scripts"]


def test_a_link_to_nowhere_is_found_and_others_are_left_alone() -> None:
    paths = {"README.md", "docs/README.md", "docs/how-to/run.md"}
    text = "[up](../README.md) [run](how-to/run.md#top) [folder](how-to) [web](https://x.example) [no](no.md)"
    assert rules.dead_links("docs/README.md", text, paths) == ["docs/README.md: no.md"]


COMPATIBILITY = rules.ROOT / "docs" / "reference" / "faust-compatibility.md"


def test_every_row_of_the_compatibility_table_names_a_test_that_is_there() -> None:
    text = COMPATIBILITY.read_text(encoding="utf-8")
    named = rules.tests_named_in_tables(text)
    assert len(named) > 50
    missing = []
    for file, function in named:
        path = rules.ROOT / "tests" / file
        if not path.is_file() or f"def {function}(" not in path.read_text(encoding="utf-8"):
            missing.append(f"{file}::{function}")
    assert missing == []
    assert rules.rows_without_a_test(text) == []


def test_a_row_without_a_test_is_found() -> None:
    head = "| Faust | here | test |\n|---|---|---|\n"
    text = head + "| a | same | `unit/test_x.py::test_y` |\n| b | same | soon |\n"
    assert rules.tests_named_in_tables(text) == [("unit/test_x.py", "test_y")]
    assert rules.rows_without_a_test(text) == ["| b | same | soon |"]
