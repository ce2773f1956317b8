"""What wins: command line, STREAMFLOW_NAME, Faust's own variable, the app's code, the default."""

from __future__ import annotations

from typing import Any

import faust
import pytest

from streamflow import App, ConfigurationError


def app(env: dict[str, str] | None = None, **options: Any) -> App:
    return App("shop", env=env or {}, **options)


def test_an_app_is_a_faust_app_and_needs_no_broker() -> None:
    made = app()
    assert isinstance(made, faust.App)
    assert made.broker_url == "memory:"
    assert made.engine_settings.id == "shop"
    assert made.engine_settings.processing_guarantee == "exactly_once"
    assert made.engine_settings.commit_interval == 0.5


@pytest.mark.parametrize(
    "env,url",
    [
        ({}, "kafka://code:9092"),
        ({"BROKER_URL": "kafka://faust:9092"}, "kafka://faust:9092"),
        ({"STREAMFLOW_BROKER": "kafka://ours:9092"}, "kafka://ours:9092"),
        ({"STREAMFLOW_BROKER": "kafka://ours:9092", "BROKER_URL": "kafka://faust:9092"}, "kafka://ours:9092"),
        ({"STREAMFLOW_BROKER": "kafka://a:1;kafka://b:2"}, "kafka://a:1;kafka://b:2"),
    ],
)
def test_the_broker_is_that_of_the_strongest_who_names_one(env: dict[str, str], url: str) -> None:
    assert app(env, broker="kafka://code:9092").broker_url == url


def test_the_command_line_wins_over_the_environment() -> None:
    made = app({"STREAMFLOW_WEB_PORT": "7000", "STREAMFLOW_BROKER": "kafka://ours:9092"})
    made.conf.web_port = 8000  # as `faust worker --web-port 8000` does
    conf: Any = made.conf
    conf.broker = "kafka://line:9092"
    assert made.settings.web_settings().port == 8000
    assert made.broker_url == "kafka://line:9092"


def test_every_knob_is_a_keyword_and_a_variable() -> None:
    assert app(commit_interval=0.1, future_max_s=5).engine_settings.commit_interval == 0.1
    made = app(
        {"STREAMFLOW_COMMIT_INTERVAL": "0.25", "STREAMFLOW_PARTITIONER": "murmur2", "STREAMFLOW_ID": "other"},
        commit_interval=0.1,
    )
    assert made.engine_settings.commit_interval == 0.25
    assert made.engine_settings.partitioner == "murmur2"
    assert made.engine_settings.id == made.conf.id == "other"


def test_settings_that_faust_has_too_are_read_from_either_name() -> None:
    assert app(broker_commit_interval=1.5).engine_settings.commit_interval == 1.5
    assert app(broker_session_timeout=7).engine_settings.session_timeout_ms == 7_000
    assert app(broker_max_poll_interval=20).engine_settings.max_poll_interval_ms == 20_000
    assert app({"BROKER_MAX_POLL_INTERVAL": "9"}).engine_settings.max_poll_interval_ms == 9_000
    assert app(topic_partitions=3).engine_settings.topic_partitions == 3
    assert app({"TOPIC_PARTITIONS": "4"}, topic_partitions=3).engine_settings.topic_partitions == 4
    assert app({"STREAMFLOW_TOPIC_PARTITIONS": "5"}, topic_partitions=3).engine_settings.topic_partitions == 5
    assert app().engine_settings.topic_replication_factor == 0  # as the sources: Faust's 1 was not asked for
    assert app(topic_replication_factor=3).engine_settings.topic_replication_factor == 3
    assert app({"TOPIC_REPLICATION_FACTOR": "2"}).engine_settings.topic_replication_factor == 2
    assert app({"STREAMFLOW_TOPIC_REPLICATION_FACTOR": "1"}).engine_settings.topic_replication_factor == 1
    relaxed = app(processing_guarantee="at_least_once").engine_settings
    assert relaxed.processing_guarantee == "at_least_once"


@pytest.mark.parametrize(
    "env,options,named",
    [
        ({}, {"commit_interval": 0}, "commit_interval"),
        ({"STREAMFLOW_COMMIT_INTERVAL": "soon"}, {}, "STREAMFLOW_COMMIT_INTERVAL"),
        ({}, {"partitioner": "md5"}, "partitioner"),
        ({}, {"broker": "kafka://ann:s3cret@host:9092"}, "broker_credentials"),
    ],
)
def test_what_cannot_work_is_named_when_the_configuration_is_read(
    env: dict[str, str], options: dict[str, Any], named: str
) -> None:
    with pytest.raises(ConfigurationError, match=named) as raised:
        _ = app(env, **options).conf
    assert "s3cret" not in str(raised.value)


def test_the_web_view_is_bound_to_this_machine_unless_told_otherwise() -> None:
    web = app().settings.web_settings()
    assert (web.host, web.port, web.port_explicit) == ("127.0.0.1", 6066, False)
    env = {
        "STREAMFLOW_WEB_BIND": "0.0.0.0",
        "STREAMFLOW_WEB_PORT": "6066",
        "STREAMFLOW_WEB_ALLOW_INSECURE": "true",
        "STREAMFLOW_WEB_TOKENS": "one, two",
        "STREAMFLOW_WS_CONNECTIONS_MAX": "7",
    }
    web = app(env).settings.web_settings()
    assert (web.host, web.port, web.port_explicit) == ("0.0.0.0", 6066, True)
    assert (web.allow_insecure, web.tokens, web.ws_connections_max) == (True, ("one", "two"), 7)


def test_the_address_that_peers_call_can_be_said() -> None:
    assert app(web_advertised_url="http://a:1").settings.web_settings().advertised_url == "http://a:1"
    named = app(web_host="worker-1", web_port=7000).settings.web_settings()
    assert named.advertised_url == "http://worker-1:7000"


def test_a_web_setting_that_is_nonsense_is_named() -> None:
    with pytest.raises(ConfigurationError, match="web_allow_insecure"):
        app({"STREAMFLOW_WEB_ALLOW_INSECURE": "perhaps"}).settings.web_settings()
