"""The queue of jobs: states change in one transaction, in order, and survive the end of the process."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ltx2_core.serve.store import MOST_ATTEMPTS, JobStore
from ltx2_core.serve.stored_job import ClientFull, QueueFull, Quota, State

ROOT = Path(__file__).resolve().parents[2]


def test_jobs_are_claimed_in_the_order_in_which_they_came(store):
    added = [store.add("job", {"number": number}) for number in range(3)]
    claimed = [store.claim() for _ in range(4)]
    assert [job and job.id for job in claimed] == [*(job.id for job in added), None]
    assert [job.spec["number"] for job in claimed[:3]] == [0, 1, 2]


def test_a_job_is_claimed_by_one_of_many_threads(store):
    for number in range(40):
        store.add("job", {"number": number})
    claimed: list[str] = []

    def work() -> None:
        while (job := store.claim()) is not None:
            claimed.append(job.id)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(claimed) == len(set(claimed)) == 40


@pytest.mark.parametrize("end", ["succeed", "fail", "canceled"])
def test_a_job_ends_once(store, end):
    arguments = {"succeed": ({"clips": []},), "fail": ("no memory",), "canceled": ()}[end]
    job = store.add("job", {})
    with pytest.raises(LookupError, match="is not running"):
        getattr(store, end)(job.id, *arguments)
    store.claim()
    getattr(store, end)(job.id, *arguments)
    ended = store.get(job.id)
    assert ended.state.ended
    assert ended.created <= ended.started <= ended.finished
    with pytest.raises(LookupError, match="is not running"):
        store.fail(job.id, "again")
    assert store.cancel(job.id) == ended
    assert store.claim() is None


def test_a_queued_job_is_canceled_at_once_and_a_running_one_is_told_to_stop(store):
    running, queued = store.add("job", {}), store.add("job", {})
    store.claim()
    assert store.cancel(queued.id).state is State.CANCELED
    told = store.cancel(running.id)
    assert (told.state, told.cancel) == (State.RUNNING, True)
    assert store.cancel("none") is None


def test_the_queue_takes_no_more_than_its_limit(store):
    store.add("job", {}, quota=Quota(queue=2))
    store.add("job", {}, quota=Quota(queue=2))
    with pytest.raises(QueueFull):
        store.add("job", {}, quota=Quota(queue=2))
    # A running job no longer waits.
    store.claim()
    store.add("job", {}, quota=Quota(queue=2))
    assert store.counts()[State.QUEUED] == 2


def test_a_client_has_no_more_unfinished_jobs_than_it_may_and_others_have_theirs(store):
    one, two = (Quota(client=client, own=2) for client in ("one", "two"))
    first = store.add("job", {}, quota=one)
    store.add("job", {}, quota=one)
    store.claim()
    # A job that runs counts like one that waits.
    with pytest.raises(ClientFull):
        store.add("job", {}, quota=one)
    store.add("job", {}, quota=two)
    store.succeed(first.id, {})
    store.add("job", {}, quota=one)


def test_a_restart_requeues_what_was_running_in_front_of_what_waits(store):
    first, second = store.add("job", {}), store.add("job", {})
    store.claim()
    assert [job.id for job in store.recover()] == [first.id]
    assert [store.claim().id, store.claim().id] == [first.id, second.id]


def test_a_restart_cancels_a_job_that_was_told_to_stop(store):
    job = store.add("job", {})
    store.claim()
    store.cancel(job.id)
    assert store.recover() == []
    assert store.get(job.id).state is State.CANCELED


def test_a_job_that_ends_the_process_each_time_fails(store):
    job, other = store.add("job", {}), store.add("job", {})
    for _ in range(MOST_ATTEMPTS):
        assert store.claim().id == job.id
        store.recover()
    assert "the server ended 3 times" in store.get(job.id).error
    assert store.claim().id == other.id


def test_a_released_job_has_its_place_and_its_attempts_back(store):
    first, _ = store.add("job", {}), store.add("job", {})
    store.claim()
    store.release(first.id)
    again = store.claim()
    assert (again.id, again.attempts) == (first.id, 1)


def test_a_released_job_that_was_told_to_stop_is_canceled(store):
    job = store.add("job", {})
    store.claim()
    store.cancel(job.id)
    store.release(job.id)
    assert store.get(job.id).state is State.CANCELED
    assert store.get(job.id).finished is not None
    assert store.claim() is None


def test_a_change_that_fails_leaves_the_store_usable(store, tmp_path):
    job = store.add("job", {})
    other = sqlite3.connect(tmp_path / "jobs.sqlite")
    pages = other.execute("PRAGMA page_count").fetchone()[0]
    other.close()
    # As on a full disk: no further page can be written.
    store._db.execute(f"PRAGMA max_page_count={pages}")
    with pytest.raises(sqlite3.Error):
        store.add("job", {"prompt": "a" * 10**6})
    store._db.execute("PRAGMA max_page_count=1000000")
    assert store.claim().id == job.id
    assert store.add("job", {}).state is State.QUEUED


def test_a_commit_that_fails_is_rolled_back(store):
    # SQLite checks such a key at the commit.
    store._db.execute("PRAGMA foreign_keys=ON")
    store._db.execute("CREATE TABLE parts (job REFERENCES jobs (number) DEFERRABLE INITIALLY DEFERRED)")
    with pytest.raises(sqlite3.IntegrityError), store._transaction():
        store._db.execute("INSERT INTO parts VALUES (99)")
    assert store._db.execute("SELECT COUNT(*) FROM parts").fetchone()[0] == 0
    assert store.add("job", {}).state is State.QUEUED


def test_only_a_job_that_has_ended_is_deleted(store):
    job = store.add("job", {})
    assert not store.delete(job.id)
    store.cancel(job.id)
    assert store.delete(job.id)
    assert store.get(job.id) is None


ADDING = """
import sys
from pathlib import Path
from ltx2_core.serve.store import JobStore
store = JobStore(Path(sys.argv[1]))
while True:
    job = store.add("job", {})
    print("added", job.id, flush=True)
    if job.number % 2:
        claimed = store.claim()
        print("claimed", claimed.id, flush=True)
        store.succeed(claimed.id, {"clips": []})
        print("ended", claimed.id, flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
@pytest.mark.parametrize("line", [1, 8, pytest.param(97, marks=pytest.mark.slow)])
def test_what_was_answered_before_a_kill_is_in_the_queue_after_it(tmp_path, line):
    path = tmp_path / "jobs.sqlite"
    process = subprocess.Popen(
        [sys.executable, "-c", ADDING, path], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    lines = [process.stdout.readline().split() for _ in range(line)]
    process.send_signal(signal.SIGKILL)
    lines += [words for row in process.stdout if len(words := row.split()) == 2]
    process.wait()
    store = JobStore(path)
    store.recover()
    for word, job_id in lines:
        job = store.get(job_id)
        assert job is not None
        if word == "ended":
            assert job.state is State.SUCCEEDED
    # What has not ended waits, each job once.
    ended = {job_id for word, job_id in lines if word == "ended"}
    waiting = set()
    while (job := store.claim()) is not None:
        assert job.id not in ended | waiting
        waiting.add(job.id)
    assert {job_id for word, job_id in lines if word == "added"} <= ended | waiting | {
        job.id for job in store.jobs(states=(State.SUCCEEDED,), most=1000)
    }
    store.close()
