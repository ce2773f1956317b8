"""Gets ready what a contestant needs beyond this project's own environment, into the cache folder."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

QUIX_VERSION = "3.28.1"
KAFKA_STREAMS_VERSION = "4.3.1"
FETCH_S = 600.0
COMPILE_S = 120.0

HERE = pathlib.Path(__file__).parent
SOURCE = HERE / "programs" / "kafka_streams" / "WindowedCount.java"

POM = f"""<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>streamflow.tests</groupId><artifactId>bench</artifactId><version>1</version>
  <packaging>pom</packaging>
  <dependencies><dependency>
    <groupId>org.apache.kafka</groupId><artifactId>kafka-streams</artifactId>
    <version>{KAFKA_STREAMS_VERSION}</version>
  </dependency></dependencies>
</project>
"""


class Unavailable(Exception):
    """This contestant cannot run here; ``str()`` is the reason."""


def cache_dir() -> pathlib.Path:
    root = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
    path = root / "streamflow-tests"
    path.mkdir(parents=True, exist_ok=True)
    return path


@functools.cache
def quix_python() -> str:
    """A Python with Quix Streams: this one where it is installed, else one in an environment of its own.

    Of its own, because it wants older clients than the other tests do.
    """
    if importlib.util.find_spec("quixstreams") is not None:
        return sys.executable
    home = cache_dir() / f"bench-quixstreams-{QUIX_VERSION}-py{sys.version_info[0]}.{sys.version_info[1]}"
    python = home / "bin" / "python"
    ready = home / "ready"
    if not ready.exists():
        shutil.rmtree(home, ignore_errors=True)
        run([sys.executable, "-m", "venv", str(home)], "making an environment for Quix Streams")
        install = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        run([*install, f"quixstreams=={QUIX_VERSION}"], "installing Quix Streams")
        ready.touch()
    return str(python)


@functools.cache
def kafka_streams_class_path() -> str:
    """Compiled program and jars of Kafka Streams."""
    javac = shutil.which("javac")
    if javac is None or shutil.which("java") is None:
        raise Unavailable("no JDK found (java and javac)")
    jars = kafka_streams_jars()
    source = hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]
    classes = cache_dir() / f"bench-kafka-streams-{KAFKA_STREAMS_VERSION}-{source}"
    if not (classes / "ready").exists():
        shutil.rmtree(classes, ignore_errors=True)
        compile_ = [javac, "-cp", f"{jars}/*", "-d", str(classes), str(SOURCE)]
        run(compile_, "compiling the program for Kafka Streams", COMPILE_S)
        (classes / "ready").touch()
    return f"{classes}{os.pathsep}{jars}/*"


def kafka_streams_jars() -> pathlib.Path:
    jars = cache_dir() / f"kafka-streams-{KAFKA_STREAMS_VERSION}"
    if jars.is_dir():
        return jars
    maven = shutil.which("mvn")
    if maven is None:
        raise Unavailable("no Maven to fetch the jars of Kafka Streams with")
    # Fetched beside its place and renamed, so that a folder with that name is always whole.
    with tempfile.TemporaryDirectory(prefix="fetching-", dir=jars.parent) as name:
        fetched = pathlib.Path(name)
        (fetched / "pom.xml").write_text(POM)
        copy = [maven, "-q", "-B", "-f", str(fetched / "pom.xml"), "dependency:copy-dependencies"]
        copy += ["-DincludeScope=runtime", f"-DoutputDirectory={fetched / 'jars'}"]
        run(copy, "fetching the jars of Kafka Streams")
        (fetched / "jars").rename(jars)
    return jars


def run(command: list[str], what: str, time_limit_s: float = FETCH_S) -> None:
    """Raises Unavailable where the command fails."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=time_limit_s,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise Unavailable(f"{what} failed: {exc}") from exc
    if done.returncode != 0:
        raise Unavailable(f"{what} failed: {(done.stdout + done.stderr).strip()[-500:]}")
