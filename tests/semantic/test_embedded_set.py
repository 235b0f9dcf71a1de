"""The embedded set follows its prompts: a few clips by default, the whole table with ``-m semantic``."""

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
from ltx2_core.training.data import psnr
from ltx2_core.training.world import FPS, Clip, event_f1, measure, measure_audio, render_clip, sample_scene
from ltx2_core.training.world.batches import AUDIO_RATE, HELD_OUT
from ltx2_core.types import AVLatent, LatentState

ROOT = Path(__file__).resolve().parents[2]
SIDE, FRAMES = 128, 25


@pytest.fixture(scope="module")
def pipeline() -> LTX2Pipeline:
    return LTX2Pipeline.embedded(device="cpu", dtype=torch.float32, keep_loaded=True)


def held_out(index: int, **parts: Any) -> Clip:
    return render_clip(sample_scene(HELD_OUT + index, **parts), FRAMES, SIDE, SIDE, AUDIO_RATE)


def test_colours_are_those_of_the_prompt(pipeline: LTX2Pipeline) -> None:
    prompts = (("red", "blue"), ("green", "magenta"), ("white", "green"), ("cyan", "red"))
    right = []
    for seed, (colour, background) in enumerate(prompts):
        clip = pipeline(
            f"a {colour} circle stands still on a {background} background, silence",
            width=SIDE,
            height=SIDE,
            num_frames=FRAMES,
            fps=FPS,
            steps=12,
            seed=seed,
        )
        measured = measure(torch.cat(list(clip.frames())), None)
        right += [measured.background == background, colour in measured.colours]
    assert sum(right) >= len(right) - 1, right


def test_the_video_autoencoder_reconstructs_held_out_scenes(pipeline: LTX2Pipeline) -> None:
    values = []
    for index in range(4):
        frames = held_out(index).frames
        decoded = torch.cat(list(pipeline.decode_video(pipeline.encode_video((frames + 1) / 2))))
        values.append(float(psnr(decoded[None], frames[None])))
    assert sum(values) / len(values) > 22, values


def test_the_audio_autoencoder_preserves_the_times_of_knocks(pipeline: LTX2Pipeline) -> None:
    for index in range(3):
        clip = held_out(index, motion="bounce")
        latent = pipeline.encode_audio(clip.waveform, AUDIO_RATE, latent_frames=FRAMES)
        measured = measure_audio(*pipeline.decode_audio(latent), FRAMES, FPS)
        assert measured.sound == "knock"
        found = event_f1(
            measured.onsets_s, clip.truth.contacts_s, tolerance_s=0.04, seconds=FRAMES / FPS, margin_s=0.05
        )
        assert found > 0.8


def test_the_audio_autoencoder_preserves_loudness_and_panning_of_gliding_tones(
    pipeline: LTX2Pipeline,
) -> None:
    for index, motion in enumerate(("slide_left", "slide_right", "slide_left", "slide_right")):
        clip = held_out(index, motion=motion)
        latent = pipeline.encode_audio(clip.waveform, AUDIO_RATE, latent_frames=FRAMES)
        truth = measure_audio(clip.waveform, AUDIO_RATE, FRAMES, FPS)
        measured = measure_audio(*pipeline.decode_audio(latent), FRAMES, FPS)
        assert measured.sound == "glide"
        inner = slice(1, -1)
        assert (measured.loudness / truth.loudness)[inner].mean() == pytest.approx(1, abs=0.2)
        assert (measured.pan - truth.pan)[inner].abs().mean() < 0.2


@pytest.mark.parametrize("clean_stream", ["video", "audio"])
def test_a_clean_stream_determines_the_noisy_one(pipeline: LTX2Pipeline, clean_stream: str) -> None:
    """Of bounces with one caption, the prediction is nearest to the clip whose other stream is clean."""
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
        """Error of the noisy stream if the clean one is that of the clip ``shift`` further on."""
        other = clean.map(lambda x: x.roll(shift, 0))
        latent, mask = clean, mask_like(clean)
        latent = replace(latent, **{clean_stream: getattr(other, clean_stream)})
        mask = replace(mask, **{clean_stream: torch.zeros_like(getattr(mask, clean_stream))})
        state = LatentState(latent=latent, mask=mask, fps=FPS)
        x = latent.zip(noise, lambda a, b: torch.lerp(a, b, noise_level))
        x = replace(x, **{clean_stream: getattr(latent, clean_stream)})
        with pipeline.networks.use(Component.TRANSFORMER) as transformer:
            x0 = Denoiser(transformer, state, prompt)(x, noise_level)
        noisy = "audio" if clean_stream == "video" else "video"
        return float((getattr(x0, noisy) - getattr(clean, noisy)).square().mean())

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
    assert figures["audio and video", "contact to knock, median"] <= 2
    assert figures["edge IC-LoRA", "over no LoRA"] >= 1.5
    assert figures["inpainting", "both colours inside follow"] >= 75
    assert figures["distilled LoRA", "8 steps, cfg 1: score over the full model's"] >= 80
