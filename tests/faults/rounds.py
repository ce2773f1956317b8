"""What is done to the workers and to their broker while events flow, by name."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from tests.faults.points import COMMIT_POINTS
from tests.faults.proxy import Proxy
from tests.faults.stage import LIMIT_S, Stage
from tests.integration.workers import wait_for
from tests.support.kafka_server import KafkaServer

EVENTS = 3_000  # in a round


@dataclass
class Scene:
    """Everything that a fault may lay hands on."""

    stage: Stage
    server: KafkaServer
    proxy: Proxy
    random: random.Random
    block_s: float = 9.0  # longer than the poll interval and then the session timeout


def kill(scene: Scene) -> None:
    """SIGKILL at any moment; started again at once, or when the others have its partitions."""
    victim = scene.random.choice(scene.stage.workers)
    victim.kill()
    if scene.random.random() < 0.5:
        scene.stage.wait_members(len(scene.stage.workers) - 1)


def kill_all(scene: Scene) -> None:
    for worker in scene.stage.workers:
        worker.kill()


def die_at(point: str, scene: Scene) -> None:
    """SIGKILL at a named point of a commit."""
    scene.stage.arm(point)
    scene.stage.wait_death()


def die_in_restore(scene: Scene) -> None:
    """One is killed; who restores its tables dies over it."""
    scene.stage.arm("restore")
    scene.random.choice(scene.stage.workers).kill()
    wait_for("the restore is met", lambda: not scene.stage.armed("restore"), LIMIT_S)


def die_in_revoke(scene: Scene) -> None:
    """One leaves in order; it, or one that gives its partitions back meanwhile, dies over it."""
    scene.stage.arm("revoke")
    scene.random.choice(scene.stage.workers).tell(signal.SIGTERM)
    scene.stage.wait_death()
    wait_for("the revoke is met", lambda: not scene.stage.armed("revoke"), LIMIT_S)


def leave(scene: Scene) -> None:
    """A clean stop, and a start."""
    assert scene.random.choice(scene.stage.workers).stop() == 0


def freeze(scene: Scene) -> None:
    """SIGSTOP past the session timeout, and back."""
    victim = scene.random.choice(scene.stage.workers)
    victim.tell(signal.SIGSTOP)
    scene.stage.wait_members(len(scene.stage.workers) - 1)
    victim.tell(signal.SIGCONT)


def block(scene: Scene) -> None:
    """An agent that blocks its event loop, for longer than a thread of its own keeps it in the group."""
    scene.stage.arm("block", str(scene.block_s))
    wait_for("an agent blocks", lambda: not scene.stage.armed("block"), LIMIT_S)
    scene.stage.wait_members(len(scene.stage.workers) - 1)


def kill_broker(scene: Scene) -> None:
    scene.server.kill()
    scene.server.restart()


def cut_connections(scene: Scene) -> None:
    """In the middle of a frame, all connections of the worker behind the proxy."""
    before = scene.proxy.cuts
    scene.proxy.cut()
    wait_for("a connection is cut", lambda: scene.proxy.cuts > before, LIMIT_S)


FAULTS: Mapping[str, Callable[[Scene], None]] = {
    "kill": kill,
    "kill all": kill_all,
    **{f"die {point}": partial(die_at, point) for point in COMMIT_POINTS},
    "die in restore": die_in_restore,
    "die in revoke": die_in_revoke,
    "leave": leave,
    "freeze": freeze,
    "block": block,
    "kill broker": kill_broker,
    "cut connections": cut_connections,
}


def play(scene: Scene, name: str) -> None:
    """One round: events flow, the fault comes somewhere among them, everything is exact afterwards."""
    began_s = time.monotonic()
    stage = scene.stage
    feeder = stage.feed(EVENTS)
    some = scene.random.randint(1, EVENTS // 2)
    wait_for("events flow", lambda: len(feeder.acknowledged()) >= some, LIMIT_S)
    FAULTS[name](scene)
    stage.settle()
    stage.feeder_done()
    stage.check()
    print(f"{name}: exact after {time.monotonic() - began_s:.1f} s", flush=True)
