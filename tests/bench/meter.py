"""How a contestant measures itself: the same three moments for all. Needs the standard library only."""

from __future__ import annotations

import json
import os
import pathlib
import platform
import resource
import time

from tests.bench.workload import Rows, answer


class Job:
    """What the harness asks of a contestant, from the environment."""

    def __init__(self) -> None:
        self.broker = os.environ["BENCH_BROKER"]  # host:port
        self.server = os.environ["BENCH_SERVER"]  # kafka or redis
        self.url = f"{self.server}://{self.broker}"
        self.topic = os.environ["BENCH_TOPIC"]
        self.events = int(os.environ["BENCH_EVENTS"])
        self.group = os.environ["BENCH_GROUP"]
        self.state = pathlib.Path(os.environ["BENCH_STATE"])
        # partition -> where it ends, for positions that are ordered and not counted
        self.ends: dict[str, int] = json.loads(os.environ["BENCH_ENDS"])
        self.result = pathlib.Path(os.environ["BENCH_RESULT"])


class Meter:
    """CPU and wall time of this process, all threads and ended children, between two moments.

    `first`: the first record is about to be processed. `last`: the last one has been processed.
    `committed`: progress to the end of the topic is durable. CPU counts from `first` to `committed`, so
    that nothing can be put off past the end; events a second count from `first` to `last`.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        # name of the moment -> (CPU s, wall s)
        self._moments: dict[str, tuple[float, float]] = {}

    def first(self, moment: tuple[float, float] | None = None) -> None:
        """``moment``: when it was, where that is not now. May be called for every record: costs little."""
        if "first" not in self._moments:
            self._moments["first"] = moment or now()

    def last(self) -> None:
        self._moments["last"] = now()

    def committed(self) -> None:
        self._moments["committed"] = now()

    def report(self, rows: Rows, versions: dict[str, str]) -> None:
        """Tells the harness, which ends this process then."""
        counted = answer(rows)
        first, last, committed = (self._moments[name] for name in ("first", "last", "committed"))
        result = {
            "cpu_s": committed[0] - first[0],
            "wall_s": last[1] - first[1],
            "rows": counted.rows,
            "total": counted.total,
            "digest": counted.digest,
            "rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
            "versions": {"python": platform.python_version(), **versions},
        }
        # Renamed into place, so that the harness never reads half of it.
        part = self._job.result.with_suffix(".part")
        part.write_text(json.dumps(result))
        part.rename(self._job.result)


def now() -> tuple[float, float]:
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime
    return cpu_s, time.perf_counter()
