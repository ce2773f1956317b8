"""A source topic that is deleted and made again on a real broker, under a worker and while it is away."""

from __future__ import annotations

import json
import pathlib
import secrets
from collections.abc import Iterator

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic

from tests.integration.workers import WorkerProcess, create_topics, read_all, wait_for

APP = """
import streamflow
from streamflow import Event

app = streamflow.App("{id}", broker="kafka://{kafka}")
events = app.topic("{topic}", value_type=Event)
counts = app.Table("counts", default=int)
out = app.topic("{topic}-out", key_type=str, value_type=str)
totals = app.aggregate("totals", events, by=streamflow.Key(), values=streamflow.Count())


@app.agent(events)
async def count(stream):
    async for key, event in stream.items():
        counts[key] += 1
        if event.type == "send":
            await out.send(key=event.id, value="x")
"""


class Recreated:
    """One worker over a topic of one partition that can be made anew."""

    def __init__(self, kafka: str, folder: pathlib.Path, policy: str) -> None:
        self.id = f"anew-{secrets.token_hex(4)}"
        self.topic = f"{self.id}-in"
        self._admin = AdminClient({"bootstrap.servers": kafka})
        self._producer = Producer({"bootstrap.servers": kafka})
        self.kafka = kafka
        module = folder / "anew.py"
        module.write_text(APP.format(id=self.id, kafka=kafka, topic=self.topic))
        self.worker = WorkerProcess(
            module, folder / "worker.log", on_recreated_topic=policy, session_timeout_ms="6000"
        )
        create_topics(kafka, {self.topic: 1})

    def recreate(self, name: str = "", partitions: int = 1) -> None:
        self.delete(name or self.topic)
        self.create(name or self.topic, partitions)

    def delete(self, name: str) -> None:
        self._admin.delete_topics([name])[name].result(20)
        # The name is free when the broker has forgotten it.
        wait_for("the topic is gone", lambda: name not in self._admin.list_topics(timeout=10).topics)

    def create(self, name: str, partitions: int = 1) -> None:
        def made() -> bool:
            try:
                self._admin.create_topics([NewTopic(name, partitions, 1)])[name].result(20)
            except Exception:  # noqa: BLE001  # it is still being deleted
                return False
            return True

        wait_for("the topic is there again", made)

    def grow(self, partitions: int) -> None:
        self._admin.create_partitions([NewPartitions(self.topic, partitions)])[self.topic].result(20)
        self._producer = Producer({"bootstrap.servers": self.kafka})  # the old one does not know of them

    def send(self, number: int, kind: str = "a", partition: int = 0) -> None:
        for n in range(number):
            event = {"id": str(n), "type": kind, "timestamp": "2026-01-01T00:00:00Z", "data": {}}
            self._producer.produce(self.topic, json.dumps(event), b"k", partition)
        assert self._producer.flush(20) == 0

    def counted(self) -> set[int]:
        """What the two tables say."""
        found = set()
        for table in ("counts", "totals"):
            rows = self.worker.get(f"/v1/tables/{table}/rows")["rows"]
            found.add(rows[0]["value"] if rows else 0)
        return found

    def wait_counted(self, number: int) -> None:
        try:
            wait_for(f"{number} are counted", lambda: self.counted() == {number}, 40)
        except AssertionError as exc:
            raise AssertionError(f"{self.counted()}\n{self.worker.log()[-4000:]}") from exc


@pytest.fixture
def anew(kafka: str, tmp_path: pathlib.Path, request: pytest.FixtureRequest) -> Iterator[Recreated]:
    world = Recreated(kafka, tmp_path, request.param)
    yield world
    world.worker.end()


@pytest.mark.parametrize("anew", ["restart"], indirect=True)
@pytest.mark.parametrize("records", [60, 300], ids=["shorter", "longer"])
def test_what_comes_in_the_new_log_counts_whole_beside_what_was_counted(
    anew: Recreated, records: int
) -> None:
    anew.worker.start()
    anew.worker.wait_ready()
    anew.send(100)
    anew.wait_counted(100)
    anew.recreate()
    anew.send(records)
    anew.wait_counted(100 + records)
    anew.send(60)
    anew.wait_counted(160 + records)

    # And once more, while nobody runs.
    anew.worker.stop()
    anew.recreate()
    anew.send(records)
    anew.worker.start()
    anew.worker.wait_ready()
    anew.wait_counted(160 + 2 * records)
    assert "was deleted and made again" in anew.worker.log()


@pytest.mark.parametrize("anew", ["stop"], indirect=True)
def test_by_default_the_worker_ends_with_a_sentence(anew: Recreated) -> None:
    anew.worker.start()
    anew.worker.wait_ready()
    anew.send(100)
    anew.wait_counted(100)
    anew.recreate()
    anew.send(200)
    assert anew.worker.wait(40) != 0
    assert "was deleted and made again" in anew.worker.log()
    assert "on_recreated_topic" in anew.worker.log()


@pytest.mark.parametrize("anew", ["stop"], indirect=True)
def test_a_topic_that_grows_is_told_of_once_and_its_old_partitions_go_on(anew: Recreated) -> None:
    anew.worker.start()
    anew.worker.wait_ready()
    anew.send(100)
    anew.wait_counted(100)
    anew.grow(3)
    anew.send(10)
    sentence = f"'{anew.topic}' has 3 partitions now"
    wait_for("the growth is told", lambda: sentence in anew.worker.log(), 30)
    anew.send(10)
    anew.send(10, partition=2)
    anew.wait_counted(120)
    assert anew.worker.log().count(sentence) == 1
    assert anew.worker.running()


@pytest.mark.parametrize("anew", ["stop"], indirect=True)
def test_what_was_sent_to_an_output_that_has_fewer_partitions_by_now_goes_to_those(anew: Recreated) -> None:
    out = f"{anew.topic}-out"
    anew.worker.start()
    anew.worker.wait_ready()
    anew.send(50, "send")
    anew.wait_counted(50)
    anew.recreate(out, 2)
    anew.send(40, "send")
    anew.wait_counted(90)
    assert f"'{out}' has 2 partitions and had 8" in anew.worker.log()
    assert len(read_all(anew.kafka, out)) == 40


@pytest.mark.parametrize("anew", ["restart"], indirect=True)
def test_a_topic_that_is_away_for_longer_is_found_again(anew: Recreated) -> None:
    anew.worker.start()
    anew.worker.wait_ready()
    anew.send(100)
    anew.wait_counted(100)
    anew.delete(anew.topic)
    wait_for("the worker has noticed", lambda: "is not there any more" in anew.worker.log(), 30)
    anew.create(anew.topic)
    anew.send(30)
    anew.wait_counted(130)


@pytest.mark.parametrize("anew", ["stop"], indirect=True)
@pytest.mark.parametrize("log", ["totals-changelog", "counts-changelog"])
def test_a_changelog_that_was_lost_is_an_error_and_no_short_table(anew: Recreated, log: str) -> None:
    anew.worker.start()
    anew.worker.wait_ready()
    anew.send(100)
    anew.wait_counted(100)
    anew.worker.stop()
    anew.delete(f"{anew.id}-{log}")
    anew.worker.start()
    assert anew.worker.wait(40) != 0
    assert f"'{anew.id}-{log}' holds state of this app, and its partition 0 is empty" in anew.worker.log()
    assert "streamflow reset" in anew.worker.log()


@pytest.mark.parametrize("anew", ["stop"], indirect=True)
@pytest.mark.parametrize("made_again", [False, True], ids=["gone", "made again"])
def test_a_changelog_that_is_lost_under_a_running_worker_ends_it_with_a_sentence(
    anew: Recreated, made_again: bool
) -> None:
    anew.worker.start()
    anew.worker.wait_ready()
    anew.send(100)
    anew.wait_counted(100)
    changelog = f"{anew.id}-totals-changelog"
    anew.delete(changelog)
    if made_again:
        anew.create(changelog)
    assert anew.worker.wait(90) != 0
    assert changelog in anew.worker.log()
    assert "on_lost_state" in anew.worker.log()
