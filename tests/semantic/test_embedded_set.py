"""The embedded set shows what it is asked for: a few clips by default, the table with ``-m semantic``."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ltx2_core import LTX2Pipeline
from ltx2_core.conditioning.masks import mask_like
from ltx2_core.loading import Component
from ltx2_core.sampling.denoiser import Denoiser
from ltx2_core.sampling.noise import make_noise
from ltx2_core.training.data import HELD_OUT, psnr
from ltx2_core.training.latents import AUDIO_RATE
from ltx2_core.training.world import FPS, Clip, clip_of, event_f1, listen, measure, sample_scene
from ltx2_core.types import AVLatent, LatentState

ROOT = Path(__file__).resolve().parents[2]
SIDE, FRAMES = 128, 25


@pytest.fixture(scope="module")
def pipeline() -> LTX2Pipeline:
    return LTX2Pipeline.embedded(device="cpu", dtype=torch.float32, keep_loaded=True)


def held_out(index: int, **wanted: Any) -> Clip:
    return clip_of(sample_scene(HELD_OUT + index, **wanted), FRAMES, SIDE, SIDE, AUDIO_RATE)


def test_colours_are_those_of_the_prompt(pipeline: LTX2Pipeline) -> None:
    asked = (("red", "blue"), ("green", "magenta"), ("white", "green"), ("cyan", "red"))
    right = []
    for seed, (colour, background) in enumerate(asked):
        clip = pipeline(
            f"a {colour} circle stands still on a {background} background, silence",
            width=SIDE,
            height=SIDE,
            num_frames=FRAMES,
            fps=FPS,
            steps=12,
            seed=seed,
        )
        seen = measure(torch.cat(list(clip.frames())), None)
        right += [seen.background == background, colour in seen.colours]
    assert sum(right) >= len(right) - 1, right


def test_scenes_that_training_never_saw_come_back_from_the_video_autoencoder(pipeline: LTX2Pipeline) -> None:
    values = []
    for index in range(4):
        frames = held_out(index).frames
        again = torch.cat(list(pipeline.decode_video(pipeline.encode_video((frames + 1) / 2))))
        values.append(float(psnr(again[None], frames[None])))
    assert sum(values) / len(values) > 22, values


def test_knocks_come_back_from_the_audio_autoencoder_where_they_were(pipeline: LTX2Pipeline) -> None:
    for index in range(3):
        clip = held_out(index, motion="bounce")
        latent = pipeline.encode_audio(clip.waveform, AUDIO_RATE, latent_frames=FRAMES)
        heard = listen(*pipeline.decode_audio(latent), FRAMES, FPS)
        assert heard.sound == "knock"
        found = event_f1(
            heard.onsets_s, clip.truth.contacts_s, tolerance_s=0.04, seconds=FRAMES / FPS, margin_s=0.05
        )
        assert found > 0.8


def test_gliding_tones_come_back_as_loud_and_from_the_same_side(pipeline: LTX2Pipeline) -> None:
    for index, motion in enumerate(("slide_left", "slide_right", "slide_left", "slide_right")):
        clip = held_out(index, motion=motion)
        latent = pipeline.encode_audio(clip.waveform, AUDIO_RATE, latent_frames=FRAMES)
        truth = listen(clip.waveform, AUDIO_RATE, FRAMES, FPS)
        heard = listen(*pipeline.decode_audio(latent), FRAMES, FPS)
        assert heard.sound == "glide"
        inner = slice(1, -1)
        assert (heard.loudness / truth.loudness)[inner].mean() == pytest.approx(1, abs=0.2)
        assert (heard.pan - truth.pan)[inner].abs().mean() < 0.2


@pytest.mark.parametrize("given", ["video", "audio"])
def test_what_is_given_in_one_stream_tells_the_other(pipeline: LTX2Pipeline, given: str) -> None:
    """Of bounces that one caption describes, the noisy stream is nearest to what belongs to the given one."""
    noise_level, count = 0.9, 8
    red = {"motion": "bounce", "kind": "circle", "colour": "red", "background": "blue", "company": False}
    clips = [held_out(index, **red) for index in range(count)]
    video = torch.cat([pipeline.encode_video((clip.frames + 1) / 2) for clip in clips])
    audio = torch.cat(
        [pipeline.encode_audio(clip.waveform, AUDIO_RATE, latent_frames=FRAMES) for clip in clips]
    )
    clean = AVLatent(video, audio)
    prompt = pipeline.encode_text("a red circle bounces on a blue background, a knock at each bounce", "")[0]
    noise = make_noise(clean, 0)

    def errors(shift: int) -> float:
        """Of the stream that is not given, with the given one of the clip ``shift`` further on."""
        other = clean.map(lambda x: x.roll(shift, 0))
        latent, mask = clean, mask_like(clean)
        latent = replace(latent, **{given: getattr(other, given)})
        mask = replace(mask, **{given: torch.zeros_like(getattr(mask, given))})
        state = LatentState(latent=latent, mask=mask, fps=FPS)
        x = latent.zip(noise, lambda a, b: torch.lerp(a, b, noise_level))
        x = replace(x, **{given: getattr(latent, given)})
        with pipeline.networks.use(Component.TRANSFORMER) as transformer:
            x0 = Denoiser(transformer, state, prompt)(x, noise_level)
        made = "audio" if given == "video" else "video"
        return float((getattr(x0, made) - getattr(clean, made)).square().mean())

    assert errors(0) < 0.9 * min(errors(1), errors(3))


@pytest.mark.semantic
def test_the_table_holds(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    parts = ["text-to-video", "sync", "image-to-video", "inpainting", "distilled", "edges"]
    command = [sys.executable, str(ROOT / "benchmarks" / "semantics.py"), "--clips", "16"]
    subprocess.run([*command, "--json", str(path), "--only", *parts], check=True, cwd=ROOT)
    figures = {(f["part"], f["what"]): f["value"] for f in json.loads(path.read_text())["figures"]}
    assert figures["text to video", "background right"] >= 90
    assert figures["text to video", "colour right"] >= 90
    assert figures["image to video", "motion as prompted"] >= 40
    assert figures["sound and picture", "contact to knock, median"] <= 2
    assert figures["edge IC-LoRA", "over no LoRA"] >= 1.5
    assert figures["inpainting", "both colours inside follow"] >= 75
    assert figures["distilled LoRA", "8 steps, cfg 1: score over the full model's"] >= 80
