"""Three real Apache Kafka nodes for the tests: one quorum, three copies of everything, two of them in sync.

Each node is broker and controller, from the jars of `kafka_server`, and is started, stopped, killed and
frozen by its number, 1 to 3. Time limits that decide about a fail-over are Kafka's own defaults.

``python -m tests.support.kafka_cluster`` starts them, prints ``host:port,host:port,host:port`` and takes
lines such as ``kill 2``, ``launch 2``, ``freeze 1``, ``thaw 1``, ``stop 3`` until its standard input closes.
"""

from __future__ import annotations

import atexit
import contextlib
import shutil
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterable

from tests.support.kafka_server import JavaBackend, NoBroker, broker_is_ready, receive, resolve_jars
from tests.support.server import Server, free_ports

NODES = (1, 2, 3)
HEAP_MB = 384
START_S = 120.0
COPIES = {
    "default.replication.factor": "3",
    "min.insync.replicas": "2",
    "offsets.topic.replication.factor": "3",
    "transaction.state.log.replication.factor": "3",
    "transaction.state.log.min.isr": "2",
    "share.coordinator.state.topic.replication.factor": "3",
    "share.coordinator.state.topic.min.isr": "2",
}
# Kafka's own; one broker alone has shorter ones.
FAILOVER = {
    "controlled.shutdown.enable": "true",
    "broker.session.timeout.ms": "9000",
    "broker.heartbeat.interval.ms": "2000",
    # Where much else runs, a quorum of which two were killed may take longer to know all brokers again.
    "initial.broker.registration.timeout.ms": "110000",
}
FAILOVER_S = 9.0  # from a broker's last sign until others lead its partitions


class KafkaCluster(Server):
    """Three nodes on 127.0.0.1. Raises NoBroker where there is no java, or no jars can be had."""

    def __init__(self) -> None:
        self._nodes: dict[int, JavaBackend] = {}

    @property
    def bootstrap(self) -> str:
        """``host:port,host:port,host:port``; stays the same over restarts."""
        return ",".join(f"127.0.0.1:{self._nodes[node].port}" for node in NODES)

    def start(self) -> None:
        java = shutil.which("java")
        if java is None:
            raise NoBroker("three brokers are started from their jars, and there is no java")
        jars = resolve_jars(shutil.which("mvn"))
        ports = free_ports(2 * len(NODES))
        pairs = {node: (ports[2 * at], ports[2 * at + 1]) for at, node in enumerate(NODES)}
        voters = ",".join(f"{node}@127.0.0.1:{controller}" for node, (_, controller) in pairs.items())
        atexit.register(self.stop)
        try:
            for node in NODES:
                own = {"node.id": str(node), "controller.quorum.voters": voters}
                properties = COPIES | FAILOVER | own
                self._nodes[node] = JavaBackend(java, jars, properties, HEAP_MB, pairs[node])
            for node in NODES:
                self._nodes[node].launch()
            self.wait(NODES)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Ends all of them and removes their data; idempotent."""
        nodes, self._nodes = self._nodes, {}
        atexit.unregister(self.stop)
        for backend in nodes.values():
            backend.kill()
        for backend in nodes.values():
            backend.discard()

    def launch(self, *nodes: int) -> None:
        """Starts nodes that do not run, with their data; returns when they answer."""
        for node in nodes:
            self.launch_only(node)
        self.wait(nodes)

    def launch_only(self, node: int) -> None:
        """Begins to start one; alone it would not answer where the quorum needs another."""
        if self._nodes[node].died() is not None:
            self._nodes[node].launch()

    def wait(self, nodes: Iterable[int]) -> None:
        """Until each of them names brokers in its metadata."""
        deadline_s = time.monotonic() + START_S
        for node in nodes:
            backend = self._nodes[node]
            while not broker_is_ready("127.0.0.1", backend.port):
                if (reason := backend.died()) is not None:
                    raise NoBroker(f"node {node} ended at its start: {reason}")
                if time.monotonic() > deadline_s:
                    raise NoBroker(f"node {node} did not answer within {START_S:.0f} s")
                time.sleep(0.1)

    def wait_given_up(self, node: int) -> None:
        """Until the others name it no longer: they have elected who leads its partitions."""
        port = next(backend.port for other, backend in self._nodes.items() if other != node)
        deadline_s = time.monotonic() + START_S
        while True:
            with contextlib.suppress(TimeoutError):  # whoever is asked may be busy with just that
                if node not in brokers_named_by("127.0.0.1", port):
                    return
            if time.monotonic() > deadline_s:
                raise NoBroker(f"node {node} was not given up within {START_S:.0f} s")
            time.sleep(0.1)

    def end(self, node: int) -> None:
        """SIGTERM: it hands its partitions over and goes."""
        self._nodes[node].stop()

    def kill(self, node: int) -> None:
        self._nodes[node].kill()

    def freeze(self, node: int) -> None:
        """SIGSTOP: connections stay open, and nothing answers."""
        self._nodes[node].pause()

    def thaw(self, node: int) -> None:
        self._nodes[node].unpause()


def brokers_named_by(host: str, port: int) -> set[int]:
    """The brokers of the cluster, as one of them sees it. Raises OSError."""
    client = b"streamflow-tests"
    # Metadata v1 for no topic, as in `broker_is_ready`.
    request = struct.pack(f">hhih{len(client)}si", 3, 1, 7, len(client), client, 0)
    with socket.create_connection((host, port), timeout=5.0) as connection:
        connection.sendall(struct.pack(">i", len(request)) + request)
        (size,) = struct.unpack(">i", receive(connection, 4))
        answer = receive(connection, size)
    (count,) = struct.unpack_from(">i", answer, 4)
    at, found = 8, set()
    for _ in range(count):
        node, length = struct.unpack_from(">ih", answer, at)
        at += 6 + length + 4
        (rack,) = struct.unpack_from(">h", answer, at)
        at += 2 + max(0, rack)
        found.add(node)
    return found


def main() -> int:
    with KafkaCluster() as cluster:
        print(cluster.bootstrap, flush=True)
        acts: dict[str, Callable[[int], None]] = {
            "kill": cluster.kill,
            "stop": cluster.end,
            "launch": cluster.launch,
            "freeze": cluster.freeze,
            "thaw": cluster.thaw,
        }
        for line in sys.stdin:
            act, node = line.split()
            acts[act](int(node))
            print(line.strip(), "done", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
