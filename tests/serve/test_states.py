"""States of jobs are answered in front of the routes, with the same answers, and leave the log readable."""

from __future__ import annotations

import asyncio
import logging
import sqlite3

import pytest

from ltx2_core.serve.access_log import AccessLog
from ltx2_core.serve.job_reads import JobReads
from ltx2_core.serve.queue_file import open_queue
from ltx2_core.serve.states import StateReads

from .conftest import application_client, spec

UNKNOWN = "00000000-0000-0000-0000-000000000000"


@pytest.fixture
def paths(service):
    """Paths of the states of jobs: one that has succeeded, one that has failed, and one that waits."""
    clip = {"file": "a.mp4", "format": "mp4", "width": 64, "height": 64, "num_frames": 9, "fps": 8.0}
    done, failed, waits = (service.add("inference", spec()).id for _ in range(3))
    service.store.claim()
    service.store.succeed(done, {"clips": [clip]})
    service.store.claim()
    service.store.fail(failed, f"{service.folder.path}/work is full")
    return [
        path for job in (done, failed, waits) for path in (f"/v1/jobs/{job}", f"/v1/requests/{job}/status")
    ]


def test_a_state_has_the_answer_of_its_route(service, client, paths, monkeypatch):
    first = [client.get(path) for path in paths]
    monkeypatch.setattr(StateReads, "_answer", lambda *_: None)
    for path, answer in zip(paths, first, strict=True):
        route = client.get(path)
        assert (answer.status_code, answer.content) == (route.status_code, route.content)
        assert answer.headers == route.headers


def test_what_is_no_state_is_answered_by_its_route(service, client):
    job = service.add("job", spec()).id
    code = client.get(f"/v1/jobs/{UNKNOWN}").json()["error"]["code"]
    other = client.get(f"/v1/requests/{UNKNOWN}/status").json()["detail"]["error"]["code"]
    assert (code, other) == ("JOB_NOT_FOUND", "REQUEST_NOT_FOUND")
    assert client.get(f"/v1/requests/{job}/status").status_code == 404
    assert client.post(f"/v1/jobs/{job}").status_code == 405


def test_a_state_needs_the_token_and_the_right_name_of_the_server(service, paths):
    with application_client(service, tokens=("secret",)) as client:
        assert {client.get(path).status_code for path in paths} == {401}
        assert {client.get(path, headers={"host": "evil.example"}).status_code for path in paths} == {403}


def test_the_log_has_a_line_for_each_request_but_not_for_states(service, client, paths, caplog):
    caplog.set_level(logging.INFO)
    client.get(paths[0])
    client.get(f"/v1/jobs/{UNKNOWN}?a=1")
    client.get("/v1/jobs/two%0Alines")
    client.get("/health", headers={"host": "evil.example"})
    told = [line.getMessage() for line in caplog.records if line.name.endswith("access_log")]
    assert [line.partition(" ")[2] for line in told] == [
        f'"GET /v1/jobs/{UNKNOWN}?a=1" 404',
        '"GET /v1/jobs/two%0Alines" 404',
        '"GET /health" 403',
    ]


def test_a_request_whose_answer_fails_on_the_way_has_one_line(caplog):
    async def failing(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise RuntimeError("the file is gone")

    async def send(_):
        pass

    caplog.set_level(logging.INFO)
    scope = {"type": "http", "method": "GET", "path": "/a", "query_string": b""}
    with pytest.raises(RuntimeError, match="gone"):
        asyncio.run(AccessLog(failing)(scope, None, send))
    assert [line.getMessage() for line in caplog.records] == ['- "GET /a" 200']


def test_a_file_that_another_program_locks_is_not_waited_for_on_the_event_loop(tmp_path):
    path = tmp_path / "jobs.sqlite"
    open_queue(path).close()
    other = sqlite3.connect(path, isolation_level=None)
    # In this mode, which backups may set, a writer shuts out readers.
    other.execute("PRAGMA journal_mode=DELETE")
    reads = JobReads(path)
    assert reads.glance(UNKNOWN) is None
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        reads.glance(UNKNOWN)
    assert reads._glances.execute("PRAGMA busy_timeout").fetchone()[0] <= 100
    reads.close()
    other.close()


def test_a_locked_file_leaves_states_to_their_routes_and_events_as_they_were(service, client, monkeypatch):
    job = service.add("job", spec()).id
    looks = iter((True, True, False, False, True))
    glance = service.store.glance

    def locked(job_id):
        if not next(looks):
            # Before the look after these.
            service.cancel(job_id)
            raise sqlite3.OperationalError("database is locked")
        return glance(job_id)

    monkeypatch.setattr(service.store, "glance", locked)
    told = client.get(f"/v1/jobs/{job}/events").text
    assert [line for line in told.splitlines() if line.startswith("event")] == ["event: job"] * 2
    assert '"state": "queued"' in told
    assert '"state": "canceled"' in told
    looks = iter((False,))
    assert client.get(f"/v1/jobs/{job}").json()["state"] == "canceled"
