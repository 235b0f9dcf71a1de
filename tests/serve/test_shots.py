"""A job of a shot list makes the clip that ``ltx2 generate --shots`` makes."""

from __future__ import annotations

import json

import pytest
import torch

from ltx2_core.editing.shots import retake_of
from ltx2_core.media import read_audio, read_video
from ltx2_core.run.execution import Execution
from ltx2_core.run.shots import parse_shots
from ltx2_core.run.shots.request import request_of
from ltx2_core.serve.stored_job import State

from .conftest import SMALL, ended
from .test_job_api import post, source

CLIP = {"width": 64, "height": 64, "frames": 17, "fps": 8, "steps": 2, "stages": 1, "cfg": 1.0, "seed": 3}
SHOTS = {
    "format": "ltx2.shots/1",
    "clip": CLIP,
    "prompt": "a red ball",
    "parts": [{"from": 0, "prompt": "it rolls"}, {"from": "50%", "prompt": "it stops"}],
}
CASES = {
    "prompts": {},
    "images": {"images": [{"file": "photo.png"}, {"file": "photo.png", "at": "end", "strength": 0.5}]},
    "an audio file": {"audio": [{"file": "clip.mp4"}]},
    "mixed audio": {
        "audio": [
            {"file": "clip.mp4", "at": 0.25, "trim": [0.1, 0.6], "gain_db": -3, "fade": 0.02},
            {"file": "clip.mp4", "at": 1},
        ]
    },
    "generated gaps": {"audio": [{"file": "clip.mp4"}], "regions": [{"track": "audio", "from": 1}]},
}


def frames_and_audio(path):
    waveform, _ = read_audio(path)
    return torch.cat(list(read_video(path).frames())), waveform


@pytest.fixture
def inputs(service, photo):
    folder = service.roots.inputs[0]
    if photo.parent != folder:
        (folder / "photo.png").write_bytes(photo.read_bytes())
    source(folder)
    return folder


@pytest.mark.parametrize("case", CASES)
def test_the_clip_is_that_of_the_library(service, client, models, inputs, tmp_path, case):
    shots = {**SHOTS, **CASES[case]}
    made = post(client, request={}, shots=shots)
    service.start()
    done = ended(service, made["id"])
    assert done.state is State.SUCCEEDED, done.error
    pipeline = models["ltx2"].open(Execution.on("cpu", torch.float32))
    fields, _ = request_of(parse_shots(json.dumps(shots)), pipeline, {}, lambda name: str(inputs / name))
    pipeline(**fields).save(tmp_path / "plain.mp4")
    served = frames_and_audio(service.folder.results / done.outcome["clips"][0]["file"])
    plain = frames_and_audio(tmp_path / "plain.mp4")
    for one, other in zip(served, plain, strict=True):
        assert torch.equal(one, other)


def test_a_source_makes_the_job_of_a_retake(service, client, models, inputs, tmp_path):
    regions = [{"track": "video", "from": 0.5, "to": 1}, {"track": "audio", "from": 1}]
    listed = {
        **SHOTS,
        "clip": {"steps": 2, "cfg": 1.0, "seed": 3},
        "source": {"file": "clip.mp4"},
        "regions": regions,
        **CASES["mixed audio"],
    }
    made = post(client, request={"seed": 4}, shots=listed)
    body = client.get(f"/v1/jobs/{made['id']}/request").json()
    assert (body["command"], body["source"], body["request"]["seed"]) == ("retake", "clip.mp4", 4)
    assert [piece["path"] for piece in body["arguments"]["pieces"]] == ["clip.mp4", "clip.mp4"]
    service.start()
    done = ended(service, made["id"])
    assert done.state is State.SUCCEEDED, done.error
    pipeline = models["ltx2"].open(Execution.on("cpu", torch.float32))
    shots = parse_shots(json.dumps(listed))
    retake = retake_of(shots, lambda name: str(inputs / name), {"seed": 4}, numerics=pipeline.numerics)
    retake.task().make(pipeline).save(tmp_path / "plain.mp4")
    served = frames_and_audio(service.folder.results / done.outcome["clips"][0]["file"])
    plain = frames_and_audio(tmp_path / "plain.mp4")
    for one, other in zip(served, plain, strict=True):
        assert torch.equal(one, other)


def test_fields_of_the_request_replace_those_of_the_list(service, client):
    made = post(client, request={"seed": 9, "width": 96, "seconds": 1}, shots=SHOTS)
    spec = service.store.spec(made["id"])["clips"][0]["request"]
    assert (spec["seed"], spec["width"], spec["height"]) == (9, 96, 64)
    assert "num_frames" not in spec
    assert spec["prompt"] == "a red ball"


def test_mixed_audio_is_an_upload_that_goes_when_no_job_needs_it(service, client, inputs):
    made = post(client, request=SMALL, shots={**SHOTS, **CASES["mixed audio"]})
    (upload,) = service.folder.uploads.iterdir()
    assert upload.name in service.store.spec(made["id"])["clips"][0]["request"]["audio"]
    assert service.store.is_needed(upload.name)


def test_loras_of_the_list_are_those_of_the_job_unless_it_has_its_own(service, client, tiny_set):
    folder = service.roots.loras[0]
    for name in ("a", "b"):
        (folder / f"{name}.safetensors").write_bytes(tiny_set.lora.read_bytes())
    loras = [{"file": "a.safetensors", "strength": 0.5}, {"file": "b.safetensors", "stage": 2}]
    made = post(client, request={}, shots={**SHOTS, "clip": {**CLIP, "stages": 2}, "loras": loras})
    clip = service.store.spec(made["id"])["clips"][0]
    assert clip["loras"] == [[str(folder / "a.safetensors"), 0.5]]
    assert clip["stage2_loras"] == [[str(folder / "b.safetensors"), 1.0]]
    own = [{"path": "b.safetensors"}]
    made = post(client, request={}, loras=own, shots={**SHOTS, "loras": loras[:1]})
    assert service.store.spec(made["id"])["clips"][0]["loras"] == [[str(folder / "b.safetensors"), 1.0]]
