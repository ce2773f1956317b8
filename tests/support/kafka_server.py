"""One real Apache Kafka broker for the tests: started, broken and stopped at will.

Where it comes from, in this order:

1. `STREAMFLOW_TEST_KAFKA=host:port`: a broker that runs already (`external_bootstrap`); not ours to stop.
2. A Docker engine that answers: the image `apache/kafka`, through testcontainers.
3. Java 17 or newer and Maven: the broker's own jars, kept in a cache folder.

``python -m tests.support.kafka_server`` starts one, prints ``host:port`` and keeps it until its
standard input closes or it is told to end.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import pathlib
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from tests.support.server import Server, end, free_ports, launch

VERSION = "4.3.1"
SCALA = "2.13"
IMAGE = f"apache/kafka:{VERSION}"
CLUSTER_ID = "c3RyZWFtZmxvd3Rlc3RzMA"
EXTERNAL_VARIABLE = "STREAMFLOW_TEST_KAFKA"

START_S = 120.0
STOP_S = 15.0
RESOLVE_S = 600.0


class NoBroker(Exception):
    """No broker can be had here; ``str()`` is the reason."""


def external_bootstrap() -> str | None:
    """``host:port`` of the broker that the environment names, or ``None``."""
    return os.environ.get(EXTERNAL_VARIABLE) or None


def broker_properties(port: int, controller_port: int, log_dir: str, *, bind: str) -> dict[str, str]:
    """Settings of a single node that is broker and controller, fast to form groups and to give up."""
    return {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.voters": f"1@127.0.0.1:{controller_port}",
        "listeners": f"PLAINTEXT://{bind}:{port},CONTROLLER://127.0.0.1:{controller_port}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "PLAINTEXT",
        "log.dirs": log_dir,
        "group.initial.rebalance.delay.ms": "0",
        "group.min.session.timeout.ms": "1000",
        # Events of the tests are stamped in the past; time-based retention would delete them.
        "log.retention.ms": "-1",
        "log.segment.delete.delay.ms": "1000",
        "offsets.topic.replication.factor": "1",
        "offsets.topic.num.partitions": "3",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "transaction.state.log.num.partitions": "3",
        "share.coordinator.state.topic.replication.factor": "1",
        "share.coordinator.state.topic.min.isr": "1",
        # A transaction whose producer died is aborted soon after its timeout.
        "transaction.abort.timed.out.transaction.cleanup.interval.ms": "500",
        "num.partitions": "1",
        "auto.create.topics.enable": "false",
        "log.cleaner.backoff.ms": "500",
        "log.cleaner.threads": "1",
        "controlled.shutdown.enable": "false",
        "broker.session.timeout.ms": "4000",
        "broker.heartbeat.interval.ms": "500",
        "initial.broker.registration.timeout.ms": "30000",
    }


def filled_in(
    overrides: Mapping[str, str], port: int, controller_port: int, bind: str, folder: str
) -> dict[str, str]:
    """Broker properties whose values may name what is known only now."""
    known = {"port": port, "controller_port": controller_port, "bind": bind, "dir": folder}
    found = {}
    for name, text in overrides.items():
        for word, value in known.items():
            text = text.replace(f"{{{word}}}", str(value))
        found[name] = text
    return found


class Backend(Protocol):
    """A broker that keeps its data and its port from one `launch` to the next."""

    port: int

    def launch(self) -> None: ...

    def died(self) -> str | None:
        """Why it is not running, or ``None`` while it is."""
        ...

    def stop(self) -> None: ...

    def kill(self) -> None: ...

    def pause(self) -> None: ...

    def unpause(self) -> None: ...

    def discard(self) -> None:
        """Removes what it kept."""
        ...


class KafkaServer(Server):
    """A broker on 127.0.0.1. A context manager; ``stop`` is also called at the end of the process.

    ``overrides`` are broker properties; ``{port}``, ``{controller_port}``, ``{bind}`` and ``{dir}`` in them
    are filled in. ``ports`` are those of further listeners. Raises NoBroker where none can be had.
    """

    def __init__(
        self, overrides: Mapping[str, str] | None = None, heap_mb: int = 512, ports: Sequence[int] = ()
    ) -> None:
        self._overrides = dict(overrides or {})
        self._ports = tuple(ports)
        self._heap_mb = heap_mb
        self._backend: Backend | None = None

    @property
    def bootstrap(self) -> str:
        """``host:port``; stays the same over `restart`."""
        return f"127.0.0.1:{self._running().port}"

    def start(self) -> None:
        """Starts an empty broker; returns when it answers. Raises NoBroker."""
        if self._backend is not None:
            raise RuntimeError("started already")
        self._backend = self._choose()
        atexit.register(self.stop)
        try:
            self._launch()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Ends the broker and removes its data; idempotent."""
        backend, self._backend = self._backend, None
        atexit.unregister(self.stop)
        if backend is not None:
            backend.stop()
            backend.discard()

    def kill(self) -> None:
        """SIGKILL: no clean shutdown. `restart` brings it back with what was on disk."""
        self._running().kill()

    def died(self) -> str | None:
        """Why it does not run, or ``None`` while it does."""
        return self._running().died()

    def restart(self) -> None:
        """Ends the broker if it runs, and starts it again with the same data and port."""
        backend = self._running()
        if backend.died() is None:
            backend.stop()
        self._launch()

    def pause(self) -> None:
        """Freezes the broker: connections stay open and nothing answers."""
        self._running().pause()

    def unpause(self) -> None:
        self._running().unpause()

    def _running(self) -> Backend:
        if self._backend is None:
            raise RuntimeError("not started")
        return self._backend

    def _choose(self) -> Backend:
        if docker_answers():
            return DockerBackend(self._overrides, self._heap_mb, self._ports)
        java, maven = shutil.which("java"), shutil.which("mvn")
        if java is None:
            raise NoBroker("no Docker engine answers and there is no java")
        return JavaBackend(java, resolve_jars(maven), self._overrides, self._heap_mb)

    def _launch(self) -> None:
        backend = self._running()
        backend.launch()
        deadline_s = time.monotonic() + START_S
        while not broker_is_ready("127.0.0.1", backend.port):
            if (reason := backend.died()) is not None:
                raise NoBroker(f"the broker ended at its start: {reason}")
            if time.monotonic() > deadline_s:
                raise NoBroker(f"the broker did not answer within {START_S:.0f} s")
            time.sleep(0.05)


class JavaBackend:
    """The broker as a child process, from jars. ``ports``: its own and its controller's."""

    def __init__(
        self,
        java: str,
        jars: pathlib.Path,
        overrides: Mapping[str, str],
        heap_mb: int,
        ports: tuple[int, int] | None = None,
    ) -> None:
        self._java = java
        self._jars = jars
        self._heap_mb = heap_mb
        self._process: subprocess.Popen[bytes] | None = None
        self._dir = pathlib.Path(tempfile.mkdtemp(prefix="streamflow-kafka-"))
        self.port, controller_port = ports or free_ports(2)
        properties = broker_properties(self.port, controller_port, str(self._dir / "data"), bind="127.0.0.1")
        properties |= filled_in(overrides, self.port, controller_port, "127.0.0.1", str(self._dir))
        self._properties = self._dir / "server.properties"
        self._properties.write_text("".join(f"{name}={value}\n" for name, value in properties.items()))
        self._format()

    def launch(self) -> None:
        command = self._command("kafka.Kafka", str(self._properties))
        self._process = launch(command, self._dir / "broker.log", cwd=self._dir)

    def died(self) -> str | None:
        if self._process is not None and self._process.poll() is None:
            return None
        log = (self._dir / "broker.log").read_text(errors="replace")
        code = None if self._process is None else self._process.returncode
        return f"exit code {code}; {log[-2_000:].strip() or 'no output'}"

    def stop(self) -> None:
        if self._process is not None:
            end(self._process, signal.SIGTERM, STOP_S)

    def kill(self) -> None:
        if self._process is not None:
            end(self._process, signal.SIGKILL, STOP_S)

    def pause(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def unpause(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def discard(self) -> None:
        shutil.rmtree(self._dir, ignore_errors=True)

    def _command(self, main: str, *arguments: str) -> list[str]:
        memory = [f"-Xmx{self._heap_mb}m", "-XX:+UseSerialGC", "-Xshare:auto"]
        return [self._java, *memory, "-cp", f"{self._jars}/*", main, *arguments]

    def _format(self) -> None:
        format_arguments = ("format", "--cluster-id", CLUSTER_ID, "--config", str(self._properties))
        done = subprocess.run(
            self._command("kafka.tools.StorageTool", *format_arguments),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=START_S,
            check=False,
        )
        if done.returncode != 0:
            self.discard()
            raise NoBroker(f"formatting the storage failed: {(done.stdout + done.stderr)[-1_000:].strip()}")


class DockerBackend:
    """The broker as a container, through testcontainers."""

    def __init__(self, overrides: Mapping[str, str], heap_mb: int, ports: Sequence[int]) -> None:
        from testcontainers.core.container import DockerContainer

        self.port, controller_port = free_ports(2)
        properties = broker_properties(self.port, controller_port, "/tmp/kafka-data", bind="0.0.0.0")
        properties |= filled_in(overrides, self.port, controller_port, "0.0.0.0", "/tmp")
        container = DockerContainer(IMAGE).with_bind_ports(self.port, self.port)
        for port in ports:
            container = container.with_bind_ports(port, port)
        for name, value in properties.items():
            container = container.with_env("KAFKA_" + name.upper().replace(".", "_"), value)
        container = container.with_env("CLUSTER_ID", CLUSTER_ID)
        self._container: Any = container.with_env("KAFKA_HEAP_OPTS", f"-Xmx{heap_mb}m")
        self._created = False

    def launch(self) -> None:
        try:
            if self._created:
                self._wrapped().start()
            else:
                self._container.start()
                self._created = True
        except Exception as exc:
            raise NoBroker(f"the container did not start: {exc}") from exc

    def died(self) -> str | None:
        wrapped = self._wrapped()
        wrapped.reload()
        if wrapped.status in {"running", "created", "paused"}:
            return None
        return str(wrapped.logs(tail=20).decode(errors="replace"))

    def stop(self) -> None:
        if self._created:
            self._wrapped().stop(timeout=int(STOP_S))

    def kill(self) -> None:
        self._wrapped().kill()
        self._wrapped().wait()

    def pause(self) -> None:
        self._wrapped().pause()

    def unpause(self) -> None:
        self._wrapped().unpause()

    def discard(self) -> None:
        if self._created:
            self._container.stop()

    def _wrapped(self) -> Any:
        return self._container.get_wrapped_container()


def docker_answers() -> bool:
    """Whether a Docker engine answers within two seconds.

    Asked by hand: the client library leaves its socket open where there is none, and warnings are errors.
    """
    place = os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"
    kind, _, rest = place.partition("://")
    try:
        with socket.socket(socket.AF_UNIX if kind == "unix" else socket.AF_INET) as connection:
            connection.settimeout(2.0)
            if kind == "unix":
                connection.connect(rest)
            else:
                host, _, port = rest.rstrip("/").rpartition(":")
                connection.connect((host, int(port)))
            connection.sendall(b"GET /_ping HTTP/1.0\r\nHost: docker\r\n\r\n")
            return b" 200 " in receive(connection, 64).split(b"\r\n")[0]
    except (OSError, ValueError):
        return False


def resolve_jars(maven: str | None) -> pathlib.Path:
    """The folder with the broker's jars; fetched through Maven the first time. Raises NoBroker."""
    root = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
    jars = root / "streamflow-tests" / f"kafka-{VERSION}"
    if jars.is_dir():
        return jars
    if maven is None:
        raise NoBroker("no Docker engine answers and there is no Maven to fetch the broker's jars with")
    jars.parent.mkdir(parents=True, exist_ok=True)
    # Fetched beside its place and renamed, so that a folder with that name is always whole.
    fetched = pathlib.Path(tempfile.mkdtemp(prefix="fetching-", dir=jars.parent))
    try:
        (fetched / "pom.xml").write_text(POM)
        command = [maven, "-q", "-B", "dependency:copy-dependencies", "-DincludeScope=runtime"]
        done = subprocess.run(
            [*command, f"-DoutputDirectory={fetched / 'jars'}"],
            cwd=fetched,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=RESOLVE_S,
            check=False,
        )
        if done.returncode != 0:
            raise NoBroker(f"Maven could not fetch the broker's jars: {done.stdout[-1_000:].strip()}")
        with contextlib.suppress(OSError):  # Another process was faster: its folder is as good.
            (fetched / "jars").rename(jars)
    except subprocess.TimeoutExpired as exc:
        raise NoBroker(f"Maven did not fetch the broker's jars within {RESOLVE_S:.0f} s") from exc
    finally:
        shutil.rmtree(fetched, ignore_errors=True)
    return jars


POM = f"""<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>streamflow.tests</groupId><artifactId>broker</artifactId><version>1</version>
  <packaging>pom</packaging>
  <dependencies><dependency>
    <groupId>org.apache.kafka</groupId><artifactId>kafka_{SCALA}</artifactId><version>{VERSION}</version>
  </dependency></dependencies>
</project>
"""


def broker_is_ready(host: str, port: int) -> bool:
    """Whether the broker names itself in its metadata, and so can lead partitions.

    A port that accepts proves nothing: a node that is still registering accepts too.
    """
    client = b"streamflow-tests"
    # Metadata v1 for no topic: header (key 3, version 1, correlation 7, client), then an empty array.
    request = struct.pack(f">hhih{len(client)}si", 3, 1, 7, len(client), client, 0)
    try:
        with socket.create_connection((host, port), timeout=2.0) as connection:
            connection.sendall(struct.pack(">i", len(request)) + request)
            # size, correlation, number of brokers
            answer = receive(connection, 12)
            return len(answer) == 12 and bool(struct.unpack(">iii", answer)[2] > 0)
    except OSError:
        return False


def receive(connection: socket.socket, size: int) -> bytes:
    """Up to ``size`` bytes; fewer where the other side has closed."""
    data = b""
    while len(data) < size and (part := connection.recv(size - len(data))):
        data += part
    return data


def set_at_end_of_input(ended: threading.Event) -> None:
    # The file itself: the buffered stream's lock would be held at the end of the interpreter.
    while os.read(0, 4_096):
        pass
    ended.set()


def main(arguments: Sequence[str]) -> int:
    """``[name=value ...]``: broker properties. Prints ``host:port``."""
    overrides = dict(argument.split("=", 1) for argument in arguments)
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    try:
        with KafkaServer(overrides) as server:
            print(server.bootstrap, flush=True)
            threading.Thread(target=set_at_end_of_input, args=(ended,), daemon=True).start()
            ended.wait()
    except NoBroker as exc:
        print(f"no broker: {exc}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
