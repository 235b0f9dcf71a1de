"""The DFR pipeline of LTX-2.5 in a graph, and the workflow with it, on a tiny set of that generation."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
import torch
from host_graph import Graph, Link
from host_server import GraphError, Server
from node_graphs import reports
from safetensors.torch import load_file, save_file
from saved import decoded, saved_video
from tiny_models import TinyModels
from workflow_runs import Runs, prompt_of

from ltx2_core.tiny.write import TinySet, write_tiny_set

WORKFLOW = "ltx25_dfr"


@pytest.fixture(scope="module")
def tiny25(server: Server) -> Iterator[TinySet]:
    pytest.importorskip("transformers", minversion="5.0")
    folder = server.base / "models"
    before = set(folder.rglob("*"))
    files = write_tiny_set(folder, generation="2.5", dtype=torch.float32)
    # Named now: what the workflows run on is put into the same folders meanwhile, for the whole session.
    added = sorted(set(folder.rglob("*")) - before, reverse=True)
    yield files
    # Other tests look at what the lists of files hold.
    for path in added:
        path.rmdir() if path.is_dir() else path.unlink()


def loaded(g: Graph, tiny25: TinySet, checkpoint: str | None = None, encoder: str = "gemma4-tiny") -> Link:
    return g.add(
        "LTX2AVLoadAll",
        ckpt_name=checkpoint or tiny25.checkpoint.name,
        text_encoder=f"{encoder}/model.safetensors",
        upscaler=tiny25.upsampler.name,
    )


def temporal(g: Graph, tiny25: TinySet) -> Link:
    assert tiny25.temporal_upsampler is not None
    return g.add("LTX2AVLoadUpscaler", upscaler=tiny25.temporal_upsampler.name)


def dfr(g: Graph, models: Link, **changes: object) -> Link:
    plan = g.add(
        "LTX2AVClipPlan",
        width=128,
        height=64,
        length_unit="frames",
        length=17,
        fps=24.0,
        snap="error",
        stages="2",
        batch_size=1,
    )
    text = g.add("LTX2AVPrompt", clip=models[1], positive="a red ball", negative="noise", fps=24.0)
    values = {
        "model": models,
        "positive": text,
        "plan": plan,
        "video_vae": models[2],
        "upscale_model": models[4],
        "seed": 3,
        "temporal_rounds": 0,
    }
    return g.add("LTX2AVSampleDFR", **{**values, **changes})


@pytest.mark.parametrize(("rounds", "frames", "fps"), [(0, 3, 24), (2, 9, 96)])
def test_rounds_double_the_frame_rate_and_the_audio_ends_with_the_video(
    server: Server, tiny25: TinySet, rounds: int, frames: int, fps: int
) -> None:
    g = Graph()
    models = loaded(g, tiny25)
    made = dfr(
        g,
        models,
        temporal_rounds=rounds,
        image=g.add("LTX2ProbeImage", seed=9, frames=1, width=128, height=64),
        **({"temporal_upscale_model": temporal(g, tiny25)} if rounds else {}),
    )
    g.dump("made", latent=made)
    g.add("PreviewAny", source=made[3])
    video = g.add("LTX2AVDecodeToVideo", latent=made, video_vae=models[2], fps=made[2], crf=18, batch_index=0)
    g.add("PreviewAny", source=video[1])
    result = server.run(g.prompt)
    told = "\n".join(text for output in result.outputs.values() for text in output.get("text", ()))
    assert "first frame " in told
    assert " dB to the image as encoded" in told
    latents = result.tensors("made")
    video, audio = latents["latent/video"], latents["latent/audio"]
    assert video.shape == (1, 128, frames, 2, 4)
    # 17 frames at 24 fps, or 65 at 96.
    assert audio.shape[2] == (18 if rounds == 0 else 17)
    assert video.isfinite().all()
    (report, *_) = [
        text for output in result.outputs.values() for text in output.get("text", ()) if "sampled as" in text
    ]
    assert f"{8 * (frames - 1) + 1} frames at {fps} fps" in report
    assert "17 frames at 24 fps, sampled as 25" in report


def test_a_detail_model_changes_the_clip(server: Server, tiny25: TinySet) -> None:
    made = {}
    # A file that does not state how its reference was scaled, like the released one.
    plain = server.base / "models" / "loras" / "plain-detail.safetensors"
    save_file(load_file(tiny25.lora), plain)
    for kind in ("plain", "detailed"):
        g = Graph()
        models = loaded(g, tiny25)
        more = {}
        if kind == "detailed":
            more["detail_model"] = g.add(
                "LTX2AVLoadLora",
                model=models,
                lora=plain.name,
                strength=1.0,
                video_strength=1.0,
                audio_strength=1.0,
                distilled_strength="as above",
            )
        g.dump("made", latent=dfr(g, models, **more))
        made[kind] = server.run(g.prompt).tensors("made")
    plain.unlink()
    assert torch.equal(made["plain"]["latent/audio"], made["detailed"]["latent/audio"])
    assert not torch.equal(made["plain"]["latent/video"], made["detailed"]["latent/video"])


def test_images_guide_their_frames_in_every_stage_and_round(server: Server, tiny25: TinySet) -> None:
    made, told = {}, ""
    guides = {"guide_frames": "8, -1", "guide_strengths": "0.8, 1"}
    for kind in ("plain", "guided", "weaker"):
        g = Graph()
        more: dict[str, object] = {}
        if kind != "plain":
            images = g.add("LTX2ProbeImage", seed=9, frames=2, width=100, height=64)
            more = {"guide_images": images, **guides}
        if kind == "weaker":
            more |= {"image": images, "image_strength": 0.3}
        upscaler = {"temporal_rounds": 1, "temporal_upscale_model": temporal(g, tiny25)}
        result_of = dfr(g, loaded(g, tiny25), **upscaler, **more)
        g.dump("made", latent=result_of)
        g.add("PreviewAny", source=result_of[3])
        result = server.run(g.prompt)
        made[kind] = result.tensors("made")["latent/video"]
        told = "\n".join(text for output in result.outputs.values() for text in output.get("text", ()))
    assert made["guided"].shape == made["plain"].shape
    assert not torch.equal(made["guided"], made["plain"])
    assert not torch.equal(made["guided"], made["weaker"])
    assert "image guides frame 8, strength 0.8" in told
    assert "image guides frame 16, strength 1" in told


GUIDES = {
    "no frames": ({"guide_frames": ""}, "guide_images are 2 images and guide_frames 0 frames"),
    "a frame too few": ({"guide_frames": "8"}, "guide_images are 2 images and guide_frames 1 frames"),
    "words": ({"guide_frames": "8, last"}, "must be frame numbers"),
    "outside": ({"guide_frames": "8, 17"}, "are not all in the clip"),
    "strengths": ({"guide_frames": "8, -1", "guide_strengths": "1, 1, 1"}, "3 numbers for 2 images"),
    "no number": ({"guide_frames": "8, -1", "guide_strengths": "much"}, "must be numbers"),
    "too strong": ({"guide_frames": "8, -1", "guide_strengths": "11"}, "must be from 0 to 10"),
    "no images": ({"guide_images": None, "guide_frames": "8"}, "no effect without guide_images"),
}


@pytest.mark.parametrize("case", GUIDES)
def test_guides_that_do_not_fit_are_refused(server: Server, tiny25: TinySet, case: str) -> None:
    values, message = GUIDES[case]
    g = Graph()
    images = g.add("LTX2ProbeImage", seed=9, frames=2, width=128, height=64)
    values = {"guide_images": images, **values}
    values = {name: value for name, value in values.items() if value is not None}
    g.add("PreviewAny", source=dfr(g, loaded(g, tiny25), **values)[3])
    with pytest.raises(GraphError, match=re.escape(message)):
        server.run(g.prompt)


def test_the_scale_of_the_detail_reference_is_that_of_the_loras_file(server: Server, tiny25: TinySet) -> None:
    lora = server.base / "models" / "loras" / "stated-scale.safetensors"
    save_file(load_file(tiny25.lora), lora, {"reference_downscale_factor": "4"})
    try:
        g = Graph()
        models = loaded(g, tiny25)
        detailed = g.add("LTX2AVLoadLora", model=models, lora=lora.name, strength=1.0)
        g.add("PreviewAny", source=dfr(g, models, detail_model=detailed)[3])
        with pytest.raises(GraphError, match="takes a reference 4 times smaller, and the upscaler enlarges"):
            server.run(g.prompt)
    finally:
        lora.unlink()


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("old", "this model cannot generate keyframes"),
        ("unconnected", "temporal_rounds is 1 and temporal_upscale_model is not connected"),
        ("spatial", "temporal_upscale_model enlarges the frames"),
        ("temporal", "upscale_model doubles the frames"),
    ],
)
def test_what_cannot_be_sampled_is_refused(
    server: Server, models: TinyModels, tiny25: TinySet, kind: str, message: str
) -> None:
    g = Graph()
    if kind == "old":
        dfr_of = dfr(g, loaded(g, tiny25, models.checkpoints["2.3"], "gemma-tiny"))
    elif kind == "unconnected":
        dfr_of = dfr(g, loaded(g, tiny25), temporal_rounds=1)
    elif kind == "spatial":
        parts = loaded(g, tiny25)
        dfr_of = dfr(g, parts, temporal_rounds=1, temporal_upscale_model=parts[4])
    else:
        dfr_of = dfr(g, loaded(g, tiny25), upscale_model=temporal(g, tiny25))
    g.add("PreviewAny", source=dfr_of[3])
    with pytest.raises(GraphError, match=re.escape(message)):
        server.run(g.prompt)


def test_full_weights_are_refused_without_a_lora_and_sampled_with_one(
    server: Server, tiny25: TinySet
) -> None:
    full = tiny25.checkpoint.with_name("ltx-2.5-22b-dev.safetensors")
    lora = server.base / "models" / "loras" / "ltx-2.5-distilled-lora.safetensors"
    full.symlink_to(tiny25.checkpoint)
    lora.symlink_to(tiny25.lora)
    try:
        g = Graph()
        g.add("PreviewAny", source=dfr(g, loaded(g, tiny25, full.name))[3])
        message = "those of ltx-2.5-22b-dev.safetensors are full: load a distilled checkpoint"
        with pytest.raises(GraphError, match=re.escape(message)):
            server.run(g.prompt)
        g = Graph()
        models = loaded(g, tiny25, full.name)
        distilled = g.add("LTX2AVLoadLora", model=models, lora=lora.name, strength=1.0)
        g.add("PreviewAny", source=dfr(g, models, model=distilled)[3])
        assert "17 frames at 24 fps, sampled as 25" in reports(server.run(g.prompt))
    finally:
        full.unlink()
        lora.unlink()


def test_a_temporal_upscaler_alone_doubles_the_frames_of_any_clip(server: Server, tiny25: TinySet) -> None:
    g = Graph()
    models = loaded(g, tiny25)
    latent = g.add("LTX2AVEmptyLatent", width=128, height=64, frames=17, fps=24.0, batch_size=1)
    doubled = g.add(
        "LTX2AVLatentUpscale", latent=latent, upscale_model=temporal(g, tiny25), video_vae=models[2]
    )
    g.dump("made", latent=doubled)
    g.dump("before", latent=latent)
    result = server.run(g.prompt)
    made, before = result.tensors("made"), result.tensors("before")
    assert made["latent/video"].shape == (1, 128, 5, 2, 4)
    assert torch.equal(made["latent/audio"], before["latent/audio"])


def test_the_workflow_runs_on_the_tiny_set(runs: Runs, tiny25: TinySet) -> None:
    graph = prompt_of(WORKFLOW)
    assert tiny25.temporal_upsampler is not None
    for node in graph.values():
        inputs = node["inputs"]
        if node["class_type"] == "LTX2AVLoadAll":
            inputs |= {
                "ckpt_name": tiny25.checkpoint.name,
                "text_encoder": "gemma4-tiny/model.safetensors",
                "upscaler": tiny25.upsampler.name,
                **dict.fromkeys(("video_vae", "audio_vae", "text_parts"), "in ckpt_name"),
            }
        elif node["class_type"] == "LTX2AVLoadUpscaler":
            inputs["upscaler"] = tiny25.temporal_upsampler.name
        elif node["class_type"] == "LTX2AVClipPlan":
            inputs |= {"width": 128, "height": 128, "length": 0.6}
    clip = decoded(saved_video(runs.server.run(graph, timeout_s=300)))
    assert clip.frames.shape == (33, 3, 128, 128)
    assert clip.fps == 48
