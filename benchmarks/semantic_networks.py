"""The networks around the transformer, the second stage and the LoRAs: parts of the semantic table."""

from __future__ import annotations

from collections.abc import Iterator

from semantic_bench import Bench, Missing
from semantic_figures import Figure, mean, percent, score

from ltx2_core import LTX2Pipeline
from ltx2_core.conditioning.items import GuideFrames
from ltx2_core.training.data import psnr
from ltx2_core.training.latents import SOUND_RATE, edge_frames
from ltx2_core.training.world import (
    FPS,
    agreement,
    edge_iou,
    edge_map,
    edge_sharpness,
    event_f1,
    listen,
    measure,
    semitones,
)


def video_autoencoder(bench: Bench) -> Iterator[Figure]:
    values = [float(psnr(bench.reconstruct(clip)[None], clip.frames[None])) for clip in bench.truths]
    yield Figure(part="video VAE", what="PSNR, mean", value=mean(values), least=28, unit="dB")


def audio_autoencoder(bench: Bench) -> Iterator[Figure]:
    scores, pitches = [], []
    for clip in [*bench.truths, *bench.bounces]:
        latent = bench.pipeline.encode_audio(clip.waveform, SOUND_RATE, latent_frames=len(clip.frames))
        heard = listen(*bench.sound(latent), len(clip.frames), FPS)
        truth = listen(clip.waveform, SOUND_RATE, len(clip.frames), FPS)
        seconds = len(clip.frames) / FPS
        if truth.sound == "knock":
            scores.append(
                event_f1(heard.onsets_s, truth.onsets_s, tolerance_s=0.04, seconds=seconds, margin_s=0.05)
            )
        if truth.sound != "silence":
            pitches.append(semitones(heard.pitch_hz, truth.pitch_hz) <= 1)
    yield Figure(part="audio VAE, vocoder", what="onset F1 in 40 ms", value=percent(scores), least=90)
    yield Figure(part="audio VAE, vocoder", what="pitch within a semitone", value=percent(pitches), least=90)


def two_stages(bench: Bench) -> Iterator[Figure]:
    if bench.files.upscaler is None:
        raise Missing("upscaler")
    sharp: dict[int, list[float]] = {1: [], 2: []}
    colours: dict[int, list[bool]] = {1: [], 2: []}
    loras = () if bench.files.distilled is None else ((bench.files.distilled, 1.0),)
    pipeline = LTX2Pipeline(
        *bench.files.checkpoints,
        text_encoder=bench.files.text_encoder,
        upscaler=bench.files.upscaler,
        stage2_loras=loras,
        keep_loaded=True,
    )
    for index, clip in enumerate(bench.truths[: max(1, bench.settings.clips // 2)]):
        for stages in (1, 2):
            frames, sound, rate = bench.frames_and_sound(clip, index, pipeline, stages=stages)
            sharp[stages].append(edge_sharpness(frames))
            colours[stages].append(agreement(measure(frames, sound, rate), clip.truth).colour)
    one, two = (mean(sharp[stages]) for stages in (1, 2))
    yield Figure(
        part="two stages", what="edge sharpness over one stage", value=two / max(one, 1e-6), least=1, unit="x"
    )
    yield Figure(
        part="two stages",
        what="colour right (one stage in the column chance)",
        value=percent(colours[2]),
        chance=percent(colours[1]),
    )


def distilled(bench: Bench) -> Iterator[Figure]:
    if bench.files.distilled is None:
        raise Missing("distilled LoRA")
    pipeline = bench.with_loras((bench.files.distilled, 1.0))
    full = score(bench.text_to_video, bench.truths)
    for stages in (1, 2) if bench.files.upscaler is not None else (1,):
        made = [
            bench.generate(clip, index, pipeline, distilled=True, stages=stages)
            for index, clip in enumerate(bench.truths)
        ]
        steps = "8 steps" if stages == 1 else "8 + 3 steps"
        yield Figure(
            part="distilled LoRA",
            what=f"{steps}, cfg 1: score over the full model's",
            value=100 * score(made, bench.truths) / max(full, 1e-6),
            least=85,
        )


def edges(bench: Bench) -> Iterator[Figure]:
    if bench.files.edges is None:
        raise Missing("edge IC-LoRA")
    agreed: dict[bool, list[float]] = {True: [], False: []}
    for index, clip in enumerate(bench.truths[: max(1, bench.settings.clips // 2)]):
        guide = GuideFrames(latent=bench.encode(edge_frames(clip.frames)), frame=0)
        for used, values in agreed.items():
            loras = [(bench.files.edges, 1.0)] if used else []
            latent = bench.sample(clip.caption, index, [guide], loras=loras)
            assert latent.video is not None
            values.append(edge_iou(edge_map(bench.decode(latent.video)), edge_map(clip.frames)))
    without = mean(agreed[False])
    yield Figure(
        part="edge IC-LoRA", what="IoU of edges", value=100 * mean(agreed[True]), chance=100 * without
    )
    yield Figure(
        part="edge IC-LoRA",
        what="over no LoRA",
        value=mean(agreed[True]) / max(without, 1e-6),
        least=2,
        unit="x",
    )
