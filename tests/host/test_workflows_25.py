"""The workflows of LTX-2.5, and those for clips of every generation, on the trained tiny LTX-2.5.

Its video is decoded by the diffusion decoder. The set has no temporal upscaler, so that one is of random
weights.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import av
import pytest
import torch
from host_server import Json, Result
from saved import Decoded, decoded, saved_video
from torch import Tensor
from workflow_inputs import SIZE, SLIDE
from workflow_runs import Runs, prompt_of

from ltx2_core.tiny.continued import write_embedded_25
from ltx2_core.tiny.write import TinySet, write_tiny_set
from ltx2_core.training.data import psnr
from ltx2_core.training.world import measure, render_frames

FOLDER = "trained25"
"""Below each folder of models, so that the lists of files keep those of other tests first."""
PROMPT = "a yellow square slides right on a blue background, a tone rises as it goes"
LENGTH_S, FRAMES = 0.96, 25
FIRST, LAST = render_frames(SLIDE, 49, *SIZE)[[0, -1]]


@pytest.fixture(scope="module")
def tiny25(runs: Runs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TinySet]:
    pytest.importorskip("transformers", minversion="5.0")
    files = write_embedded_25(tmp_path_factory.mktemp("tiny25"))
    random = write_tiny_set(tmp_path_factory.mktemp("random25"), generation="2.5", dtype=torch.float32)
    assert files.temporal_upsampler is not None
    assert random.temporal_upsampler is not None
    shutil.copy(random.temporal_upsampler, files.temporal_upsampler)
    models, root = runs.server.base / "models", files.checkpoint.parents[1]
    for folder in root.iterdir():
        shutil.copytree(folder, models / folder.name / FOLDER)
    yield files
    for folder in root.iterdir():
        shutil.rmtree(models / folder.name / FOLDER)


def on_the_set(name: str, files: TinySet) -> Json:
    """A workflow in API format with the files of the set, and with clips that these are trained on."""
    graph = prompt_of(name)
    for node in graph.values():
        kind, inputs = node["class_type"], node["inputs"]
        if kind == "LTX2AVLoadAll":
            upscaler = (
                inputs["upscaler"] if inputs["upscaler"] == "none" else f"{FOLDER}/{files.upsampler.name}"
            )
            inputs |= {
                "ckpt_name": f"{FOLDER}/{files.checkpoint.name}",
                "text_encoder": f"{FOLDER}/{files.text_encoder.name}/model.safetensors",
                "upscaler": upscaler,
                "video_vae": f"{FOLDER}/{files.video_vae.name}",
                **dict.fromkeys(("audio_vae", "text_parts"), "in ckpt_name"),
            }
        elif kind == "LTX2AVLoadUpscaler":
            assert files.temporal_upsampler is not None
            inputs["upscaler"] = f"{FOLDER}/{files.temporal_upsampler.name}"
        elif kind == "LTX2AVLoadLora":
            inputs["lora"] = f"{FOLDER}/{inputs['lora']}"
        elif kind == "LTX2AVClipPlan" and name.startswith("ltx25"):
            inputs |= {"width": SIZE[0], "height": SIZE[1], "length": LENGTH_S, "megapixels": 0.02}
        elif kind == "LTX2AVPrompt" and name.startswith("ltx25"):
            inputs["positive"] = PROMPT
    return graph


def ran(runs: Runs, name: str, files: TinySet) -> Result:
    return runs.server.run(on_the_set(name, files), timeout_s=400)


def clip_of(runs: Runs, name: str, files: TinySet) -> Decoded:
    clip = decoded(saved_video(ran(runs, name, files)))
    assert clip.sound is not None
    assert clip.sound.shape[1] / clip.rate == pytest.approx(len(clip.frames) / clip.fps, abs=0.1)
    return clip


def near(frame: Tensor, wanted: Tensor) -> float:
    return float(psnr(frame[None, None], wanted[None, None]))


@pytest.mark.parametrize(
    ("name", "frames", "fps"), [("ltx25_text_to_video", FRAMES, 24), ("ltx25_dfr", 2 * FRAMES - 1, 48)]
)
def test_text_becomes_a_clip(runs: Runs, tiny25: TinySet, name: str, frames: int, fps: int) -> None:
    clip = clip_of(runs, name, tiny25)
    assert clip.frames.shape == (frames, 3, *SIZE)
    assert clip.fps == fps
    assert clip.frames.std() > 0.05, "not one flat colour"


@pytest.mark.parametrize(
    ("name", "frames"), [("ltx25_image_to_video", FRAMES), ("ltx25_first_last_frame", FRAMES)]
)
def test_the_image_is_the_first_frame(runs: Runs, tiny25: TinySet, name: str, frames: int) -> None:
    clip = clip_of(runs, name, tiny25)
    assert clip.frames.shape == (frames, 3, *SIZE)
    assert near(clip.frames[0], FIRST) > 18


def test_guides_lead_from_the_first_to_the_last_image(runs: Runs, tiny25: TinySet) -> None:
    frames = clip_of(runs, "first_last_frame", tiny25).frames
    assert len(frames) == 49
    assert near(frames[0], FIRST) > near(frames[0], LAST) + 5
    assert near(frames[-1], LAST) > near(frames[-1], FIRST) + 5


def test_the_last_image_is_at_the_end_in_the_second_stage_too(runs: Runs, tiny25: TinySet) -> None:
    graph = on_the_set("ltx25_first_last_frame", tiny25)
    (again,) = (key for key, node in graph.items() if node["class_type"] == "LTX2AVNextStage")
    probe = {"name": "again", "conditioning": [again, 0]}
    graph["probe"] = {"class_type": "LTX2ProbeDump", "inputs": probe}
    starts = runs.server.run(graph, timeout_s=400).tensors("again")["cond/keyframe_idxs"][0, 0, :, 0]
    assert set(starts.tolist()) == {FRAMES - 1}


def test_a_dub_has_the_frames_of_its_clip(runs: Runs, tiny25: TinySet) -> None:
    clip = clip_of(runs, "dub_video", tiny25)
    assert clip.frames.shape == (49, 3, *SIZE)
    assert measure(clip.frames, None, fps=clip.fps).background == "blue"


def test_an_hdr_clip_is_saved_as_images_and_as_a_master(runs: Runs, tiny25: TinySet) -> None:
    pytest.importorskip("OpenEXR")
    result = ran(runs, "hdr_from_video", tiny25)
    texts = [text for output in result.outputs.values() for text in output.get("text", ())]
    master = Path(next(text for text in texts if text.endswith(".mp4")))
    assert len(list(master.with_name(f"{master.stem}_exr").glob("*.exr"))) == 49
    with av.open(str(master)) as file:
        assert file.streams.video[0].codec_context.pix_fmt == "yuv420p10le"


def test_a_model_of_2_3_is_paired_with_the_diffusion_decoder(runs: Runs, tiny25: TinySet) -> None:
    """As an option of the loaders: another decoder of the same latents."""
    clips = {}
    for decoder in ("in ckpt_name", f"{FOLDER}/{tiny25.video_vae.name}"):
        graph = runs.prompt("text_to_video_distilled")
        for node in graph.values():
            if node["class_type"] == "LTX2AVLoadAll":
                node["inputs"]["video_vae"] = decoder
        clips[decoder] = decoded(saved_video(runs.server.run(graph, timeout_s=400)))
    one, other = clips.values()
    assert one.frames.shape == other.frames.shape
    assert torch.equal(one.sound, other.sound)
    assert not torch.equal(one.frames, other.frames)
    if runs.trained:
        assert float(psnr(one.frames[None], other.frames[None])) > 18
