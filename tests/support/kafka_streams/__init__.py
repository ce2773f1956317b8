"""Kafka Streams itself, as the judge of what windows hold: its own processors, without a broker."""

from __future__ import annotations

import contextlib
import hashlib
import json
import pathlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

from tests.bench.setups import COMPILE_S, KAFKA_STREAMS_VERSION, Unavailable, cache_dir, run

SOURCE = pathlib.Path(__file__).parent / "FinalRows.java"
CLOSE_S = 10.0
POM = f"""<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>streamflow.tests</groupId><artifactId>windows</artifactId><version>1</version>
  <packaging>pom</packaging>
  <dependencies><dependency>
    <groupId>org.apache.kafka</groupId><artifactId>kafka-streams-test-utils</artifactId>
    <version>{KAFKA_STREAMS_VERSION}</version>
  </dependency></dependencies>
</project>
"""

Row = tuple[int, int, str]
"""(start, end, key)"""


class KafkaStreams:
    """A Java process that answers what Kafka Streams makes of one partition, case by case."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def counts(
        self, kind: str, events: Sequence[tuple[int, str]], *, size_ms: int, grace_ms: int, step_ms: int = 0
    ) -> dict[Row, int]:
        """The final rows of a count by key of (time, key), the keys a, b and c.

        ``size_ms`` is the gap of a session.
        """
        task: dict[str, Any] = {"kind": kind, "size_ms": size_ms, "grace_ms": grace_ms, "step_ms": step_ms}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({**task, "events": events}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the Java program has ended")
        return {(start, end, key): count for start, end, key, count in json.loads(line)}


def _jars() -> pathlib.Path:
    jars = cache_dir() / f"kafka-streams-test-utils-{KAFKA_STREAMS_VERSION}"
    if jars.is_dir():
        return jars
    maven = shutil.which("mvn")
    if maven is None:
        raise Unavailable("no Maven to fetch the jars of Kafka Streams with")
    with tempfile.TemporaryDirectory(prefix="fetching-", dir=jars.parent) as name:
        fetched = pathlib.Path(name)
        (fetched / "pom.xml").write_text(POM)
        copy = [maven, "-q", "-B", "-f", str(fetched / "pom.xml"), "dependency:copy-dependencies"]
        run([*copy, "-DincludeScope=runtime", f"-DoutputDirectory={fetched / 'jars'}"], "fetching the jars")
        (fetched / "jars").rename(jars)
    return jars


@contextlib.contextmanager
def kafka_streams() -> Iterator[KafkaStreams]:
    """Raises Unavailable where there is no JDK or no way to its jars."""
    javac, java = shutil.which("javac"), shutil.which("java")
    if javac is None or java is None:
        raise Unavailable("no JDK found (java and javac)")
    jars = _jars()
    classes = cache_dir() / f"final-rows-{hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]}"
    if not (classes / "ready").exists():
        shutil.rmtree(classes, ignore_errors=True)
        compile_ = [javac, "-cp", f"{jars}/*", "-d", str(classes), str(SOURCE)]
        run(compile_, "compiling the program for Kafka Streams", COMPILE_S)
        (classes / "ready").touch()
    process = subprocess.Popen(
        [java, "-Xmx256m", "-cp", f"{classes}:{jars}/*", "FinalRows"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        yield KafkaStreams(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(CLOSE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        assert process.stdout is not None
        process.stdout.close()
