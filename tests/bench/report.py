"""The table on the terminal and results.json."""

from __future__ import annotations

import json
import os
import pathlib
import platform
import statistics
import time
from typing import Any

from tests.bench.contestants import Contestant
from tests.bench.harness import Outcome

METHOD = (
    "CPU of the contestant's process (user and system, all threads) from its first record to the commit of "
    "the last one, divided by the events; the mean of the rounds. See README.md."
)

VERDICTS = {"ok": "exact", "wrong": "WRONG", "failed": "FAILED", "skipped": "skipped"}
ROWS_TOLD_MIN = 100_000  # fewer tell nothing of what one takes


def summarise(contestant: Contestant, outcomes: list[Outcome]) -> dict[str, Any]:
    """All rounds of one contestant as one entry; the first that is not ok decides the status."""
    bad = next((outcome for outcome in outcomes if outcome.status != "ok"), None)
    entry: dict[str, Any] = {
        "name": contestant.name,
        "title": contestant.title,
        "guarantee": contestant.guarantee,
        "ruler": contestant.ruler,
        "status": bad.status if bad else "ok",
    }
    if bad:
        entry["reason"] = bad.reason
    timed = [outcome for outcome in outcomes if outcome.cpu_s > 0]
    if not timed:
        return entry
    rounds_us = [outcome.cpu_s / outcome.events * 1e6 for outcome in timed]
    entry["events"] = timed[0].events
    # The mean, not the best or the median: of the three it varied least from run to run on a shared machine.
    entry["cpu_us_per_event"] = round(statistics.mean(rounds_us), 3)
    entry["standard_error_us"] = (
        round(statistics.stdev(rounds_us) / len(timed) ** 0.5, 3) if timed[1:] else None
    )
    entry["events_per_s"] = round(statistics.mean(outcome.events / outcome.wall_s for outcome in timed))
    entry["rounds_cpu_us_per_event"] = [round(value, 3) for value in rounds_us]
    entry["rss_mb"] = max(outcome.rss_mb for outcome in timed)
    entry["versions"] = timed[0].versions
    return entry


def add_ratios(entries: list[dict[str, Any]]) -> None:
    """CPU per event against its ruler in the same run; None where that did not run well."""
    well = {entry["name"]: entry for entry in entries if entry["status"] == "ok"}
    for entry in entries:
        ruler = well.get(entry["ruler"])
        cpu_us = entry.get("cpu_us_per_event")
        entry["ratio"] = round(cpu_us / ruler["cpu_us_per_event"], 3) if ruler and cpu_us else None


def document(
    entries: list[dict[str, Any]], options: dict[str, Any], servers: dict[str, str]
) -> dict[str, Any]:
    return {
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "method": METHOD,
        "options": options,
        "machine": machine(),
        **servers,
        "contestants": entries,
    }


def machine() -> dict[str, Any]:
    """Enough to compare two runs; nothing that names the machine."""
    found: dict[str, Any] = {"system": platform.system(), "architecture": platform.machine()}
    affinity = getattr(os, "sched_getaffinity", None)
    found["cores"] = len(affinity(0)) if affinity else os.cpu_count()
    info = pathlib.Path("/proc/cpuinfo")
    if info.exists():
        models = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if "model name" in line
        ]
        found["processor"] = models[0] if models else "unknown"
    if hasattr(os, "sysconf"):
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        found["memory_gib"] = round(memory / 2**30)
    return found


def table(entries: list[dict[str, Any]]) -> str:
    """For a terminal: one line for each contestant, and why where one has no figures."""
    header = ("", "guarantee", "events", "CPU us/event", "+-", "ratio", "events/s", "RSS MB", "counts")
    lines = [header, *(line(entry) for entry in entries)]
    text = aligned(lines, left=(0, 1, len(header) - 1))
    reasons = [
        f"{entry['name']}: {entry['status']}: {entry['reason']}" for entry in entries if "reason" in entry
    ]
    return "\n".join([text, *(["", *reasons] if reasons else [])])


def growth(found: dict[int, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """What more keys cost. ``found``: number of keys -> entries, the first of them what others are held to.

    ``bytes_per_row``: of the whole process at its largest, from the number of keys before to this one.
    """
    lines: list[dict[str, Any]] = []
    before: dict[str, dict[str, Any]] = {}
    first: dict[str, float] = {}
    for keys, entries in found.items():
        for entry in entries:
            name, cpu_us = entry["name"], entry.get("cpu_us_per_event")
            if cpu_us is None:
                continue
            line = {"name": name, "title": entry["title"], "keys": keys, "status": entry["status"]}
            line |= {
                key: entry[key] for key in ("rows", "cpu_us_per_event", "ratio", "events_per_s", "rss_mb")
            }
            line["growth"] = round(cpu_us / first.setdefault(name, cpu_us), 3)
            older = before.get(name, line)
            rows = line["rows"] - older["rows"]
            if rows >= ROWS_TOLD_MIN:
                line["bytes_per_row"] = round((line["rss_mb"] - older["rss_mb"]) * 2**20 / rows)
            before[name] = line
            lines.append(line)
    return lines


def growth_table(lines: list[dict[str, Any]]) -> str:
    """For a terminal."""
    header = (
        "",
        "keys",
        "rows",
        "CPU us/event",
        "growth",
        "ratio",
        "events/s",
        "RSS MB",
        "bytes/row",
        "counts",
    )
    cells = [
        (
            line["title"],
            f"{line['keys']:,}",
            f"{line['rows']:,}",
            f"{line['cpu_us_per_event']:.2f}",
            f"{line['growth']:.2f}",
            "-" if line["ratio"] is None else f"{line['ratio']:.2f}",
            f"{line['events_per_s']:,}",
            str(line["rss_mb"]),
            str(line.get("bytes_per_row", "-")),
            VERDICTS[line["status"]],
        )
        for line in sorted(lines, key=lambda line: line["title"])
    ]
    return aligned([header, *cells], left=(0, len(header) - 1))


def aligned(lines: list[tuple[str, ...]], left: tuple[int, ...]) -> str:
    """Columns of text; those in ``left`` are names, the others figures."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ).rstrip()
        for cells in lines
    )


def line(entry: dict[str, Any]) -> tuple[str, ...]:
    verdict = VERDICTS[entry["status"]]
    if "cpu_us_per_event" not in entry:
        return (entry["title"], entry["guarantee"], "-", "-", "-", "-", "-", "-", verdict)
    ratio = "-" if entry["ratio"] is None else f"{entry['ratio']:.2f}"
    error = "-" if entry["standard_error_us"] is None else f"{entry['standard_error_us']:.2f}"
    return (
        entry["title"],
        entry["guarantee"],
        f"{entry['events']:,}",
        f"{entry['cpu_us_per_event']:.2f}",
        error,
        ratio,
        f"{entry['events_per_s']:,}",
        str(entry["rss_mb"]),
        verdict,
    )


def write(results: dict[str, Any], path: pathlib.Path) -> None:
    path.write_text(json.dumps(results, indent=2) + "\n")
