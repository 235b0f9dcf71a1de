"""What a clip is does not depend on what ran before it, nor on what its prompt is encoded next to."""

from __future__ import annotations

import pytest
import torch

from ltx2_core import LTX2Pipeline

SMALL = {
    "width": 64,
    "height": 64,
    "num_frames": 9,
    "fps": 8.0,
    "steps": 2,
    "seed": 3,
    "negative_prompt": "blur",
}
RUNS = {
    "short prompt": {"prompt": "a ball"},
    "long prompt": {"prompt": "a blue square moves slowly to the right, with a knock at the end"},
    "other negative": {"prompt": "a ball", "negative_prompt": "a very long list of what is not wanted here"},
    "negative as prompt": {"prompt": "blur"},
    "no negative": {"prompt": "a ball", "cfg": 1.0},
}


@pytest.fixture
def pipeline(tiny_set):
    def made(dtype: torch.dtype) -> LTX2Pipeline:
        return LTX2Pipeline(
            tiny_set.checkpoint,
            text_encoder=tiny_set.text_encoder,
            device="cpu",
            dtype=dtype,
            keep_loaded=True,
        )

    return made


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_latents_are_the_same_alone_and_after_any_other_run(pipeline, dtype) -> None:
    def sampled(pipe: LTX2Pipeline, name: str):
        return pipe(**{**SMALL, **RUNS[name]}).latents

    alone = {name: sampled(pipeline(dtype), name) for name in RUNS}
    for order in (list(RUNS), list(reversed(RUNS))):
        warm = pipeline(dtype)
        for name in order:
            latents = sampled(warm, name)
            assert torch.equal(latents.video, alone[name].video), (order, name)
            assert torch.equal(latents.audio, alone[name].audio), (order, name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_context_of_a_prompt_does_not_depend_on_the_negative(pipeline, dtype) -> None:
    pipe = pipeline(dtype)
    alone = pipeline(dtype).encode_text("a ball")[0]
    for negative in ("", "blur", "a very long list of what is not wanted here, word by word by word"):
        beside = pipe.encode_text("a ball", negative)[0]
        assert torch.equal(beside.video, alone.video), negative
        assert torch.equal(beside.audio, alone.audio), negative
