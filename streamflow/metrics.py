"""What a worker counts about itself, in Prometheus' text formats.

`Metrics` has one attribute for each metric, named like it without the prefix. The engine updates them
per batch and per checkpoint, never per event. All of it belongs to one event loop; nothing is locked.

    metrics.records_total.inc(512)
    metrics.late_events_total.labels("counts").inc(3)
    metrics.checkpoint_seconds.observe(0.012)
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from typing import Final, Generic, Protocol, TypeVar

PREFIX: Final = "streamflow_"
TEXT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS_TYPE: Final = "application/openmetrics-text; version=1.0.0; charset=utf-8"

LABEL_SETS_MAX: Final = 1_000
"""Label sets of one metric; whatever comes beyond is counted together under `OTHER`."""
OTHER: Final = "_other"

SECONDS_BUCKETS: Final = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
)  # fmt: skip

Sample = tuple[str, str, float]  # suffix of the name, labels with braces ("" without any), value


class Child(Protocol):
    def samples(self, labels: str) -> Iterator[Sample]: ...


class Counter:
    """A number that only grows."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def inc(self, amount: float = 1.0) -> None:
        if amount < 0:
            raise ValueError(f"a counter can't shrink: {amount}")
        self.value += amount

    def grow_to(self, value: float) -> None:
        """What somebody else has counted; for collectors."""
        self.value = value

    def samples(self, labels: str) -> Iterator[Sample]:
        yield "", labels, self.value


class Gauge:
    """A number that goes up and down."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def set(self, value: float) -> None:
        self.value = value

    def samples(self, labels: str) -> Iterator[Sample]:
        yield "", labels, self.value


class Histogram:
    """Counts observations by upper bound. ``counts`` has one more place than ``bounds``, for +Inf."""

    __slots__ = ("bounds", "counts", "last", "sum")

    def __init__(self, bounds: Sequence[float] = SECONDS_BUCKETS) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0
        self.last: float | None = None  # newest observation, for the dashboard

    def observe(self, value: float, times: int = 1) -> None:
        """``times`` observations of ``value``: a batch whose events all have it is one call."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.sum += value * times
        self.last = value

    @property
    def count(self) -> int:
        return sum(self.counts)

    def quantile(self, fraction: float) -> float | None:
        """The upper bound under which ``fraction`` (0 to 1) of the observations lie; ``None`` without any."""
        rest = fraction * self.count
        if rest <= 0:
            return None
        for bound, count in zip(self.bounds, self.counts, strict=False):
            rest -= count
            if rest <= 0:
                return bound
        return float("inf")

    def samples(self, labels: str) -> Iterator[Sample]:
        below = 0
        for bound, count in zip((*self.bounds, float("inf")), self.counts, strict=True):
            below += count
            limit = f'le="{number(bound)}"'
            yield "_bucket", f"{labels[:-1]},{limit}}}" if labels else f"{{{limit}}}", below
        yield "_sum", labels, self.sum
        yield "_count", labels, below


C = TypeVar("C", bound=Child)


class Labelled(Generic[C]):
    """One metric with labels: a child for each set of label values, at most `LABEL_SETS_MAX`."""

    def __init__(self, label_names: Sequence[str], make: Callable[[], C]) -> None:
        self.label_names = tuple(label_names)
        self.children: dict[tuple[str, ...], C] = {}  # label values -> child
        self._make = make

    def labels(self, *values: object) -> C:
        """The child of these label values, in the declared order. Raises ValueError for a wrong number."""
        if len(values) != len(self.label_names):
            raise ValueError(f"expected the labels {self.label_names}, got {values}")
        names = tuple(map(str, values))
        child = self.children.get(names)
        if child is None:
            if len(self.children) >= LABEL_SETS_MAX:
                names = (OTHER,) * len(names)
            child = self.children.setdefault(names, self._make())
        return child

    def clear(self) -> None:
        """Forgets all children, such as the lags of partitions that may have gone to other workers."""
        self.children.clear()


class Family:
    """One metric as it is written out. ``kind``: counter, gauge or histogram."""

    def __init__(
        self, name: str, kind: str, text: str, members: Callable[[], list[tuple[str, Child]]]
    ) -> None:
        self.name = name
        self.kind = kind
        self.text = text
        self.members = members  # gives (labels with braces, child)

    def lines(self, openmetrics: bool) -> Iterator[str]:
        # OpenMetrics names a counter's family without _total, and its sample with it.
        bare = openmetrics and self.kind == "counter" and self.name.endswith("_total")
        family = self.name.removesuffix("_total") if bare else self.name
        yield f"# HELP {family} {escaped(self.text, quote=openmetrics)}"
        yield f"# TYPE {family} {self.kind}"
        for labels, child in self.members():
            for suffix, sample_labels, value in child.samples(labels):
                yield f"{self.name}{suffix}{sample_labels} {number(value)}"


class Metrics:
    """Every metric of one app in one process."""

    def __init__(self) -> None:
        self._families: list[Family] = []
        self._collectors: list[Callable[[], None]] = []
        lag = "Records of a source partition that this worker has still to read."
        self.consumer_lag_records = self._gauges("consumer_lag_records", lag, "topic", "partition")
        self.records_total = self._counter("records_total", "Records taken from source topics.")
        self.records_gone_total = self._counters(
            "records_gone_total",
            "Records that were trimmed, deleted or too old before this worker had read them.",
            "topic",
        )
        self.events_processed_total = self._counters(
            "events_processed_total", "Events that an agent or aggregate has finished.", "agent"
        )
        self.events_failed_total = self._counters(
            "events_failed_total", "Events that an agent raised for, each attempt.", "agent", "error"
        )
        self.events_dropped_total = self._counters(
            "events_dropped_total", "Events dropped by a buffer's policy.", "agent", "policy"
        )
        self.late_events_total = self._counters(
            "late_events_total", "Events that came after their window had closed.", "table"
        )
        self.dead_letters_total = self._counters(
            "dead_letters_total", "Events set aside, by the topic they came from.", "topic", "reason"
        )
        self.circuit_state = self._gauges(
            "circuit_state", "State of each circuit breaker: 0 closed, 1 half-open, 2 open.", "name"
        )
        self.retries_total = self._counter("retries_total", "Second and later attempts at an event.")
        self.checkpoint_seconds = self._histogram(
            "checkpoint_seconds", "From the cut of a checkpoint to its commit."
        )
        self.batch_seconds = self._histograms(
            "batch_seconds", "An agent's or aggregate's work on one batch, its waits included.", "agent"
        )
        self.end_to_end_seconds = self._histograms(
            "end_to_end_seconds",
            "Of each batch: from its oldest record's timestamp to the checkpoint that holds all of it.",
            "agent",
        )
        self.event_loop_blocked_seconds_total = self._counter(
            "event_loop_blocked_seconds_total", "Of stretches of a second and more in which nothing else ran."
        )
        self.agent_event_seconds = self._gauges(
            "agent_event_seconds",
            "How long an agent has been at work on its oldest event in flight.",
            "agent",
        )
        self._of_recovery()
        self.table_rows = self._gauges("table_rows", "Checkpointed rows on this worker.", "table")
        self.table_bytes = self._gauges("table_bytes", "Approximate size of those rows.", "table")
        self.misrouted_records_total = self._counters(
            "misrouted_records_total", "Records on another partition than their key says.", "topic"
        )
        self.scattered_writes_total = self._counters(
            "scattered_writes_total", "Table writes outside their key's partition.", "table"
        )
        self.ws_connections = self._gauge("ws_connections", "Open WebSockets.")
        self.ws_frames_total = self._counter("ws_frames_total", "WebSocket messages sent.")
        self.ws_skipped_changes_total = self._counter(
            "ws_skipped_changes_total", "Changes that a newer one replaced before a slow client took them."
        )
        self.ws_slow_disconnects_total = self._counter(
            "ws_slow_disconnects_total", "WebSockets closed because the client was too slow."
        )
        self._process_metrics()

    def _of_recovery(self) -> None:
        self.recovery_seconds = self._histogram(
            "recovery_seconds", "From an assignment until its tables are rebuilt."
        )
        self.restored_records_total = self._counter(
            "restored_records_total", "Changelog records read to rebuild tables."
        )
        self.restore_records_left = self._gauge(
            "restore_records_left", "About how many changelog records are still to be read."
        )
        self.partitions_restoring = self._gauge(
            "partitions_restoring", "Partitions of this worker that do not serve yet."
        )
        self.partitions_kept_total = self._counter(
            "partitions_kept_total", "Partitions that an assignment found with their rows still here."
        )
        self.standby_partitions = self._gauge(
            "standby_partitions", "Partitions of other workers whose tables are kept up to date here."
        )
        self.standby_records_behind = self._gauge(
            "standby_records_behind", "About how many changelog records those are behind."
        )
        self.standby_records_total = self._counter(
            "standby_records_total", "Changelog records read to keep them up to date."
        )

    def on_collect(self, collector: Callable[[], None]) -> None:
        """``collector`` is called before each rendering: for gauges that are cheaper asked than kept."""
        self._collectors.append(collector)

    def render(self, openmetrics: bool = False) -> str:
        """Prometheus' text format 0.0.4, or OpenMetrics 1.0."""
        for collector in self._collectors:
            collector()
        lines = [line for family in self._families for line in family.lines(openmetrics)]
        if openmetrics:
            lines.append("# EOF")
        return "\n".join(lines) + "\n"

    def _process_metrics(self) -> None:
        text = "Resident memory of this process in bytes."
        memory = self._gauge("process_resident_memory_bytes", text)
        # Also under the name that every Prometheus client and dashboard uses for it.
        self._families.append(Family("process_resident_memory_bytes", "gauge", text, lambda: [("", memory)]))
        self.process_resident_memory_bytes = memory
        self.on_collect(lambda: memory.set(resident_bytes()))

    def _single(self, name: str, kind: str, text: str, child: C) -> C:
        self._families.append(Family(PREFIX + name, kind, text, lambda: [("", child)]))
        return child

    def _labelled(self, name: str, kind: str, text: str, labelled: Labelled[C]) -> Labelled[C]:
        def members() -> list[tuple[str, Child]]:
            return [
                (label_text(labelled.label_names, values), child)
                for values, child in sorted(labelled.children.items(), key=lambda item: item[0])
            ]

        self._families.append(Family(PREFIX + name, kind, text, members))
        return labelled

    def _counter(self, name: str, text: str) -> Counter:
        return self._single(name, "counter", text, Counter())

    def _gauge(self, name: str, text: str) -> Gauge:
        return self._single(name, "gauge", text, Gauge())

    def _histogram(self, name: str, text: str) -> Histogram:
        return self._single(name, "histogram", text, Histogram())

    def _counters(self, name: str, text: str, *labels: str) -> Labelled[Counter]:
        return self._labelled(name, "counter", text, Labelled(labels, Counter))

    def _gauges(self, name: str, text: str, *labels: str) -> Labelled[Gauge]:
        return self._labelled(name, "gauge", text, Labelled(labels, Gauge))

    def _histograms(self, name: str, text: str, *labels: str) -> Labelled[Histogram]:
        return self._labelled(name, "histogram", text, Labelled(labels, Histogram))


def escaped(text: str, *, quote: bool) -> str:
    """Label values and OpenMetrics' help escape the quote too; help of the older format must not."""
    text = text.replace("\\", "\\\\").replace("\n", "\\n")
    return text.replace('"', '\\"') if quote else text


def label_text(names: Sequence[str], values: Sequence[str]) -> str:
    pairs = (f'{name}="{escaped(value, quote=True)}"' for name, value in zip(names, values, strict=True))
    return "{" + ",".join(pairs) + "}"


def number(value: float) -> str:
    if value == float("inf"):
        return "+Inf"
    if value == float("-inf"):
        return "-Inf"
    return str(int(value)) if float(value).is_integer() else repr(float(value))


def spread_quantile(counts: Sequence[int], fraction: float) -> float | None:
    """Of observations by `SECONDS_BUCKETS` and beyond, evenly spread within each; ``None`` without any.

    Finer than `Histogram.quantile`, which says a bound; beyond the last bound it says that one too.
    """
    rest, low = fraction * sum(counts), 0.0
    if rest <= 0:
        return None
    for bound, count in zip(SECONDS_BUCKETS, counts, strict=False):
        if count and rest <= count:
            return low + (bound - low) * rest / count
        rest -= count
        low = bound
    return low


def resident_bytes() -> int:
    """What this process holds in memory now; where only the peak can be had, the peak; else 0."""
    try:
        with open("/proc/self/statm", "rb") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return _peak_bytes()


def _peak_bytes() -> int:
    try:
        import resource
    except ImportError:  # Windows has neither
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts in KiB, macOS in bytes.
    return peak if os.uname().sysname == "Darwin" else peak * 1_024
