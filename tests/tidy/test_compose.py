"""`compose.yaml` is valid and its services can reach each other. No container engine is needed.

`compose-spec.json` is the Compose Specification's own schema (compose-go v2.16.2, Apache-2.0).
"""

from __future__ import annotations

import json
import pathlib
import re
from typing import Any

import jsonschema
import pytest
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
SCHEMA = json.loads((pathlib.Path(__file__).parent / "compose-spec.json").read_text(encoding="utf-8"))


@pytest.fixture
def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
    return loaded


def listeners(text: str) -> dict[str, tuple[str, int]]:
    """``NAME://host:port,...`` as name -> (host, port)."""
    found = {}
    for listener in text.split(","):
        name, _, address = listener.partition("://")
        host, _, port = address.rpartition(":")
        found[name] = (host, int(port))
    return found


def published(service: dict[str, Any]) -> dict[int, tuple[str, int]]:
    """Port in the container -> (address on the host, port on the host)."""
    ports = {}
    for port in service.get("ports", ()):
        address, outside, inside = port.rsplit(":", 2)
        ports[int(inside)] = (address, int(outside))
    return ports


def test_the_file_follows_the_compose_schema(compose: dict[str, Any]) -> None:
    jsonschema.validate(compose, SCHEMA)


@pytest.mark.parametrize(
    "service, wrong",
    [
        ("kafka", {"ports": 9092}),
        ("redis", {"healthcheck": {"test": 1}}),
        ("worker", {"dependson": ["kafka"]}),
    ],
)
def test_the_schema_finds_what_compose_would_refuse(
    compose: dict[str, Any], service: str, wrong: dict[str, Any]
) -> None:
    compose["services"][service] |= wrong
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(compose, SCHEMA)


def test_there_are_a_broker_a_redis_and_a_worker(compose: dict[str, Any]) -> None:
    assert set(compose["services"]) == {"kafka", "redis", "worker"}


def test_every_service_has_a_health_check(compose: dict[str, Any]) -> None:
    without = [name for name, service in compose["services"].items() if not service["healthcheck"]["test"]]
    assert without == []


def test_every_port_is_open_to_this_machine_only(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        assert {address for address, _ in published(service).values()} == {"127.0.0.1"}


def test_what_a_service_waits_for_exists_and_must_be_healthy(compose: dict[str, Any]) -> None:
    services = compose["services"]
    waits = {name: service.get("depends_on", {}) for name, service in services.items()}
    assert waits["worker"] == {"kafka": {"condition": "service_healthy"}}
    assert {other for wait in waits.values() for other in wait} <= set(services)


def test_kafka_is_one_kraft_node(compose: dict[str, Any]) -> None:
    environment = compose["services"]["kafka"]["environment"]
    assert set(environment["KAFKA_PROCESS_ROLES"].split(",")) == {"broker", "controller"}
    node, _, voter = environment["KAFKA_CONTROLLER_QUORUM_VOTERS"].partition("@")
    assert node == environment["KAFKA_NODE_ID"]
    controller = environment["KAFKA_CONTROLLER_LISTENER_NAMES"]
    assert int(voter.rpartition(":")[2]) == listeners(environment["KAFKA_LISTENERS"])[controller][1]


def test_the_worker_calls_kafka_by_an_address_that_kafka_advertises(compose: dict[str, Any]) -> None:
    kafka, worker = compose["services"]["kafka"], compose["services"]["worker"]
    broker = re.fullmatch(r"kafka://([a-z]+):(\d+)", worker["environment"]["STREAMFLOW_BROKER"])
    assert broker is not None
    called = (broker[1], int(broker[2]))
    advertised = listeners(kafka["environment"]["KAFKA_ADVERTISED_LISTENERS"])
    assert called in advertised.values()
    assert called[0] in {"kafka", kafka.get("hostname")}


def test_programs_outside_call_kafka_by_a_published_port(compose: dict[str, Any]) -> None:
    kafka = compose["services"]["kafka"]
    advertised = listeners(kafka["environment"]["KAFKA_ADVERTISED_LISTENERS"])
    listening = listeners(kafka["environment"]["KAFKA_LISTENERS"])
    outside = {name: port for name, (host, port) in advertised.items() if host == "localhost"}
    assert outside
    for name, port in outside.items():
        assert published(kafka)[listening[name][1]] == ("127.0.0.1", port)


def test_every_listener_has_a_protocol_and_a_place_to_listen(compose: dict[str, Any]) -> None:
    environment = compose["services"]["kafka"]["environment"]
    protocols = dict(
        pair.split(":") for pair in environment["KAFKA_LISTENER_SECURITY_PROTOCOL_MAP"].split(",")
    )
    listening = listeners(environment["KAFKA_LISTENERS"])
    assert set(protocols) == set(listening)
    assert set(listeners(environment["KAFKA_ADVERTISED_LISTENERS"])) <= set(listening)
    assert environment["KAFKA_INTER_BROKER_LISTENER_NAME"] in listening


def test_the_image_copies_only_what_the_ignore_file_lets_in(compose: dict[str, Any]) -> None:
    dockerfile = compose["services"]["worker"]["build"]["dockerfile_inline"]
    copied = {
        name for line in dockerfile.splitlines() if line.startswith("COPY") for name in line.split()[1:-1]
    }
    ignore = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    assert ignore[0] == "*"
    assert copied == {line[1:] for line in ignore if line.startswith("!")}
    assert [name for name in copied if not (ROOT / name).exists()] == []


def test_the_worker_is_looked_at_on_the_port_where_it_listens(compose: dict[str, Any]) -> None:
    worker = compose["services"]["worker"]
    port = int(worker["environment"]["STREAMFLOW_WEB_PORT"])
    assert port in published(worker)
    assert f"127.0.0.1:{port}/readyz" in worker["healthcheck"]["test"][-1]


def test_named_volumes_are_declared(compose: dict[str, Any]) -> None:
    used = {
        volume.split(":")[0]
        for service in compose["services"].values()
        for volume in service.get("volumes", ())
    }
    assert used == set(compose["volumes"])
