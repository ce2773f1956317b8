"""What a worker counts about itself, for Prometheus.

`Metrics` has one attribute for each metric, named like it without the prefix. The engine updates them
per batch and per checkpoint, never per event. All of it belongs to one event loop; nothing is locked.

    metrics.records_total.inc(512)
    metrics.late_events_total.labels("counts").inc(3)
    metrics.checkpoint_seconds.observe(0.012)

prometheus-client writes them out, together with what the app's own code has put into its default registry.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Final, Generic, NamedTuple, TypeVar, cast

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.metrics_core import Metric
    from prometheus_client.samples import Exemplar

PREFIX: Final = "streamflow_"

LABEL_SETS_MAX: Final = 1_000
"""Label sets of one metric; whatever comes beyond is counted together under `OTHER`."""
OTHER: Final = "_other"
EXEMPLAR_CHARACTERS_MAX: Final = 128
"""Of names and values together, as OpenMetrics has it."""

SECONDS_BUCKETS: Final = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
)  # fmt: skip


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


class Gauge:
    """A number that goes up and down."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def set(self, value: float) -> None:
        self.value = value


class Histogram:
    """Counts observations by upper bound. ``counts`` has one more place than ``bounds``, for +Inf.

    ``exemplars``: place in ``counts`` -> the newest observation there that said what was observed.
    """

    __slots__ = ("bounds", "counts", "exemplars", "last", "sum")

    def __init__(self, bounds: Sequence[float] = SECONDS_BUCKETS) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0
        self.exemplars: dict[int, tuple[Mapping[str, str], float]] = {}
        self.last: float | None = None  # newest observation, for the dashboard

    def observe(self, value: float, times: int = 1, exemplar: Mapping[str, str] | None = None) -> None:
        """``times`` observations of ``value``: a batch whose events all have it is one call.

        ``exemplar``: labels that lead to what was observed, such as a record's topic, partition and offset.
        """
        at = bisect_left(self.bounds, value)
        self.counts[at] += times
        self.sum += value * times
        self.last = value
        if exemplar is not None:
            self.exemplars[at] = exemplar, value

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


C = TypeVar("C", bound=Counter | Gauge | Histogram)


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


class Family(NamedTuple):
    """One metric as it is told to Prometheus. ``kind``: counter, gauge or histogram."""

    name: str
    kind: str
    text: str
    label_names: tuple[str, ...]
    members: Callable[[], Iterable[tuple[tuple[str, ...], Counter | Gauge | Histogram]]]
    """Gives label values and child."""

    def metric(self) -> Metric:
        # Imported here: a program that starts no server needs none of it.
        from prometheus_client import metrics_core as core

        if self.kind == "histogram":
            histogram = core.HistogramMetricFamily(self.name, self.text, labels=self.label_names)
            for values, child in self.members():
                assert isinstance(child, Histogram)
                histogram.add_metric(values, _buckets(child), child.sum)
            return histogram
        kind = core.CounterMetricFamily if self.kind == "counter" else core.GaugeMetricFamily
        family = kind(self.name, self.text, labels=self.label_names)
        for values, child in self.members():
            assert not isinstance(child, Histogram)
            family.add_metric(values, child.value)
        return family


def _buckets(child: Histogram) -> list[tuple[str, float] | tuple[str, float, Exemplar]]:
    from prometheus_client.samples import Exemplar

    buckets: list[tuple[str, float] | tuple[str, float, Exemplar]] = []
    below = 0
    for at, (bound, count) in enumerate(zip((*child.bounds, float("inf")), child.counts, strict=True)):
        below += count
        limit = "+Inf" if bound == float("inf") else repr(bound)
        labels, value = child.exemplars.get(at, ({}, 0.0))
        if labels and _length(labels) <= EXEMPLAR_CHARACTERS_MAX:
            buckets.append((limit, below, Exemplar(dict(labels), value)))
        else:
            buckets.append((limit, below))
    return buckets


def _length(labels: Mapping[str, str]) -> int:
    return sum(len(name) + len(value) for name, value in labels.items())


class Metrics:
    """Every metric of one app in one process."""

    def __init__(self) -> None:
        self._families: list[Family] = []
        self._collectors: list[Callable[[], None]] = []
        self._of_events()
        self._of_times()
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

    def _of_events(self) -> None:
        lag = "Records of a source partition that this worker has still to read."
        self.consumer_lag_records = self._gauges("consumer_lag_records", lag, "topic", "partition")
        self.unowned_lag_records = self._gauges(
            "unowned_lag_records",
            "Records still to be read of a source partition that no live worker has.",
            "topic",
            "partition",
        )
        self.consumer_events = self._gauges(
            "consumer_events",
            "Events of this worker's partitions since the consumer began, by what became of them: "
            'outcome="in" is the sum of all others.',
            "consumer",
            "outcome",
        )
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

    def _of_times(self) -> None:
        self.checkpoint_seconds = self._histogram(
            "checkpoint_seconds", "From the cut of a checkpoint to its commit."
        )
        self.last_commit_age_seconds = self._gauge(
            "last_commit_age_seconds", "Since the newest durable checkpoint; one that is idle makes none."
        )
        self.commit_overdue_seconds = self._gauge(
            "commit_overdue_seconds", "How long something has been due that is not durable."
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

    @property
    def families(self) -> Sequence[Family]:
        """All that are declared."""
        return self._families

    def collect(self) -> Iterator[Metric]:
        """What prometheus-client asks of a registry: ours, then the app's own, as of now."""
        from prometheus_client import REGISTRY

        for collector in self._collectors:
            collector()
        ours = set()
        for family in self._families:
            metric = family.metric()
            ours.add(metric.name)
            yield metric
        yield from (metric for metric in REGISTRY.collect() if metric.name not in ours)

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """In the format that an ``Accept`` header asks for, and its type. OpenMetrics has exemplars too."""
        from prometheus_client.exposition import choose_encoder

        encode, content_type = choose_encoder(accept)
        return encode(cast("CollectorRegistry", self)), content_type

    def _process_metrics(self) -> None:
        text = "Resident memory of this process in bytes."
        memory = self._gauge("process_resident_memory_bytes", text)
        # Also under the name that every Prometheus client and dashboard uses for it.
        self._families.append(
            Family("process_resident_memory_bytes", "gauge", text, (), lambda: [((), memory)])
        )
        self.process_resident_memory_bytes = memory
        self.on_collect(lambda: memory.set(resident_bytes()))

    def _single(self, name: str, kind: str, text: str, child: C) -> C:
        self._families.append(Family(PREFIX + name, kind, text, (), lambda: [((), child)]))
        return child

    def _labelled(self, name: str, kind: str, text: str, labelled: Labelled[C]) -> Labelled[C]:
        names = labelled.label_names
        self._families.append(
            Family(
                PREFIX + name, kind, text, names, lambda: sorted(labelled.children.items(), key=itemgetter(0))
            )
        )
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
