"""Faust's settings and ours in one place, with what wins: command line, STREAMFLOW_NAME, Faust's own
variable, the app's code, the default.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping, MutableMapping
from dataclasses import fields
from typing import Any, cast

from faust.types.settings import Settings as FaustSettings

from streamflow.errors import ConfigurationError
from streamflow.settings import PREFIX, from_environment
from streamflow.settings import Settings as EngineSettings
from streamflow.web.settings import WebSettings

BROKER_DEFAULT = "memory://"
NEAR = 0.88
"""How alike two names are of which one may be mistyped; of 1."""

# What is otherwise than in Faust. Classes by their names, as Faust's own: a part may ask for its settings.
DEFAULTS: Mapping[str, str | int] = {
    "Agent": "streamflow.app.agents.agent:Agent",
    "GlobalTable": "streamflow.app.tables.global_table:GlobalTable",
    "Router": "streamflow.app.worker.key_routing:Router",
    "SetGlobalTable": "streamflow.app.tables.set_table:SetGlobalTable",
    "SetTable": "streamflow.app.tables.set_table:SetTable",
    "Table": "streamflow.app.tables.table:Table",
    "Topic": "streamflow.app.topics.topic:Topic",
    "Worker": "streamflow.app.worker.process:Worker",
    "processing_guarantee": "exactly_once",
    "producer_max_request_size": 1_048_588,  # what a broker takes unless it is told otherwise
    "web_bind": "127.0.0.1",
}
# Ours and Faust's under one name: Faust reads them.
SHARED = frozenset(
    {
        "id",
        "processing_guarantee",
        "store",
        "table_standby_replicas",
        "topic_partitions",
        "topic_replication_factor",
    }
)
KNOBS = frozenset(knob.name for knob in fields(EngineSettings)) - SHARED
# Name of a web setting -> field of WebSettings; host, port and web_ssl_context are Faust's.
WEB = {
    field.name if field.name.startswith("ws_") else f"web_{field.name}": field
    for field in fields(WebSettings)
    if field.name not in ("host", "port", "port_explicit", "ssl_context")
}
TRUE, FALSE = frozenset({"1", "true", "yes", "on"}), frozenset({"0", "false", "no", "off", ""})


class Settings(FaustSettings):
    """`App.conf`: Faust's settings; `engine_settings` and `web_settings` are ours."""

    DEFAULT_BROKER_URL = BROKER_DEFAULT

    def on_init(
        self,
        id: str,  # noqa: A002  # Faust's name
        *,
        env: Mapping[str, str] | None = None,
        **kwargs: object,
    ) -> None:
        environ = env or os.environ
        super().on_init(environ.get(PREFIX + "ID") or id, env=env, **kwargs)

    def getenv(self, env_name: str) -> Any:
        ours = self.env.get(PREFIX + _name_of_variable(env_name).upper())
        return ours if ours is not None else super().getenv(env_name)

    def _init_settings(self, kwargs: dict[str, Any]) -> None:
        given = {name: value for name, value in kwargs.items() if value is not None}
        for name, param in self.SETTINGS.items():
            text = self.env.get(PREFIX + name.upper())
            if text is not None and param.env_name is None:
                given[name] = text
        # Faust's own variables win over code: what they say of a name that has two is not ours to undo.
        self._given = set(given) | {
            name for name, param in self.SETTINGS.items() if param.env_name and self.getenv(param.env_name)
        }
        self._code = given
        # Port 0 is none for Faust; here it is any that is free.
        told = self.getenv(self.SETTINGS["web_port"].env_name or "") or given.get("web_port", "")
        port_any = str(told) == "0"
        if port_any:
            self.env = {name: text for name, text in self.env.items() if not name.endswith("WEB_PORT")}
        super()._init_settings({**DEFAULTS, **given, **({"web_port": None} if port_any else {})})
        if port_any:
            self._web_port = 0

    def __post_init__(self) -> None:
        self.engine_settings(self._id)  # what can't work is told where it was declared
        for url in self._broker or ():
            if url.user is not None or url.password is not None:
                # What stands before the @ would be printed by the banner and with every error.
                raise ConfigurationError("broker: no user or password in the URL; use broker_credentials")

    def __setattr__(self, name: str, value: object) -> None:
        if not name.startswith("_") and not self._initializing:
            self._given.add(name)  # the command line sets what it was given
        if name == "web_port" and str(value) == "0":
            name, value = "_web_port", 0
        super().__setattr__(name, value)

    @property
    def mistyped(self) -> dict[str, str]:
        """Variables STREAMFLOW_... that no setting has, and the nearest that there is.

        Others are an app's own: nobody else can know them.
        """
        known = {PREFIX + name.upper() for name in (*self.SETTINGS, *KNOBS, *SHARED, *WEB)}
        strange = sorted(name for name in self.env if name.startswith(PREFIX) and name not in known)
        near = {name: difflib.get_close_matches(name, known, 1, NEAR) for name in strange}
        return {name: found[0] for name, found in near.items() if found}

    @property
    def given(self) -> frozenset[str]:
        """Names of the settings that somebody gave a value, wherever."""
        return frozenset(self._given)

    @property
    def chose_partitioner(self) -> bool:
        """Did the code or the environment say by what rule keys are placed?"""
        return "partitioner" in self._code or "partitioner" in from_environment(self.env)

    def engine_settings(self, app_id: str) -> EngineSettings:
        """The engine's part. Raises ConfigurationError."""
        values: dict[str, Any] = {}
        if "broker_commit_interval" in self._given:
            values["commit_interval"] = self._broker_commit_interval
        if "broker_commit_every" in self._given:
            values["commit_every"] = self._broker_commit_every
        if "broker_session_timeout" in self._given:
            values["session_timeout_ms"] = int(self._broker_session_timeout * 1_000)
        if "broker_max_poll_interval" in self._given:
            values["max_poll_interval_ms"] = int(self._broker_max_poll_interval * 1_000)
        values.update({name: self._code[name] for name in KNOBS & self._code.keys()})
        values.update({n: v for n, v in from_environment(self.env).items() if n not in SHARED})
        values["processing_guarantee"] = self._processing_guarantee.value
        values["store"] = str(self._store)
        values.setdefault("data_dir", str(self.datadir))
        values["topic_partitions"] = self._topic_partitions
        if "topic_replication_factor" in self._given:  # Faust's default, 1, would be less than the source has
            values["topic_replication_factor"] = self._topic_replication_factor
        values["table_standby_replicas"] = self._table_standby_replicas
        return EngineSettings(id=app_id, **values)

    def web_settings(self) -> WebSettings:
        """The web view's part. Raises ConfigurationError."""
        values: dict[str, Any] = {}
        for name, field in WEB.items():
            value = self.env.get(PREFIX + name.upper(), self._code.get(name))
            if value is not None:
                values[field.name] = _converted(name, value, field.default)
        port, explicit = int(self._web_port), "web_port" in self._given
        if self._web_ssl_context is not None:
            values["ssl_context"] = self._web_ssl_context
        if "advertised_url" not in values:
            if "web_host" in self._given:
                scheme = "https" if "ssl_context" in values or values.get("ssl_cert_file") else "http"
                values["advertised_url"] = f"{scheme}://{self._web_host}:{port}"
                explicit = True  # another port would not be the one that is advertised
            elif "canonical_url" in self._code:
                values["advertised_url"] = str(self._canonical_url).rstrip("/")
        return WebSettings(host=self._web_bind, port=port, port_explicit=explicit, **values)


def _name_of_variable(variable: str) -> str:
    """The setting that one of Faust's variables sets."""
    for name, param in FaustSettings.SETTINGS.items():
        if param.env_name == variable:
            return name
    return variable


def _converted(name: str, value: object, default: object) -> Any:
    """A web setting of a keyword or of a variable's text, by the type of its default."""
    try:
        if isinstance(default, bool):
            return _flag(value)
        if isinstance(default, tuple):
            parts = value.split(",") if isinstance(value, str) else cast("Iterable[str]", value)
            return tuple(part.strip() for part in parts if part.strip())
        convert: Any = type(default)
        return value if default is None else convert(value)
    except (TypeError, ValueError) as exc:
        raise ConfigurationError(f"setting {name} is {value!r}: {exc}") from exc


def _flag(value: object) -> bool:
    if not isinstance(value, str):
        return bool(value)
    if value.lower() not in TRUE | FALSE:
        raise ValueError("it must be true or false")
    return value.lower() in TRUE


def without_old_names(options: MutableMapping[str, Any]) -> dict[str, Any]:
    """Takes away what Faust would read as an old name of a setting of its own."""
    return {"commit_interval": options.pop("commit_interval")} if "commit_interval" in options else {}
