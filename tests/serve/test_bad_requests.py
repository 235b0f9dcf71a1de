"""Every bad request is answered with the promised status and code, and queues nothing."""

from __future__ import annotations

import json

import pytest

from ltx2_core.serve.service import Limits, Service

from .bad_requests import JOB, JOB_ROWS, SEED_ROWS
from .bad_values import VALUE_ROWS
from .conftest import application_client


@pytest.fixture(scope="module")
def refusing(tmp_path_factory, models, tiny_set):
    """A client of one service for all rows, with some files that clients may name."""
    from .conftest import settings_in

    folder = tmp_path_factory.mktemp("refusing")
    settings = settings_in(folder, models, limits=Limits(body_bytes=150_000, work=1e9))
    (folder / "loras" / "style.safetensors").write_bytes(tiny_set.lora.read_bytes())
    (folder / "loras" / "text.safetensors").write_text("no tensors")
    (folder / "inputs" / "text.png").write_text("no image")
    (folder / "inputs" / "link.png").symlink_to("/etc/passwd")
    service = Service(settings)
    with application_client(service) as client:
        yield client, service
    service.close()


def test_a_body_of_errors_without_end_is_told_the_first_hundred(refusing):
    client, _ = refusing
    body = {
        **JOB,
        "loras": [{"path": n} for n in range(2000)],
        "other": 1,
        "command": "retake",
        "source": "a",
    }
    body["arguments"] = {"video": [["a", "b"]] * 900}
    assert len(client.post("/v1/jobs", json=body).json()["detail"]) == 100


@pytest.mark.parametrize(
    "row", [*SEED_ROWS, *JOB_ROWS, *VALUE_ROWS], ids=lambda row: f"{row.path} {row.name}"
)
def test_a_bad_request_is_answered_as_promised(refusing, row):
    client, service = refusing
    send = dict(row.send)
    if "json" in send:
        # The client's own encoder refuses what JSON can hold, such as half an emoji.
        send = {
            "content": json.dumps(send["json"]).encode(),
            "headers": {"content-type": "application/json"},
        }
    before = service.store.jobs()
    answer = client.request(row.method, row.path, **send)
    assert answer.status_code == row.status, answer.text
    body = answer.json()
    if row.code is not None:
        error = body["detail"]["error"] if "detail" in body else body["error"]
        assert error["code"] == row.code, answer.text
        # The checks of the original have their error inside of "detail".
        assert ("detail" in body) == (row.path.startswith(("/v1/inf", "/v1/req")) and row.status != 422)
    assert row.says in answer.text.replace('\\"', '"').replace("\\\\", "\\")
    # Nothing tells where the folders of this machine are.
    assert str(service.folder.path.parent) not in answer.text
    assert service.store.jobs() == before
    assert not any((service.folder.path / "work").iterdir())
