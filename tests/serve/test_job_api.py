"""Jobs of every command over HTTP: what comes back, progress, files, cancel and removal."""

from __future__ import annotations

import asyncio
import base64
import io
import json

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from ltx2_core.media import VideoWriter, read_audio, read_video
from ltx2_core.run.request import Request
from ltx2_core.serve.events import MOST_STREAMS
from ltx2_core.serve.expiry import Retention
from ltx2_core.serve.guard import Guard
from ltx2_core.serve.models import read_models
from ltx2_core.serve.roots import OutsideRoots, Roots
from ltx2_core.serve.service import Limits, Service
from ltx2_core.serve.stored_job import State
from ltx2_core.tiny import embedded_dir

from .conftest import SMALL, application_client, ended, settings_in, spec

REQUEST = {"prompt": "a red ball", "seed": 3, **SMALL}
QUICK = {"prompt": "a red ball", "seed": 3, "steps": 2, "cfg": 1.0, "stages": 1}


def post(client, **body):
    answer = client.post("/v1/jobs", json={"model": "ltx2", "request": REQUEST, **body})
    assert answer.status_code == 202, answer.text
    assert answer.headers["location"] == f"/v1/jobs/{answer.json()['id']}"
    return answer.json()


def source(folder, frames=9):
    """The name of a clip of moving noise in ``folder``, with audio."""
    generator = torch.Generator().manual_seed(1)
    pixels = torch.rand(frames, 3, 64, 64, generator=generator).mul(255).byte()
    with VideoWriter(folder / "clip.mp4", width=64, height=64, fps=8, sample_rate=16000) as writer:
        writer.write_frames(pixels)
        writer.write_audio(torch.rand(2, 2000 * frames, generator=generator) - 0.5)
    return "clip.mp4"


def test_a_job_is_followed_by_events_and_its_file_is_read_in_ranges(service, client):
    made = post(client, format="webm", request={**REQUEST, "seed": -1})
    assert (made["state"], made["progress"], made["clips"]) == ("queued", None, None)
    early = client.get(f"/v1/jobs/{made['id']}/file")
    assert (early.status_code, early.json()["error"]["code"]) == (409, "NO_RESULT")
    service.start()
    # The answer ends when the job does.
    text = client.get(f"/v1/jobs/{made['id']}/events")
    assert text.headers["content-type"].startswith("text/event-stream")
    told = [part.split("\n") for part in text.text.split("\n\n") if "data: " in part]
    events = [json.loads(data.removeprefix("data: ")) for name, data in told if name == "event: job"]
    previews = [json.loads(data.removeprefix("data: ")) for name, data in told if name == "event: preview"]
    assert previews
    strip = Image.open(io.BytesIO(base64.b64decode(previews[-1]["image"])))
    # Two latent frames of a clip of nine frames, side by side.
    assert (strip.format, strip.size, previews[-1]["frames"]) == ("JPEG", (320, 160), 2)
    assert all(0 <= level <= 1 for level in previews[-1]["levels"])
    assert events[0]["state"] in ("queued", "running")
    progress = [event["progress"] for event in events if event["progress"]]
    assert progress
    assert {"stage", "step", "steps", "fraction", "eta_s"} <= progress[-1].keys()
    done = events[-1]
    assert (done["state"], done["error"]) == ("succeeded", None)
    assert done == client.get(f"/v1/jobs/{made['id']}").json()
    assert done["clips"][0]["seed"] >= 0
    whole = client.get(f"/v1/jobs/{made['id']}/file")
    assert whole.headers["content-type"] == "video/webm"
    assert whole.headers["x-content-type-options"] == "nosniff"
    part = client.get(f"/v1/jobs/{made['id']}/file", headers={"range": "bytes=10-29"})
    assert (part.status_code, part.content) == (206, whole.content[10:30])
    assert part.headers["content-range"] == f"bytes 10-29/{len(whole.content)}"
    beyond = client.get(f"/v1/jobs/{made['id']}/file", headers={"range": f"bytes={10**9}-"})
    assert beyond.status_code == 416
    assert client.head(f"/v1/jobs/{made['id']}/file").headers["content-length"] == str(len(whole.content))
    assert client.get(f"/v1/jobs/{made['id']}/file?clip=1").json()["error"]["code"] == "FILE_NOT_FOUND"
    metrics = client.get("/metrics").text
    assert 'ltx2_jobs{state="succeeded"} 1\n' in metrics
    assert "ltx2_clips_total 1\n" in metrics
    assert 'ltx2_seconds_total{part="sampling"}' in metrics
    assert client.delete(f"/v1/jobs/{made['id']}").status_code == 204
    assert client.get(f"/v1/jobs/{made['id']}").status_code == 404
    assert not any(service.folder.results.iterdir())


def test_jobs_that_wait_are_listed_canceled_and_removed(service, client):
    ids = [post(client)["id"] for _ in range(3)]
    listed = client.get("/v1/jobs?limit=2").json()["jobs"]
    assert [job["id"] for job in listed] == ids[:0:-1]
    more = client.get(f"/v1/jobs?before={listed[-1]['number']}").json()["jobs"]
    assert [job["id"] for job in more] == ids[:1]
    refused = client.delete(f"/v1/jobs/{ids[0]}")
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "NOT_ENDED")
    assert client.post(f"/v1/jobs/{ids[0]}/cancel").json()["state"] == "canceled"
    assert client.post(f"/v1/jobs/{ids[0]}/cancel").json()["state"] == "canceled"
    assert [job["id"] for job in client.get("/v1/jobs?state=canceled").json()["jobs"]] == ids[:1]
    assert client.delete(f"/v1/jobs/{ids[0]}").status_code == 204
    # The two APIs share the queue, but not their ids.
    assert client.get(f"/v1/requests/{ids[1]}/status").status_code == 404


def test_an_upload_is_used_by_a_later_job(service, client, photo):
    sent = client.post("/v1/files", files={"file": ("../../photo.PNG", photo.read_bytes())})
    assert sent.status_code == 201, sent.text
    path = sent.json()["path"]
    assert path.startswith("uploads/")
    assert path.endswith(".png")
    made = post(client, request={**REQUEST, "image": path})
    service.start()
    assert ended(service, made["id"]).state is State.SUCCEEDED


EDITS = {
    "extend": {"arguments": {"frames": 8}, "frames": 17},
    "retake": {"arguments": {"video": [[0.5, 1]]}, "frames": 9},
    "sound": {"frames": 9},
}


@pytest.mark.parametrize(
    "command", ["extend", *(pytest.param(c, marks=pytest.mark.slow) for c in EDITS if c != "extend")]
)
def test_an_edit_of_a_source_runs_as_a_job(service, client, settings, command):
    edit = EDITS[command]
    made = post(
        client,
        command=command,
        request=QUICK,
        source=source(settings.inputs[0]),
        arguments=edit.get("arguments", {}),
    )
    service.start()
    done = ended(service, made["id"])
    assert done.state is State.SUCCEEDED, done.error
    clip = read_video(service.folder.results / done.outcome["clips"][0]["file"])
    assert clip.frame_count == done.outcome["clips"][0]["num_frames"] == edit["frames"]


@pytest.mark.slow
@pytest.mark.parametrize("command", ["dub", "hdr"])
def test_an_edit_by_an_ic_lora_runs_as_a_job(tmp_path, command):
    # The embedded set has such a LoRA.
    service = Service(settings_in(tmp_path, read_models(None)))
    (inputs,), (loras,) = service.settings.inputs, service.settings.loras
    lora = embedded_dir() / "loras" / "ltx2-tiny-edges-ic-lora.safetensors"
    metadata = {"reference_downscale_factor": "1", "hdr_transform": "true"}
    save_file(load_file(lora), loras / "ic.safetensors", metadata)
    with application_client(service) as client:
        # These edits have their own steps and stages.
        made = post(
            client,
            command=command,
            request={"prompt": "a red ball", "seed": 3},
            source=source(inputs),
            loras=[{"path": "ic.safetensors"}],
        )
        service.start()
        done = ended(service, made["id"])
        assert done.state is State.SUCCEEDED, done.error
        assert done.outcome["clips"][0]["num_frames"] == 9
        # The images of an HDR clip are next to its file and removed with it.
        assert len(list(service.folder.results.iterdir())) == (2 if command == "hdr" else 1)
        assert client.delete(f"/v1/jobs/{made['id']}").status_code == 204
        assert not any(service.folder.results.iterdir())
    service.drain(0)
    service.close()


@pytest.mark.slow
def test_audio_alone_and_long_clips_run_as_jobs(service, client):
    audio = post(client, command="audio", request=QUICK, arguments={"seconds": 1.0})
    fields = {**QUICK, "width": 64, "height": 64, "fps": 8, "num_frames": 33}
    long = post(client, command="long", request=fields, arguments={"window_frames": 25, "overlap_frames": 16})
    service.start()
    done = ended(service, audio["id"])
    assert done.state is State.SUCCEEDED, done.error
    waveform, rate = read_audio(service.folder.results / done.outcome["clips"][0]["file"])
    assert waveform.shape[-1] / rate == pytest.approx(1.0, abs=0.05)
    done = ended(service, long["id"])
    assert done.state is State.SUCCEEDED, done.error
    assert done.outcome["clips"][0]["num_frames"] == 33


def test_a_full_queue_and_a_draining_server_take_no_jobs(tmp_path, models):
    service = Service(settings_in(tmp_path, models, limits=Limits(queue=1)))
    with application_client(service) as client:
        post(client)
        full = client.post("/v1/jobs", json={"model": "ltx2", "request": REQUEST})
        assert (full.status_code, full.json()["error"]["code"]) == (503, "QUEUE_FULL")
        assert full.headers["retry-after"]
        service.draining.set()
        ending = client.post("/v1/jobs", json={"model": "ltx2", "request": REQUEST})
        assert (ending.status_code, ending.json()["error"]["code"]) == (503, "DRAINING")
        assert client.get("/v1/jobs").status_code == 200
    service.close()


def test_a_queue_that_cannot_be_read_or_written_is_told(service, client):
    service.store.close()
    body = {"model": "ltx2", "request": REQUEST}
    for answer in (client.get("/v1/jobs"), client.post("/v1/jobs", json=body), client.get("/metrics")):
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "STORE_UNAVAILABLE")


def test_a_token_is_asked_for_everywhere_but_for_health(service):
    with application_client(service, tokens=("secret",)) as client:
        for path in ("/v1/jobs", "/v1/models", "/metrics", "/openapi.json", "/docs"):
            answer = client.get(path)
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer"), path
        assert client.get("/health").status_code == 200
        for wrong in ("Bearer other", "secret", "Basic secret", "Bearer"):
            assert client.get("/v1/jobs", headers={"authorization": wrong}).status_code == 401
        assert client.get("/v1/jobs", headers={"authorization": "bearer secret"}).status_code == 200


def test_each_token_is_a_client_with_a_limit_of_its_own(tmp_path, models):
    service = Service(settings_in(tmp_path, models, limits=Limits(per_client=1)))
    with application_client(service, tokens=("one", "two")) as client:
        body = {"model": "ltx2", "request": REQUEST}
        sent = [
            client.post("/v1/jobs", json=body, headers={"authorization": f"Bearer {token}"})
            for token in ("one", "one", "two", "three")
        ]
        assert [answer.status_code for answer in sent] == [202, 429, 202, 401]
        assert sent[1].json()["error"]["code"] == "TOO_MANY_JOBS"
    service.close()


def test_the_folder_in_which_the_server_was_started_is_no_concern_of_jobs(
    service, client, tmp_path, monkeypatch
):
    # Like "/", to which the user of a service may not write.
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clip.mp4").mkdir()
    sent = client.post("/v1/jobs", json={"model": "ltx2", "request": REQUEST})
    assert sent.status_code == 202, sent.text


def test_a_client_of_openai_makes_a_video_lists_downloads_and_removes_it(service, client):
    body = {"model": "ltx2", "prompt": "a red ball", "seconds": "0.4", "size": "64x64"}
    made = client.post("/v1/videos", json=body)
    assert made.status_code == 200, made.text
    assert {name: made.json()[name] for name in ("object", "status", "progress", "model", "size")} == {
        "object": "video",
        "status": "queued",
        "progress": 0,
        "model": "ltx2",
        "size": "64x64",
    }
    video = f"/v1/videos/{made.json()['id']}"
    assert client.get(f"{video}/content").status_code == 409
    service.start()
    assert ended(service, made.json()["id"]).state is State.SUCCEEDED
    done = client.get(video).json()
    assert (done["status"], done["progress"], done["error"]) == ("completed", 100, None)
    assert [one["id"] for one in client.get("/v1/videos").json()["data"]] == [done["id"]]
    content = client.get(f"{video}/content")
    assert (content.status_code, content.headers["content-type"]) == (200, "video/mp4")
    assert client.delete(video).json()["deleted"] is True
    assert client.get(video).status_code == 404
    for wrong in ({"size": "64"}, {"seconds": 0}, {"prompt": ""}, {"other": 1}, {"model": "none"}):
        for sent in (
            {"json": {**body, **wrong}},
            {"files": {k: (None, str(v)) for k, v in {**body, **wrong}.items()}},
        ):
            assert client.post("/v1/videos", **sent).status_code == 422, sent
    assert client.post("/v1/videos", content=b"{").json()["detail"][0]["type"] == "json_invalid"


def test_a_client_of_openai_sends_the_first_image_in_a_form(service, client, photo):
    fields = {"model": "ltx2", "prompt": "a red ball", "seconds": "0.4", "size": "64x64"}
    # Above the limit of other bodies.
    image = photo.read_bytes() + bytes(2 * 2**20)
    made = client.post("/v1/videos", data=fields, files={"input_reference": ("ball.png", image)})
    assert made.status_code == 200, made.text
    (upload,) = service.folder.uploads.iterdir()
    request = client.get(f"/v1/jobs/{made.json()['id']}/request").json()["request"]
    assert (request["image"], request["width"]) == (f"uploads/{upload.name}", 64)
    assert upload.read_bytes() == image


def test_a_body_without_a_length_is_bounded_too(tmp_path, models):
    service = Service(settings_in(tmp_path, models, limits=Limits(body_bytes=1000)))
    with application_client(service) as client:
        pieces = (b" " * 100 for _ in range(50))
        answer = client.post("/v1/jobs", content=pieces, headers={"content-type": "application/json"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "BODY_TOO_LARGE")
    service.close()


@pytest.mark.parametrize(("path", "status"), [("/v1/jobs", 413), ("/v1/inference", 422), ("/v1/files", 422)])
def test_only_bodies_with_files_in_them_may_be_large(client, path, status):
    body = json.dumps({"model": "ltx2", "padding": "a" * 2**20})
    answer = client.post(path, content=body, headers={"content-type": "application/json"})
    assert answer.status_code == status, answer.text


def test_a_form_of_a_video_has_no_other_file_than_its_image(client):
    answer = client.post("/v1/videos", data={"seconds": "1"}, files={"prompt": ("prompt.txt", b"a ball")})
    assert answer.status_code == 422
    assert "only input_reference may be a file" in answer.text


@pytest.mark.parametrize(
    ("kind", "status"), [("Multipart/Form-Data; boundary=a", 400), ("multipart/form-data-other", 413)]
)
def test_only_forms_of_videos_may_be_large(client, kind, status):
    answer = client.post("/v1/videos", content=b"a" * (2**20 + 1), headers={"content-type": kind})
    assert answer.status_code == status, answer.text


def test_a_body_that_arrives_too_slowly_is_refused():
    async def app(scope, receive, send):
        while (await receive())["more_body"]:
            pass

    guard = Guard(app, tokens=(), hosts=(), body_bytes=100, upload_bytes=100, body_s=0.05)
    sent = []

    async def receive():
        await asyncio.sleep(0.01)
        return {"type": "http.request", "body": b" ", "more_body": True}

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/v1/jobs", "headers": []}
    asyncio.run(guard(scope, receive, send))
    assert sent[0]["status"] == 408
    assert json.loads(sent[1]["body"])["error"]["code"] == "BODY_TOO_SLOW"


def test_uploads_without_room_are_refused(tmp_path, models):
    service = Service(settings_in(tmp_path, models, retention=Retention(most_bytes=10)))
    with application_client(service) as client:
        answer = client.post("/v1/files", files={"file": ("a.png", b"x" * 11)})
        assert (answer.status_code, answer.json()["error"]["code"]) == (507, "NO_ROOM")
        assert client.post("/v1/files", files={"file": ("a.png", b"x" * 10)}).status_code == 201
    service.close()


def test_a_client_too_many_that_follows_a_job_is_refused(service, client):
    job = post(client)["id"]
    client.app.state.streams.open = MOST_STREAMS
    answer = client.get(f"/v1/jobs/{job}/events")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "TOO_MANY_STREAMS")
    # Another one may follow after the first one has ended.
    client.app.state.streams.open -= 1
    service.cancel(job)
    assert client.get(f"/v1/jobs/{job}/events").status_code == 200
    assert client.app.state.streams.open == MOST_STREAMS - 1


def test_a_fault_of_the_server_tells_clients_nothing_of_it(service, client):
    job = service.store.add("job", spec())
    service.store.claim()
    # As a later version may write it.
    service.store.succeed(job.id, {"pieces": []})
    answer = client.get("/v1/jobs")
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "INFERENCE_ERROR")
    assert "clips" not in answer.text


def test_the_schema_of_a_request_is_that_of_the_library(client):
    assert client.get("/v1/schema").json() == Request.json_schema()
    assert "/v1/jobs/{job_id}/events" in client.get("/openapi.json").json()["paths"]


@pytest.mark.parametrize(
    "name",
    ["", " ", ".", "..", "a/../../x", "/etc/passwd", "\\\\host\\x", "c:x", "file:a.png", "a\0b", "out"],
)
def test_a_name_outside_of_the_folders_is_refused(tmp_path, name):
    (tmp_path / "in").mkdir()
    (tmp_path / "x").touch()
    (tmp_path / "in" / "a.png").touch()
    (tmp_path / "in" / "out").symlink_to(tmp_path / "x")
    roots = Roots(inputs=(tmp_path / "in",), loras=(), uploads=tmp_path / "uploads")
    assert roots.input("a.png") == (tmp_path / "in" / "a.png").resolve()
    with pytest.raises(OutsideRoots):
        roots.input(name)
    with pytest.raises(OutsideRoots):
        roots.lora("a.png")
