"""The queue of jobs: states change in one transaction, in order, and survive the end of the process."""

from __future__ import annotations

import os
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from io import BytesIO, StringIO
from pathlib import Path

import pytest

from ltx2_core.serve.files import StateFolder, expire
from ltx2_core.serve.store import MOST_ATTEMPTS, JobStore
from ltx2_core.serve.stored_job import ClientFull, QueueFull, Quota, State
from ltx2_core.serve.uploads import NoRoom, Uploads

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def store(tmp_path):
    store = JobStore(tmp_path / "jobs.sqlite")
    yield store
    store.close()


def test_jobs_are_claimed_in_the_order_in_which_they_came(store):
    added = [store.add("job", {"number": number}) for number in range(3)]
    claimed = [store.claim() for _ in range(4)]
    assert [job and job.id for job in claimed] == [*(job.id for job in added), None]
    assert [job.spec["number"] for job in claimed[:3]] == [0, 1, 2]


def test_only_the_run_of_a_job_reads_its_spec(store):
    added = store.add("job", {"model": "ltx2", "clips": ["a" * 10**6]})
    for seen in (added, store.get(added.id), *store.jobs(), store.cancel(added.id)):
        assert seen.model == "ltx2"
        assert "spec" not in vars(seen)
    again = store.add("job", {"model": "ltx2", "clips": []})
    assert store.claim().spec == {"model": "ltx2", "clips": []}
    assert [(job.id, job.model) for job in store.recover()] == [(again.id, "ltx2")]


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


def test_a_second_store_of_the_same_file_sees_each_change(store, tmp_path):
    job = store.add("job", {})
    other = JobStore(tmp_path / "jobs.sqlite")
    assert other.claim().id == job.id
    assert store.claim() is None
    other.succeed(job.id, {"clips": []})
    assert store.get(job.id).state is State.SUCCEEDED
    other.close()


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


@pytest.mark.parametrize(("version", "newer"), [(1, ("client", "model")), (2, ("model",))])
def test_a_queue_of_an_earlier_version_is_taken_over(tmp_path, version, newer):
    path = tmp_path / "old.sqlite"
    store = JobStore(path)
    job = store.add("job", {"model": "ltx2"})
    store.close()
    with sqlite3.connect(path) as database:
        for name in newer:
            database.execute(f"ALTER TABLE jobs DROP COLUMN {name}")
        database.execute(f"PRAGMA user_version={version}")
    database.close()
    again = JobStore(path)
    assert again.get(job.id).model == "ltx2"
    with pytest.raises(ClientFull):
        again.add("job", {}, quota=Quota(own=1))
    again.close()


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


def test_jobs_are_listed_newest_first_and_page_by_page(store):
    added = [store.add("job", {}).id for _ in range(5)]
    first = store.jobs(most=2)
    assert [job.id for job in first] == added[:2:-1]
    assert [job.id for job in store.jobs(before=first[-1].number)] == added[2::-1]
    store.claim()
    assert [job.id for job in store.jobs(states=(State.RUNNING,))] == added[:1]


def test_only_a_job_that_has_ended_is_deleted(store):
    job = store.add("job", {})
    assert not store.delete(job.id)
    store.cancel(job.id)
    assert store.delete(job.id)
    assert store.get(job.id) is None


def test_other_files_and_newer_versions_are_refused(tmp_path):
    path = tmp_path / "jobs.sqlite"
    path.write_bytes(b"no database at all, whatever its name says" * 100)
    with pytest.raises(ValueError, match="no table of jobs"):
        JobStore(path)
    path.unlink()
    JobStore(path).close()
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version=99")
    with pytest.raises(ValueError, match="newer version"):
        JobStore(path)


def test_a_file_that_cannot_be_opened_is_not_called_damaged(tmp_path):
    (tmp_path / "jobs.sqlite").mkdir()
    with pytest.raises(OSError, match=r"jobs.sqlite cannot be opened: "):
        JobStore(tmp_path / "jobs.sqlite")


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


def finished(store: JobStore, folder: StateFolder, size: int) -> str:
    """The id of a job that has succeeded with a result of ``size`` bytes."""
    job = store.add("job", {})
    store.claim()
    folder.result(job.id, 0, "mp4").write_bytes(bytes(size))
    store.succeed(job.id, {"clips": []})
    folder.finish(job.id)
    return job.id


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="Windows has no modes")
def test_the_state_folder_is_for_this_user_alone(tmp_path):
    folder = StateFolder(tmp_path / "state")
    for path in (folder.path, folder.results, folder.uploads, folder.work("a")):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700


def test_results_expire_by_size_the_oldest_first(store, tmp_path):
    folder = StateFolder(tmp_path / "state")
    made = [finished(store, folder, 100) for _ in range(4)]
    waiting = store.add("job", {}).id
    assert expire(store, folder, age_s=3600, most_bytes=250) == made[:2]
    assert store.ids(*State) == {*made[2:], waiting}
    assert sorted(path.name for path in folder.results.iterdir()) == sorted(
        f"{job_id}_output_0.mp4" for job_id in made[2:]
    )


def test_results_expire_by_age(store, tmp_path):
    folder = StateFolder(tmp_path / "state")
    old = finished(store, folder, 100)
    time.sleep(0.05)
    assert expire(store, folder, age_s=0.04, most_bytes=10**9) == [old]
    assert not any(folder.results.iterdir())


def test_jobs_without_files_do_not_expire_by_size(store, tmp_path):
    folder = StateFolder(tmp_path / "state")
    failed = store.add("job", {})
    store.claim()
    store.fail(failed.id, "no memory")
    made = [finished(store, folder, 100) for _ in range(2)]
    assert expire(store, folder, age_s=3600, most_bytes=150) == made[:1]
    assert store.ids(*State) == {failed.id, made[1]}


def test_an_upload_expires_by_age_but_not_while_a_job_needs_it(store, tmp_path):
    folder = StateFolder(tmp_path / "state")
    needed, other = folder.uploads / "a.png", folder.uploads / "b.png"
    for path in (needed, other):
        path.touch()
    job = store.add("job", {"clips": [{"request": {"image": str(needed)}}]})
    time.sleep(0.05)
    expire(store, folder, age_s=0.04, most_bytes=10**9)
    assert list(folder.uploads.iterdir()) == [needed]
    store.cancel(job.id)
    expire(store, folder, age_s=0.04, most_bytes=10**9)
    assert not any(folder.uploads.iterdir())


def test_files_that_are_sent_at_the_same_time_do_not_share_the_room_of_one(tmp_path):
    folder, unfinished = tmp_path / "uploads", tmp_path / "unfinished"
    folder.mkdir()
    unfinished.mkdir()
    uploads = Uploads(folder, unfinished, 10)
    assert uploads.add(BytesIO(b"1234"), 4, ".png").endswith(".png")

    class Slow(BytesIO):
        """A file during whose copy another one is sent."""

        def read(self, size=-1):
            with pytest.raises(NoRoom):
                uploads.add(BytesIO(b"1234"), 4, "")
            return super().read(size)

    uploads.add(Slow(b"12345"), 5, "")
    # What could not be copied gives its room back.
    with pytest.raises(TypeError):
        uploads.add(StringIO("1"), 1, "")
    uploads.add(BytesIO(b"1"), 1, "")
    assert sorted(path.stat().st_size for path in folder.iterdir()) == [1, 4, 5]


def test_a_clip_that_was_not_recorded_is_cleared_before_it_is_made_again(tmp_path):
    folder = StateFolder(tmp_path / "state")
    images = folder.results / "a_output_1_exr"
    images.mkdir()
    (images / "0001.exr").touch()
    for name in ("a_output_1.mp4", "a_output_0.mp4", "a_output_10.mp4"):
        (folder.results / name).touch()
    folder.clear("a", 1)
    assert sorted(path.name for path in folder.results.iterdir()) == ["a_output_0.mp4", "a_output_10.mp4"]


def test_files_of_no_job_are_removed_at_a_start(store, tmp_path):
    folder = StateFolder(tmp_path / "state")
    job_id = finished(store, folder, 10)
    folder.work("unknown")
    (folder.results / "unknown_output_0.mp4").write_bytes(b"clip")
    (folder.results / f".{job_id}_out-1a2b.part").write_bytes(b"half a clip")
    # EXR images are written into a folder, which is renamed at the end.
    (folder.results / f".{job_id}_out-3c4d.part").mkdir()
    (folder.results / f".{job_id}_out-3c4d.part" / "0001.exr").touch()
    (folder.uploads / ".photo.png.part").touch()
    (folder.uploads / "photo.png").touch()
    folder.remove_orphans(unfinished=set(), succeeded={job_id})
    assert [path.name for path in folder.results.iterdir()] == [f"{job_id}_output_0.mp4"]
    assert [path.name for path in folder.uploads.iterdir()] == ["photo.png"]
    assert not any((folder.path / "work").iterdir())
