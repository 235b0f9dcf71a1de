"""What is read of the queue: jobs without their specs, lists by pages, and which files are queues."""

from __future__ import annotations

import sqlite3

import pytest

from ltx2_core.serve.store import JobStore
from ltx2_core.serve.stored_job import ClientFull, Quota, State


def test_only_the_run_of_a_job_reads_its_spec(store):
    added = store.add("job", {"model": "ltx2", "clips": ["a" * 10**6]})
    for seen in (added, store.get(added.id), *store.jobs(), store.cancel(added.id)):
        assert seen.model == "ltx2"
        assert "spec" not in vars(seen)
    again = store.add("job", {"model": "ltx2", "clips": []})
    assert store.claim().spec == {"model": "ltx2", "clips": []}
    assert [(job.id, job.model) for job in store.recover()] == [(again.id, "ltx2")]


def test_a_second_store_of_the_same_file_sees_each_change(store, tmp_path):
    job = store.add("job", {})
    other = JobStore(tmp_path / "jobs.sqlite")
    assert other.claim().id == job.id
    assert store.claim() is None
    other.succeed(job.id, {"clips": []})
    assert store.get(job.id).state is State.SUCCEEDED
    other.close()


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


def test_jobs_are_listed_newest_first_and_page_by_page(store):
    added = [store.add("job", {}).id for _ in range(5)]
    first = store.jobs(most=2)
    assert [job.id for job in first] == added[:2:-1]
    assert [job.id for job in store.jobs(before=first[-1].number)] == added[2::-1]
    store.claim()
    assert [job.id for job in store.jobs(states=(State.RUNNING,))] == added[:1]


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
