"""Stream processing on Kafka, in Python: Faust's form, exactly once, live in the browser.

General layout
--------------
Fifteen rooms and the ground, top to bottom; a module imports only from rooms below its own, imports for
types too (docs/ARCHITECTURE.md says why):

    cli           the `streamflow` command
    app           what users write against, on Faust: App, agents, streams, tables, topics, the worker
    web           HTTP and the dashboard; http: lists and keys of all workers, live: every change of a table
    verify        counts a source topic again and compares
    query         committed rows for readers outside agents (interactive queries)
    engine        one worker: dispatch, assignment, restoration, checkpoint, rebalance, standbys
    connectors    sources that are read into topics, sinks that topics are written to: files, HTTP, databases
    processing    how agents take events: in order or concurrently; acks, failures, joins, retries
    aggregates    declared aggregates: functions, folds, late events, the shuffle from partial to final
    state         tables: changes, cut, changelog, restore, stores
    codecs        events and their bytes, in columns
    windows       pure window arithmetic
    client        for other programs: tables and topics of a running app, over HTTP and WebSocket
    transports    drivers behind one contract: kafka, redis_streams, memory
    testing       a clock that tests move and an event loop of simulated time, for users' tests

    settings, partitioner, metrics, clock, errors: the ground, which every room stands on

The names below are imported when the first of them is asked for: `streamflow.client`, for programs that only
ask an app's workers, needs neither Faust nor NumPy nor a broker's driver.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    __version__: str
    from streamflow.app.names import (
        Agent,
        App,
        AppCommand,
        ApproxDistinct,
        Buffer,
        Channel,
        ChannelT,
        CircuitBreaker,
        CircuitOpen,
        Codec,
        Collect,
        Command,
        ConfigurationError,
        Count,
        CountBy,
        DecodeError,
        Event,
        EventT,
        EventTimeout,
        First,
        GlobalTable,
        GSSAPICredentials,
        HoppingWindow,
        Key,
        Last,
        Limit,
        LimitReached,
        Max,
        Mean,
        Min,
        MissingEventType,
        Model,
        ModelOptions,
        Monitor,
        OAuthCredentials,
        Quantile,
        Record,
        RecordTooLarge,
        Retry,
        SASLCredentials,
        Schema,
        Sensor,
        Service,
        ServiceT,
        SessionWindow,
        SetGlobalTable,
        SetTable,
        Settings,
        SlidingWindow,
        SSLCredentials,
        StaleEvent,
        Stream,
        StreamflowError,
        StreamT,
        Sum,
        Table,
        TimeField,
        Topic,
        TopicT,
        TopK,
        TumblingWindow,
        UnknownEventType,
        Variance,
        Window,
        WindowError,
        Worker,
        current_agent,
        current_event,
        maybe_model,
        registry,
        uuid,
    )

__all__ = [
    "Agent",
    "App",
    "AppCommand",
    "ApproxDistinct",
    "Buffer",
    "Channel",
    "ChannelT",
    "CircuitBreaker",
    "CircuitOpen",
    "Codec",
    "Collect",
    "Command",
    "ConfigurationError",
    "Count",
    "CountBy",
    "DecodeError",
    "Event",
    "EventT",
    "EventTimeout",
    "First",
    "GSSAPICredentials",
    "GlobalTable",
    "HoppingWindow",
    "Key",
    "Last",
    "Limit",
    "LimitReached",
    "Max",
    "Mean",
    "Min",
    "MissingEventType",
    "Model",
    "ModelOptions",
    "Monitor",
    "OAuthCredentials",
    "Quantile",
    "Record",
    "RecordTooLarge",
    "Retry",
    "SASLCredentials",
    "SSLCredentials",
    "Schema",
    "Sensor",
    "Service",
    "ServiceT",
    "SessionWindow",
    "SetGlobalTable",
    "SetTable",
    "Settings",
    "SlidingWindow",
    "StaleEvent",
    "Stream",
    "StreamT",
    "StreamflowError",
    "Sum",
    "Table",
    "TimeField",
    "TopK",
    "Topic",
    "TopicT",
    "TumblingWindow",
    "UnknownEventType",
    "Variance",
    "Window",
    "WindowError",
    "Worker",
    "current_agent",
    "current_event",
    "maybe_model",
    "registry",
    "uuid",
]

_LIGHT: Final = frozenset({"client", "clock", "errors"})
"""What needs nothing else of this package."""


class _Loaded(Loader):
    """Stands for the loader of a module that was loaded while it was being looked for, and else is that one.

    The module wears a spec with this loader until it is handed out, since `importlib` takes the spec of a
    module that has come up meanwhile, and would make it a second time by its own.
    """

    def __init__(self, module: ModuleType, spec: ModuleSpec) -> None:
        self._module = module
        self._spec = spec

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self._module

    def exec_module(self, module: ModuleType) -> None:
        vars(module).update(__spec__=self._spec)

    def __getattr__(self, name: str) -> object:
        return getattr(self._spec.loader, name)


class _First(MetaPathFinder):
    """Loads the whole package before the first of its modules that is not light.

    Faust's modules are found by our name, and ours are lent their names, from then on.
    """

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package, _, rest = fullname.partition(".")
        if package != __name__ or rest.partition(".")[0] in _LIGHT:
            return None
        _load()
        module = sys.modules.get(fullname)
        if module is None or module.__spec__ is None:
            return None  # another finder knows where it is
        known = module.__spec__
        spec = ModuleSpec(fullname, _Loaded(module, known), origin=known.origin)
        spec.submodule_search_locations = known.submodule_search_locations
        vars(module).update(__spec__=spec)
        return spec


_first = _First()
sys.meta_path.insert(0, _first)


def _load() -> None:
    if _first not in sys.meta_path:
        return  # done, or under way
    sys.meta_path.remove(_first)
    names = import_module("streamflow.app.names")
    globals().update({name: getattr(names, name) for name in ("__version__", *__all__)})


if not TYPE_CHECKING:  # a checker would take every name for one of ours

    def __getattr__(name: str) -> object:
        if name in _LIGHT:
            return import_module(f"{__name__}.{name}")
        if name == "__version__" or not name.startswith("__"):
            _load()
            if name in globals():
                return globals()[name]
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
