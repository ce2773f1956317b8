"""A broker that asks who is there: SASL with and without TLS, and users who may not do everything."""

from __future__ import annotations

import asyncio
import json
import os
import pathlib
import shutil
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import jwt
import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from streamflow.clock import SystemClock
from streamflow.errors import ConfigurationError, RecordRefused, TransportError
from streamflow.settings import Settings
from streamflow.transports.base import Commit, Record
from streamflow.transports.connect import connect
from streamflow.transports.kafka import KafkaSettings, KafkaTransport
from tests.contract.harness import Worker, make_topic, numbered, numbers_in, partitions_of, read_all, unique
from tests.integration.conftest import _missing
from tests.integration.kafka_clients import LIMIT_S, QUICK, KafkaClients
from tests.integration.workers import create_topics, wait_for
from tests.integration.workers import read_all as messages_of
from tests.support.kafka_server import KafkaServer, NoBroker
from tests.support.server import free_ports

USERS = {"worker": "w-secret", "limited": "l-secret", "nobody": "n-secret", "least": "least-secret"}
PLAIN_LOGIN = "org.apache.kafka.common.security.plain.PlainLoginModule"
OAUTH_LOGIN = "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule"
SCRAM_LOGIN = "org.apache.kafka.common.security.scram.ScramLoginModule"


@dataclass
class Secure:
    """One broker behind three doors; who comes through the open one may do everything."""

    open: str
    sasl: str
    tls: str
    authority: pathlib.Path


def make_certificate(folder: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
    """(the certificate, a file with key and certificate) of 127.0.0.1."""
    if shutil.which("openssl") is None:
        _missing("there is no openssl to make a certificate with")
    key, certificate, both = folder / "key.pem", folder / "certificate.pem", folder / "both.pem"
    options = ["-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
    options += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(["openssl", "req", "-x509", *options], check=True, capture_output=True, timeout=30)
    both.write_text(key.read_text() + certificate.read_text())
    return certificate, both


def properties(sasl: int, tls: int, keystore: pathlib.Path) -> dict[str, str]:
    own = "PLAINTEXT://{bind}:{port},CONTROLLER://127.0.0.1:{controller_port}"
    users = " ".join(f'user_{name}="{password}"' for name, password in USERS.items())
    found = {
        "listeners": f"{own},SASL://{{bind}}:{sasl},TLS://{{bind}}:{tls}",
        "advertised.listeners": (
            f"PLAINTEXT://127.0.0.1:{{port}},SASL://127.0.0.1:{sasl},TLS://127.0.0.1:{tls}"
        ),
        "listener.security.protocol.map": (
            "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL:SASL_PLAINTEXT,TLS:SASL_SSL"
        ),
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS",
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(keystore),
    }
    for name in ("sasl", "tls"):
        found |= {
            f"listener.name.{name}.sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER",
            f"listener.name.{name}.scram-sha-512.sasl.jaas.config": f"{SCRAM_LOGIN} required;",
            f"listener.name.{name}.oauthbearer.sasl.jaas.config": (
                f'{OAUTH_LOGIN} required unsecuredLoginStringClaim_sub="broker";'
            ),
            f"listener.name.{name}.plain.sasl.jaas.config": f"{PLAIN_LOGIN} required {users};",
            f"listener.name.{name}.scram-sha-256.sasl.jaas.config": f"{SCRAM_LOGIN} required;",
        }
    return found


def allow(kind: ResourceType, name: str, user: str, *operations: AclOperation) -> list[AclBinding]:
    """For all resources whose name begins so."""
    prefixed = ResourcePatternType.PREFIXED
    who = f"User:{user}"
    return [
        AclBinding(kind, name, prefixed, who, "*", operation, AclPermissionType.ALLOW)
        for operation in operations
    ]


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secure]:
    folder = tmp_path_factory.mktemp("secure")
    certificate, keystore = make_certificate(folder)
    sasl, tls = free_ports(2)
    server = KafkaServer(properties(sasl, tls, keystore), ports=(sasl, tls))
    try:
        server.start()
    except NoBroker as exc:
        _missing(str(exc))
    admin = AdminClient({"bootstrap.servers": server.bootstrap})
    for mechanism in (ScramMechanism.SCRAM_SHA_256, ScramMechanism.SCRAM_SHA_512):
        scram = ScramCredentialInfo(mechanism, 4096)
        wanted = [UserScramCredentialUpsertion(n, scram, p.encode()) for n, p in USERS.items()]
        for done in admin.alter_user_scram_credentials(wanted).values():
            done.result(20)
    topics, groups = ResourceType.TOPIC, ResourceType.GROUP
    rules = [
        *allow(topics, "t-", "worker", AclOperation.ALL),
        *allow(groups, "g-", "worker", AclOperation.ALL),
        *allow(ResourceType.TRANSACTIONAL_ID, "g-", "worker", AclOperation.ALL),
        *allow(topics, "t-", "limited", AclOperation.ALL),
        *allow(groups, "g-", "limited", AclOperation.ALL),
        *allow(topics, "t-", "nobody", AclOperation.READ),
    ]
    for made in admin.create_acls(rules).values():
        made.result(20)
    # Only so many topics may be written: the rest of them the worker may read.
    deny = AclPermissionType.DENY
    pattern, write = ResourcePatternType.PREFIXED, AclOperation.WRITE
    (denied,) = admin.create_acls(
        [AclBinding(topics, "t-denied", pattern, "User:worker", "*", write, deny)]
    ).values()
    denied.result(20)
    try:
        yield Secure(server.bootstrap, f"127.0.0.1:{sasl}", f"127.0.0.1:{tls}", certificate)
    finally:
        server.stop()


@pytest.fixture
async def outside(secure: Secure) -> AsyncIterator[KafkaClients]:
    """KafkaClients through the open door."""
    clients = KafkaClients(secure.open)
    yield clients
    await clients.close()


def login(secure: Secure, user: str, *, tls: bool = False, mechanism: str = "PLAIN") -> dict[str, Any]:
    options: dict[str, Any] = {
        "security_protocol": "SASL_SSL" if tls else "SASL_PLAINTEXT",
        "sasl_mechanism": mechanism,
        "sasl_username": user,
        "sasl_password": USERS.get(user, "wrong"),
        "allow_sasl_without_tls": not tls,
    }
    if tls:
        options["ssl_context"] = ssl.create_default_context(cafile=str(secure.authority))
    return options


class Visitors:
    """Transports with a login, stopped after the test."""

    def __init__(self, secure: Secure) -> None:
        self.secure = secure
        self.made: list[KafkaTransport] = []

    async def client(self, user: str, *, tls: bool = False, **options: Any) -> KafkaTransport:
        mechanism = options.pop("mechanism", "PLAIN")
        fields = {**QUICK, **login(self.secure, user, tls=tls, mechanism=mechanism), **options}
        place = self.secure.tls if tls else self.secure.sasl
        client = KafkaTransport(KafkaSettings((place,), unique("g-app"), **fields), SystemClock())
        self.made.append(client)
        await client.start()
        return client

    async def worker(self, topic: str, user: str, **options: Any) -> Worker:
        """The only member of a group."""
        worker = Worker(await self.client(user, **options), LIMIT_S)
        await worker.join([topic])
        await worker.owns(partitions_of(topic, 1))
        return worker


@pytest.fixture
async def visitors(secure: Secure) -> AsyncIterator[Visitors]:
    made = Visitors(secure)
    yield made
    for client in made.made:
        await client.stop()


@pytest.mark.parametrize(
    "tls,mechanism",
    [(True, "SCRAM-SHA-256"), (True, "SCRAM-SHA-512"), (True, "PLAIN"), (False, "SCRAM-SHA-256")],
)
async def test_a_worker_reads_and_commits_as_a_user(
    outside: KafkaClients, visitors: Visitors, tls: bool, mechanism: str
) -> None:
    maker = await outside.maker()
    topic, log = await make_topic(maker, "t-events", 1), await make_topic(maker, "t-log", 1)
    worker = await visitors.worker(topic, "worker", tls=tls, mechanism=mechanism)
    commit = Commit(worker.listener.newest, numbered(log, 0, [1, 2]), {(topic, 0): 9})
    await worker.client.commit(commit)
    assert await worker.client.committed([(topic, 0)]) == {(topic, 0): 9}
    got = await read_all(worker.client, [(log, 0)], LIMIT_S)
    assert numbers_in(got[log, 0]) == [1, 2]


async def test_a_wrong_password_and_a_foreign_certificate_find_no_broker(visitors: Visitors) -> None:
    with pytest.raises(TransportError):
        await visitors.client("stranger")
    with pytest.raises(TransportError):
        await visitors.client("worker", tls=True, ssl_context=ssl.create_default_context())


async def test_without_the_right_for_transactions_the_error_names_the_setting(
    outside: KafkaClients, visitors: Visitors
) -> None:
    topic = await make_topic(await outside.maker(), "t-events", 1)
    worker = await visitors.worker(topic, "limited")
    with pytest.raises(ConfigurationError, match="processing_guarantee") as told:
        await worker.client.committed([(topic, 0)])
    assert "TRANSACTIONAL_ID_AUTHORIZATION_FAILED" in str(told.value)
    with pytest.raises(ConfigurationError, match="processing_guarantee"):
        await worker.client.commit(Commit(worker.listener.newest, [], {(topic, 0): 1}))
    # The setting that it names helps.
    plain = await visitors.worker(topic, "limited", transactions=False)
    commit = Commit(plain.listener.newest, numbered(topic, 0, [1]), {(topic, 0): 1})
    assert await plain.client.commit(commit) == {(topic, 0): 1}


async def test_a_broker_that_cannot_keep_transactions_is_told_with_the_setting() -> None:
    # The broker's own default, on a cluster of one.
    server = KafkaServer({"transaction.state.log.replication.factor": "3"})
    try:
        server.start()
    except NoBroker as exc:
        _missing(str(exc))
    clients = KafkaClients(server.bootstrap)
    try:
        topic = await make_topic(await clients.maker(), "t-events", 1)
        worker = await clients.alone(topic, 1, commit_timeout_ms=1_000)
        with pytest.raises(TransportError, match="processing_guarantee") as told:
            await worker.client.commit(Commit(worker.listener.newest, [], {(topic, 0): 1}))
        assert "transaction.state.log.replication.factor" in str(told.value)
    finally:
        await clients.close()
        server.stop()


async def test_a_topic_that_may_not_be_written_refuses_each_of_its_records(
    outside: KafkaClients, visitors: Visitors
) -> None:
    maker = await outside.maker()
    topic, denied = await make_topic(maker, "t-events", 1), await make_topic(maker, "t-denied", 1)
    log = await make_topic(maker, "t-log", 1)
    worker = await visitors.worker(topic, "worker")
    records = [*numbered(denied, 0, [1]), *numbered(log, 0, [2]), Record(denied, 0, None, b"3")]
    with pytest.raises(RecordRefused, match="TOPIC_AUTHORIZATION_FAILED") as told:
        await worker.client.commit(Commit(worker.listener.newest, records, {(topic, 0): 1}))
    assert sorted(told.value.refused) == [0, 2]
    await worker.client.commit(Commit(worker.listener.newest, records[1:2], {(topic, 0): 1}))
    with pytest.raises(RecordRefused, match="TOPIC_AUTHORIZATION_FAILED"):
        await worker.client.send(numbered(denied, 0, [4]))


async def test_a_group_that_may_not_be_joined_is_told(outside: KafkaClients, visitors: Visitors) -> None:
    topic = await make_topic(await outside.maker(), "t-events", 1)
    worker = Worker(await visitors.client("nobody"), LIMIT_S)
    await worker.join([topic])

    async def fetch_until_told() -> None:
        while True:
            await worker.client.fetch(50)

    with pytest.raises(ConfigurationError, match="Read on the groups"):
        await fetch_until_told()


# -- as a user sets it up: by variables, with the least rights --------------------------------------

LEAST = {
    (ResourceType.TOPIC, "{source}", False): (AclOperation.READ,),
    (ResourceType.TOPIC, "{source}-dead-letters", False): (AclOperation.WRITE, AclOperation.CREATE),
    (ResourceType.TOPIC, "{results}", False): (AclOperation.WRITE, AclOperation.CREATE),
    (ResourceType.TOPIC, "{app}-", True): (AclOperation.READ, AclOperation.WRITE, AclOperation.CREATE),
    (ResourceType.GROUP, "{app}", False): (AclOperation.READ,),
    (ResourceType.TRANSACTIONAL_ID, "{app}-", True): (AclOperation.WRITE,),
}
"""What docs/how-to/secure-it.md lists: kind, name, whether it is a prefix -> operations."""

APP = """
import streamflow
app = streamflow.App("{app}", topic_partitions=2, web_port=0)
topic = app.topic("{source}", key_type=str, value_type=int)
results = app.topic("{results}", key_type=str, value_type=int)
counts = app.Table("counts", default=int)
app.aggregate("sums", topic, values=dict(n=streamflow.Count()), window=streamflow.TumblingWindow(10), by=None)

@app.agent(topic, sink=[results])
async def count(stream):
    async for key, value in stream.items():
        counts[key] += value
        yield counts[key]
"""


def least_rules(names: dict[str, str], user: str = "least") -> list[AclBinding]:
    found = []
    for (kind, name, is_prefix), operations in LEAST.items():
        how = ResourcePatternType.PREFIXED if is_prefix else ResourcePatternType.LITERAL
        for operation in operations:
            place = name.format(**names)
            found.append(
                AclBinding(kind, place, how, f"User:{user}", "*", operation, AclPermissionType.ALLOW)
            )
    return found


def set_rules(secure: Secure, rules: list[AclBinding], *, there: bool) -> None:
    admin = AdminClient({"bootstrap.servers": secure.open})
    if there:
        done = admin.create_acls(rules)
    else:
        done = admin.delete_acls(
            [
                AclBindingFilter(
                    rule.restype,
                    rule.name,
                    rule.resource_pattern_type,
                    rule.principal,
                    "*",
                    rule.operation,
                    rule.permission_type,
                )
                for rule in rules
            ]
        )
    for each in done.values():
        each.result(20)


@pytest.fixture
def program(tmp_path: pathlib.Path, secure: Secure) -> dict[str, str]:
    """Names of an app, whose module is ``secured`` in the folder."""
    names = {"app": unique("a"), "source": unique("s-events"), "results": unique("r-results")}
    text = APP
    for name, value in names.items():
        text = text.replace("{" + name + "}", value)
    (tmp_path / "secured.py").write_text(text)
    return names


def environment(secure: Secure, folder: pathlib.Path, **more: str) -> dict[str, str]:
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("STREAMFLOW_")},
        "PYTHONPATH": f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
        "STREAMFLOW_BROKER": f"kafka://{secure.tls}",
        "STREAMFLOW_KAFKA_TLS_CA_FILE": str(secure.authority),
        "STREAMFLOW_KAFKA_SASL_USERNAME": "least",
        "STREAMFLOW_KAFKA_SASL_PASSWORD": USERS["least"],
        "STREAMFLOW_KAFKA_SASL_MECHANISM": "SCRAM-SHA-512",
        "STREAMFLOW_DATADIR": str(folder / "data"),
        **more,
    }


def doctor(folder: pathlib.Path, env: dict[str, str]) -> dict[str, list[str]]:
    """Check -> what was said, of what is not ok; and ``ok`` -> the checks that are."""
    done = subprocess.run(
        [sys.executable, "-m", "streamflow.cli", "doctor", "-A", "secured", "--json"],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout, done.stderr
    found: dict[str, list[str]] = {"ok": []}
    for each in json.loads(done.stdout):
        if each["status"] == "ok":
            found["ok"].append(each["check"])
        else:
            found.setdefault(each["check"], []).append(each["said"])
    return found


def has_results(secure: Secure, topic: str) -> bool:
    there = AdminClient({"bootstrap.servers": secure.open}).list_topics(timeout=10).topics
    return topic in there and len(messages_of(secure.open, topic)) == 20


def test_an_app_works_with_the_least_rights_and_doctor_names_each_that_is_missing(
    secure: Secure, program: dict[str, str], tmp_path: pathlib.Path
) -> None:
    env = environment(secure, tmp_path)
    create_topics(secure.open, {program["source"]: 2})
    producer = Producer({"bootstrap.servers": secure.open})
    for number in range(20):
        producer.produce(program["source"], key=f"k{number % 4}", value=str(number))
    assert producer.flush(20) == 0
    rules = least_rules(program)
    set_rules(secure, rules, there=True)
    told = doctor(tmp_path, env)
    assert "broker rights" in told["ok"], told
    assert "broker security" in told["ok"], told
    command = [sys.executable, "-m", "streamflow.cli", "worker", "-A", "secured"]
    log = tmp_path / "worker.log"
    with log.open("wb") as file:
        worker = subprocess.Popen(command, cwd=tmp_path, env=env, stdout=file, stderr=file)
    try:
        wait_for("results", lambda: worker.poll() is not None or has_results(secure, program["results"]))
    finally:
        worker.terminate()
        assert worker.wait(20) == 0, log.read_text()[-4_000:]
    assert has_results(secure, program["results"])
    assert USERS["least"] not in log.read_text()
    for rule in rules:
        if rule.operation == AclOperation.CREATE:
            continue  # what is there need not be made
        set_rules(secure, [rule], there=False)
        right = rule.operation.name.title()
        wait_for(f"{right} on {rule.name}", partial(is_missing, secure, program, right, rule.name), 20)
        set_rules(secure, [rule], there=True)
    wait_for("all rights", lambda: not asyncio.run(lacking(secure, program)), 20)
    set_rules(secure, rules, there=False)


def is_missing(secure: Secure, names: dict[str, str], right: str, name: str) -> bool:
    return any(lack.startswith(right) and name in lack for lack in asyncio.run(lacking(secure, names)))


async def lacking(secure: Secure, names: dict[str, str]) -> list[str]:
    """As `streamflow doctor` asks."""
    settings = KafkaSettings((secure.tls,), names["app"], **login(secure, "least", tls=True))
    client = KafkaTransport(settings, SystemClock())
    await client.start()
    try:
        own = {f"{names['app']}-progress", f"{names['app']}-counts-changelog"}
        outputs = {names["results"], f"{names['source']}-dead-letters"}
        reads, writes = own | {names["source"]}, own | outputs
        return await client.missing_rights(reads=reads, writes=writes, makes=writes)
    finally:
        await client.stop()


def test_doctor_names_topics_that_may_not_be_made(
    secure: Secure, program: dict[str, str], tmp_path: pathlib.Path
) -> None:
    create_topics(secure.open, {program["source"]: 2})
    rules = [rule for rule in least_rules(program) if rule.operation != AclOperation.CREATE]
    set_rules(secure, rules, there=True)
    said = " ".join(doctor(tmp_path, environment(secure, tmp_path))["broker rights"])
    for name in (f"{program['app']}-progress", f"{program['app']}-counts-changelog", program["results"]):
        assert f"Create on topic {name}" in said
    set_rules(secure, rules, there=False)


@pytest.mark.parametrize("tls", [True, False])
async def test_a_bearer_token_of_a_file_is_shown(
    outside: KafkaClients, secure: Secure, tmp_path: pathlib.Path, tls: bool
) -> None:
    topic = await make_topic(await outside.maker(), "t-events", 1)
    now_s = SystemClock().now_ms() // 1_000
    token = jwt.encode({"sub": "worker", "iat": now_s, "exp": now_s + 600}, "", algorithm="none")
    place = tmp_path / "token"
    place.write_text(token)
    settings = Settings(
        id=unique("g-app"),
        kafka_oauth_token_file=str(place),
        kafka_tls_ca_file=str(secure.authority) if tls else "",
        kafka_allow_sasl_without_tls=0 if tls else 1,
    )
    client = connect(f"kafka://{secure.tls if tls else secure.sasl}", settings, SystemClock())
    await client.start()
    try:
        assert await client.partition_counts([topic]) == {topic: 1}
    finally:
        await client.stop()
