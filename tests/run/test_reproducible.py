"""In float32 on the CPU a clip is the same bit for bit, however the machine is told to make it."""

from __future__ import annotations

import pytest
import torch

from ltx2_core import LTX2Pipeline
from ltx2_core.run.request import Request, plan_stages
from ltx2_core.sampling.guidance import Guidance, StreamGuidance

REQUEST = Request(
    prompt="a ball",
    width=64,
    height=64,
    num_frames=9,
    fps=8.0,
    steps=2,
    seed=4,
    guidance=Guidance(
        video=StreamGuidance(cfg=3, stg=1, modality=2, rescale=0.7),
        audio=StreamGuidance(cfg=5, cfg_star=True),
        stg_blocks=(16,),
    ),
)


def pipeline(files, **options):
    return LTX2Pipeline(
        files.checkpoint,
        text_encoder=files.text_encoder,
        upscaler=files.upsampler,
        device="cpu",
        dtype=torch.float32,
        **options,
    )


@pytest.fixture(scope="module")
def plain(deep, tmp_path_factory):
    path = tmp_path_factory.mktemp("plain") / "plain.mp4"
    made = pipeline(deep)(REQUEST)
    made.save(path)
    return made.latents, path.read_bytes()


def least_memory(files) -> int:
    """A budget in which most blocks have to be streamed."""
    whole = pipeline(files)
    plan = whole.plan(plan_stages(REQUEST, whole.numerics), 10**12)
    return int(1.2 * max(s.total for s in plan.stages if not s.stage.startswith("stage")) / 0.94)


@pytest.mark.parametrize("way", ["passes at once", "watched", "kept loaded", "blocks streamed"])
def test_the_file_is_the_same_whatever_the_slices_the_preview_and_the_memory(deep, plain, way, tmp_path):
    options, watch = {}, None
    if way == "passes at once":
        options["passes_per_call"] = 4
    elif way == "kept loaded":
        options["keep_loaded"] = True
    elif way == "blocks streamed":
        options["max_memory"] = least_memory(deep)
    else:
        seen = []
        watch = seen.append
    made = pipeline(deep, **options)(REQUEST, on_step=watch)
    assert torch.equal(made.latents.video, plain[0].video)
    assert torch.equal(made.latents.audio, plain[0].audio)
    made.save(tmp_path / "plain.mp4")
    assert (tmp_path / "plain.mp4").read_bytes() == plain[1]


def test_another_seed_is_another_file(deep, plain):
    other = pipeline(deep)(REQUEST.changed(seed=5))
    assert not torch.equal(other.latents.video, plain[0].video)
