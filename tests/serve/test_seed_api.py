"""A client of ai-toolkit-inference works unchanged: same fields, defaults, states and frames."""

from __future__ import annotations

import base64
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from ltx2_core.media import read_video
from ltx2_core.run.execution import Execution
from ltx2_core.sampling.guidance import Guidance, StreamGuidance
from ltx2_core.serve.models import TINY, ServedModel, read_models
from ltx2_core.serve.seed_request import InferenceRequest, job_of
from ltx2_core.serve.service import Service
from ltx2_core.serve.stored_job import State
from ltx2_core.tiny import embedded_dir

from .conftest import application_client, ended, settings_in

SMALL = {"width": 70, "height": 95, "num_frames": 14, "fps": 8, "sample_steps": 2, "guidance_scale": 1}
PLAIN = ServedModel(id="ltx2", base_model="tiny", checkpoints=())


@pytest.fixture
def lora(settings, tiny_set):
    (settings.loras[0] / "style.safetensors").write_bytes(tiny_set.lora.read_bytes())
    return {"path": "style.safetensors"}


def post(client, lora, *prompts, **more):
    answer = client.post("/v1/inference", json={"model": "ltx2", "loras": [lora], "prompts": prompts, **more})
    assert answer.status_code == 200, answer.text
    return answer.json()


def fields(**item):
    """The request that the first prompt of a body becomes."""
    body = InferenceRequest.model_validate(
        {"model": "ltx2", "loras": [{"path": "x"}], "prompts": [{"prompt": "a ball", **item}]}
    )
    return job_of(body, PLAIN, ("x", 1.0), None).clips[0].whole_request()


def test_what_is_left_out_has_the_defaults_of_the_original():
    request = fields()
    assert (request.width, request.height, request.num_frames, request.fps) == (1024, 1024, 41, 24)
    assert (request.steps, request.seed, request.negative_prompt) == (25, 42, "")
    four = StreamGuidance(cfg=4.0)
    assert request.guidance == Guidance(video=four, audio=four)
    assert (request.stages, request.schedule, request.snap.value) == (1, "clip", "floor")


def test_each_further_prompt_has_the_next_seed_and_minus_one_draws_one():
    prompts = [{"prompt": "a"}, {"prompt": "b"}, {"prompt": "c", "seed": 7}, {"prompt": "d", "seed": -1}]
    body = InferenceRequest.model_validate({"model": "ltx2", "loras": [{"path": "x"}], "prompts": prompts})
    seeds = [clip.request["seed"] for clip in job_of(body, PLAIN, ("x", 1.0), None).clips]
    assert seeds[:3] == [42, 43, 7]
    assert seeds[3] >= 0


@pytest.mark.parametrize(
    ("top", "own", "text"),
    [("sks", None, "a sks, sks"), ("sks", "zwx", "a zwx, zwx"), (None, None, "a [trigger], [trigger]")],
)
def test_a_trigger_word_takes_the_place_of_its_mark_but_not_in_the_negative_prompt(top, own, text):
    item = {"prompt": "a [trigger], [trigger]", "neg": "[trigger]", "trigger_word": own}
    body = InferenceRequest.model_validate(
        {"model": "ltx2", "loras": [{"path": "x"}], "prompts": [item], "trigger_word": top}
    )
    (clip,) = job_of(body, PLAIN, ("x", 1.0), None).clips
    assert (clip.request["prompt"], clip.request["negative_prompt"]) == (text, "[trigger]")


def test_null_is_the_default_of_a_field():
    names = ("neg", "width", "height", "sample_steps", "guidance_scale", "seed", "num_frames", "fps")
    assert fields(**dict.fromkeys(names)).settings() == fields().settings()


def test_a_guidance_scale_of_at_most_one_is_no_guidance():
    assert fields(guidance_scale=0.5).guidance == fields(guidance_scale=0).guidance == Guidance()


def test_a_request_goes_from_queued_to_its_videos(service, client, lora):
    made = post(client, lora, {"prompt": "a ball", **SMALL}, {"prompt": "a cube", **SMALL}, extra="ignored")
    assert made["status"] == "queued"
    assert made["created_at"].endswith("+00:00")
    second = post(client, lora, {"prompt": "a ball", **SMALL, "sample_steps": 1})
    waiting = client.get(made["status_url"]).json()
    assert (waiting["status"], waiting["started_at"], waiting["error"]) == ("in_queue", None, None)
    assert client.get(made["result_url"]).json()["outputs"] is None
    running = []
    publish = service.board.set
    service.board.set = lambda job_id, snapshot: (
        running.append([client.get(one["status_url"]).json()["status"] for one in (made, second)])
        if not running
        else None,
        publish(job_id, snapshot),
    )
    service.start()
    ended(service, second["request_id"])
    assert running == [["in_progress", "in_queue"]]
    status, result = (client.get(made[name]).json() for name in ("status_url", "result_url"))
    assert status["status"] == result["status"] == "succeeded", status["error"]
    assert result["outputs"]["images"] == []
    first, other = result["outputs"]["videos"]
    # 70 x 95 and 14 frames lie between the steps of the latent grid.
    assert {name: first[name] for name in ("format", "width", "height", "num_frames", "fps", "seed")} == {
        "format": "mp4",
        "width": 64,
        "height": 64,
        "num_frames": 9,
        "fps": 8,
        "seed": 42,
    }
    assert other["seed"] == 43
    assert first["file_path"].endswith(f"{made['request_id']}_output_0.mp4")
    clip = read_video(first["file_path"])
    assert (clip.width, clip.height, clip.frame_count) == (64, 64, 9)
    assert client.get(first["file_url"]).content[4:8] == b"ftyp"
    timings = result["metadata"]["timings"]
    assert set(timings) == {"get_pipeline", "pipeline_details", "inference_total", "prompts"}
    assert len(timings["prompts"]) == 2


@pytest.mark.parametrize("base", ["https://gpu.example", "https://gpu.example/ltx2/"])
def test_urls_in_answers_begin_with_the_base_url(service, lora, base):
    with application_client(service, base_url=base) as client:
        made = post(client, lora, {"prompt": "a ball", **SMALL})
        assert made["status_url"] == f"{base.rstrip('/')}/v1/requests/{made['request_id']}/status"
        service.store.claim()
        clip = {"format": "mp4", "width": 64, "height": 64, "num_frames": 9, "fps": 8.0, "seed": 1}
        clip |= {"file": "a.mp4", "seconds": {}, "total_s": 1.0}
        outcome = {"clips": [clip], "seconds": 1.0, "opening_s": 0.0}
        service.store.succeed(made["request_id"], outcome)
        result = client.get(f"/v1/requests/{made['request_id']}/result").json()
        (video,) = result["outputs"]["videos"]
        assert video["file_url"].startswith(f"{base.rstrip('/')}/v1/jobs/")


def test_an_error_does_not_tell_where_the_folders_of_the_server_are(service, client, settings):
    job = service.store.add("inference", {"model": "ltx2", "clips": []})
    service.store.claim()
    service.store.fail(job.id, f"cannot read {settings.inputs[0].resolve() / 'a.png'}")
    for name in ("status", "result"):
        assert client.get(f"/v1/requests/{job.id}/{name}").json()["error"] == "cannot read a.png"


def test_a_multiplier_changes_the_clip_from_the_first_load_on(service, client, lora, models):
    sent = [post(client, {**lora, "network_multiplier": m}, {"prompt": "a ball", **SMALL}) for m in (1.5, 0)]
    service.start()
    with_lora, without = (ended(service, one["request_id"]) for one in sent)
    assert with_lora.state is without.state is State.SUCCEEDED, with_lora.error
    frames = [
        torch.cat(list(read_video(service.folder.results / f"{job.id}_output_0.mp4").frames()))
        for job in (with_lora, without)
    ]
    assert not torch.equal(*frames)


def test_a_control_image_is_the_first_frame_stretched_by_lanczos(tmp_path):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8))
    data = BytesIO()
    image.save(data, "PNG")
    text = base64.b64encode(data.getvalue()).decode()
    for sent in (text, f"data:image/png;base64,{text}"):
        body = InferenceRequest.model_validate(
            {"model": "ltx2", "loras": [{"path": "x"}], "prompts": [{"prompt": "a", "ctrl_img_1": sent}]}
        )
        (clip,) = job_of(body, PLAIN, ("x", 1.0), tmp_path).clips
        request = clip.whole_request()
        assert np.array_equal(np.asarray(Image.open(request.image)), np.asarray(image))
        assert (request.fit, request.image_crf, request.image_strength) == ("stretch", 0, 1.0)


@pytest.mark.parametrize(
    ("item", "says"),
    [
        ({"ctrl_img": "no image at all"}, "as an image"),
        ({"resolution": "High"}, "resolution 'High' is not supported"),
    ],
)
def test_what_the_original_finds_late_makes_the_job_fail(service, client, lora, item, says):
    made = post(client, lora, {"prompt": "a ball", **SMALL, **item})
    service.start()
    ended(service, made["request_id"])
    answer = client.get(made["result_url"]).json()
    assert (answer["status"], answer["outputs"]) == ("failed", None)
    assert says in answer["error"]


def test_a_high_resolution_is_twice_the_size_in_a_second_stage(tmp_path, tiny_set):
    model = replace(read_models(None)["ltx2.3"], id="ltx2.3")
    body = InferenceRequest.model_validate(
        {
            "model": "ltx2.3",
            "loras": [{"path": "x"}],
            "prompts": [{"prompt": "a", "width": 100, "height": 70, "resolution": "High"}],
        }
    )
    (clip,) = job_of(body, model, ("x", 0.5), tmp_path).clips
    request = clip.whole_request()
    assert (request.width, request.height, request.stages, request.audio_stage) == (192, 128, 2, 1)
    assert clip.loras == (("x", 0.5),)
    assert clip.stage2_loras == ((str(model.distilled_lora), 0.8),)
    first, second = model.open(Execution.on("cpu", torch.float32)).stages(request)
    assert (first.sampled.width, second.sampled.width) == (96, 192)
    assert [round(sigma, 6) for sigma in second.sigmas.tolist()] == [0.909375, 0.725, 0.421875, 0]
    assert not second.guided


@pytest.mark.slow
def test_a_high_resolution_runs(tmp_path):
    service = Service(settings_in(tmp_path, read_models(None)))
    lora = embedded_dir() / "loras" / "ltx2-tiny-distilled-lora.safetensors"
    (service.settings.loras[0] / "style.safetensors").write_bytes(lora.read_bytes())
    with application_client(service) as client:
        item = {"prompt": "a ball", **SMALL, "resolution": "High"}
        body = {"model": "ltx2.3", "loras": [{"path": "style.safetensors"}], "prompts": [item]}
        made = client.post("/v1/inference", json=body).json()
        service.start()
        job = ended(service, made["request_id"])
        assert job.state is State.SUCCEEDED, job.error
        (video,) = client.get(made["result_url"]).json()["outputs"]["videos"]
        assert (video["width"], video["height"]) == (128, 128)
    service.drain(0)
    service.close()


def test_the_models_are_listed_with_their_defaults(client):
    (model,) = client.get("/v1/models").json()["models"]
    assert model == {
        "id": "ltx2",
        "base_model": "tiny",
        "resolution_divisor": 32,
        "default_steps": 25,
        "default_guidance_scale": 4.0,
        "requires_control_image": False,
        "is_video_model": True,
        "default_num_frames": 41,
        "default_fps": 24,
    }
    assert client.get("/health").json() == {"status": "healthy"}


def test_without_named_models_the_tiny_set_answers_to_the_ids_of_clients(tmp_path):
    models = read_models(None)
    assert set(models) == {"ltx2", "ltx2.3", "ltx2.5", TINY}
    assert all(model.embedded for model in models.values())


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[]", "must hold an object"),
        ("{", "no list of models"),
        ('{"a": {"checkpoints": []}}', "checkpoints"),
        ('{"a": {"checkpoint": ["x"]}}', "checkpoints"),
        ('{"a": {"checkpoints": ["none.safetensors"]}}', "none.safetensors of model 'a' is missing"),
        ('{"a": "ltx-3"}', "'ltx-3' is no released model: use ltx-2.0"),
        ('{"a": "ltx-2.3-fp8"}', "ltx2 models get ltx-2.3-fp8"),
    ],
)
def test_a_wrong_list_of_models_is_refused(tmp_path, text, says):
    path = tmp_path / "models.json"
    path.write_text(text)
    with pytest.raises((ValueError, OSError), match="(?s).*" + says):
        read_models(path)


def test_a_list_of_models_names_files_beside_it(tmp_path):
    for name in ("a.safetensors", "g"):
        (tmp_path / name).touch()
    path = tmp_path / "models.json"
    path.write_text('{"ltx2.3": {"checkpoints": ["a.safetensors"], "text_encoder": "g"}}')
    models = read_models(path)
    assert set(models) == {"ltx2.3", TINY}
    assert models["ltx2.3"].checkpoints == (tmp_path / "a.safetensors",)


def test_a_clip_that_memory_cannot_hold_is_refused(tmp_path, models, tiny_set):
    execution = replace(Execution.on("cpu", torch.float32), max_memory=40 * 2**20)
    settings = replace(settings_in(tmp_path, models), execution=execution)
    (settings.loras[0] / "style.safetensors").write_bytes(tiny_set.lora.read_bytes())
    service = Service(settings)
    with application_client(service) as client:
        body = {
            "model": "ltx2",
            "loras": [{"path": "style.safetensors"}],
            "prompts": [{"prompt": "a", "width": 2048, "height": 2048, "sample_steps": 1}],
        }
        answer = client.post("/v1/inference", json=body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (422, "INVALID_PARAMETER"), answer.text
        assert "GB" in answer.text or "MB" in answer.text or "memory" in answer.text
    service.close()
