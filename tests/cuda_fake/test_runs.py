"""Runs on a GPU, without one: no tensors of two devices meet, and steps after the first do not wait."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from fake_cuda import pretend
from fake_runs import Guide, pipeline_on_device, sample

from ltx2_core import LTX2Pipeline
from ltx2_core.attention import _choice
from ltx2_core.sampling.caching import StepCache
from ltx2_core.sampling.guidance import Guidance, Nag, StreamGuidance
from ltx2_core.sampling.samplers import SAMPLERS
from ltx2_core.transformer.tiles import Tiles

DTYPES = [torch.float32, pytest.param(torch.bfloat16, marks=pytest.mark.slow)]
GUIDED = StreamGuidance(cfg=3, stg=1, modality=3, rescale=0.7, cfg_star=True)
FULL = Guidance(video=GUIDED, audio=GUIDED, stg_blocks=(1,))
IMAGE = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
AUDIO = (torch.sin(torch.arange(24000) / 20).repeat(2, 1) * 0.2, 24000)


def weighted() -> Guide:
    """A guide with a weight for each token, that a user has made on the CPU."""
    return Guide(strength=0.7, attention=torch.linspace(0.2, 1, 4).view(1, 2, 2))


REQUESTS: dict[str, Callable[[], dict[str, Any]]] = {
    "text to video": dict,
    "image to video": lambda: {"image": IMAGE, "image_crf": 0},
    "full guidance": lambda: {"guidance": FULL},
    "guide": lambda: {"conditioning": [Guide()]},
    "weak guide": lambda: {"conditioning": [Guide(attention=0.5)]},
    "guide weighted per token": lambda: {"conditioning": [weighted()]},
    "audio to video": lambda: {"audio": AUDIO},
    "reference audio": lambda: {"reference_audio": AUDIO, "reference_s": 0.3},
    "identity guidance": lambda: {"reference_audio": AUDIO, "reference_s": 0.3, "identity": 2.0},
    "NAG": lambda: {"nag": Nag(), "cfg": 1.0},
    "tiles": lambda: {"tiles": Tiles(columns=2, overlap=1), "width": 128},
    "tiles of image and guide": lambda: {
        "tiles": Tiles(columns=2, overlap=1),
        "width": 128,
        "image": IMAGE,
        "image_crf": 0,
        "guidance": FULL,
        "conditioning": [Guide(attention=0.5)],
    },
    "tiles, prompts by time": lambda: {
        "tiles": Tiles(columns=2, overlap=1),
        "width": 128,
        "prompts_at": "0.2: a blue square",
    },
    "prompts by time": lambda: {"prompts_at": "0.2: a blue square"},
    "two stages": lambda: {"stages": 2, "width": 128, "height": 128, "image": IMAGE, "image_crf": 0},
    "video alone": lambda: {"guidance": Guidance(video=StreamGuidance(cfg=3))},
    **{f"sampler {name}": lambda name=name: {"sampler": name} for name in SAMPLERS if name != "euler"},
}


@pytest.fixture(scope="module", params=DTYPES)
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param


@pytest.fixture(scope="module")
def device() -> Iterator[Any]:
    with pretend() as device:
        yield device
    _choice.cache_clear()


@pytest.fixture(scope="module")
def pipeline(device: Any, tiny_set: Any, dtype: torch.dtype) -> LTX2Pipeline:
    return pipeline_on_device(tiny_set, dtype, keep_loaded=True)


@pytest.mark.parametrize("name", REQUESTS)
def test_steps_wait_for_nothing(pipeline, device, name):
    sampled = sample(pipeline, device, **REQUESTS[name]())
    assert sampled.clip.latents.video.is_cuda
    assert sampled.waits
    assert sum(sampled.waits, start=type(sampled.waits[0])()) == {}


@pytest.mark.parametrize("kind", ["timestep", "first_block"])
def test_a_cache_reads_one_value_a_step(pipeline, device, kind):
    sampled = sample(pipeline, device, cache=StepCache(kind=kind, threshold=0.3))
    assert [waits.total() for waits in sampled.waits] == [1, 1]
