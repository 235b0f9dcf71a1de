"""Wherever memory runs out once, a run ends with the same clip; where it stays out, with one clear line."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch

from ltx2_core import LTX2Pipeline
from ltx2_core.out_of_memory import OutOfMemory

sys.path.insert(0, str(Path(__file__).parents[1]))

from memory_faults import OPERATIONS, Faults


def run_of(tiny_set):
    """A run through every network: text, image, audio in, two stages, upsampler, both decoders."""
    pipeline = LTX2Pipeline(
        tiny_set.checkpoint,
        text_encoder=tiny_set.text_encoder,
        upscaler=tiny_set.upsampler,
        device="cpu",
        dtype=torch.float32,
        keep_loaded=True,
    )
    generator = torch.Generator().manual_seed(0)
    image, voice = torch.rand(3, 64, 64, generator=generator), torch.rand(2, 24000, generator=generator) - 0.5

    def run(faults: Faults):
        pipeline.networks._features._held.clear()
        with faults:
            clip = pipeline(
                prompt="a ball",
                width=128,
                height=128,
                num_frames=17,
                # A second of audio would take the vocoder longer than all else takes.
                fps=50.0,
                steps=1,
                stages=2,
                seed=3,
                image=image,
                reference_audio=(voice, 24000),
            )
            frames, wave = list(clip.frames(as_bytes=True)), clip.audio()[0]
        return clip.latents.video, clip.latents.audio, torch.cat(frames), wave

    return run


@pytest.fixture(scope="module")
def run(tiny_set):
    return run_of(tiny_set)


@pytest.fixture(scope="module")
def free(run):
    faults = Faults()
    return run(faults), faults.calls


@pytest.mark.parametrize(
    ("operation", "times"), [*((name, 1) for name in sorted(OPERATIONS)), ("conv3d", 2), ("conv3d", 3)]
)
@pytest.mark.parametrize(
    "which",
    [("third", "last"), pytest.param(("first", "third", "two thirds", "last"), marks=pytest.mark.slow)],
    ids="-".join,
)
def test_memory_that_runs_out_changes_nothing(run, free, operation, times, which) -> None:
    """A second lack of memory in the video autoencoder makes its pieces smaller."""
    expected, calls = free
    count = calls[operation]
    if not count:
        pytest.skip("no network of the tiny set uses it")
    silent, lines = [], []
    calls_of = {"first": 0, "third": count // 3, "two thirds": 2 * count // 3, "last": count - 1}
    for number in sorted({calls_of[name] for name in which}):
        faults = Faults(operation, number, times=times)
        try:
            found = run(faults)
        except OutOfMemory as error:
            lines.append(str(error))
            continue
        assert faults.failed == times
        silent.append(number)
        for a, b in zip(found, expected, strict=True):
            assert torch.equal(a, b), f"{operation} {number} of {count}"
    assert all(re.fullmatch(r"memory ran out while .*", line) for line in lines), lines
    assert silent, "at least some of them are tried again"


@pytest.mark.parametrize(
    "operation", ["linear", "conv3d", "conv2d", "conv1d", "scaled_dot_product_attention"]
)
def test_memory_that_stays_out_is_one_clear_line(run, free, operation) -> None:
    count = free[1][operation]
    for number in (0, count // 2, count - 1):
        with pytest.raises(OutOfMemory, match=r"memory ran out while [a-z ]+: use a smaller"):
            run(Faults(operation, number, on=True))
