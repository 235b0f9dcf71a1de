"""Parts of the semantic table on autoencoders, the second stage and the LoRAs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from semantic_bench import Bench, Missing
from semantic_figures import Figure, agreements, mean, percent, score

from ltx2_core import LTX2Pipeline
from ltx2_core.conditioning.guide_frames import GuideFrames
from ltx2_core.training.data import psnr
from ltx2_core.training.world import (
    FPS,
    edge_frames,
    edge_iou,
    edge_map,
    edge_sharpness,
    event_f1,
    measure,
    measure_audio,
    semitones,
)
from ltx2_core.training.world.batches import AUDIO_RATE


def video_autoencoder(bench: Bench) -> Iterator[Figure]:
    """PSNR of the reconstruction of held-out clips."""
    values = [float(psnr(bench.reconstruct(clip)[None], clip.frames[None])) for clip in bench.truths]
    yield Figure(part="video VAE", what="PSNR, mean", value=mean(values), least=28, unit="dB")


def audio_autoencoder(bench: Bench) -> Iterator[Figure]:
    """Onsets, pitch, kind of sound and panning after encoding, decoding and the vocoder."""
    scores, pitches, kinds, pans = [], [], [], []
    for clip in [*bench.truths, *bench.bounces]:
        latent = bench.pipeline.encode_audio(clip.waveform, AUDIO_RATE, latent_frames=len(clip.frames))
        measured = measure_audio(*bench.decode_audio(latent), len(clip.frames), FPS)
        truth = measure_audio(clip.waveform, AUDIO_RATE, len(clip.frames), FPS)
        seconds = len(clip.frames) / FPS
        if truth.sound == "knock":
            scores.append(
                event_f1(measured.onsets_s, truth.onsets_s, tolerance_s=0.04, seconds=seconds, margin_s=0.05)
            )
        kinds.append(measured.sound == truth.sound)
        if truth.sound != "silence":
            pitches.append(semitones(measured.pitch_hz, truth.pitch_hz) <= 1)
        if truth.sound == "glide":
            pans.append(float((measured.pan - truth.pan).abs().mean()))
    yield Figure(part="audio VAE, vocoder", what="onset F1 in 40 ms", value=percent(scores), least=90)
    yield Figure(part="audio VAE, vocoder", what="pitch within a semitone", value=percent(pitches), least=90)
    yield Figure(part="audio VAE, vocoder", what="knock, glide, swell or silence right", value=percent(kinds))
    yield Figure(
        part="audio VAE, vocoder",
        what="a gliding tone's place from left to right, mean error",
        value=50 * mean(pans),
    )


def two_stages(bench: Bench) -> Iterator[Figure]:
    """Two stages over one, at the size of the table and at twice that, which is beyond the training."""
    if bench.files.upscaler is None:
        raise Missing("upscaler")
    loras = () if bench.files.distilled is None else ((bench.files.distilled, 1.0),)
    pipeline = LTX2Pipeline(
        *bench.files.checkpoints,
        text_encoder=bench.files.text_encoder,
        upscaler=bench.files.upscaler,
        stage2_loras=loras,
        video_decoder=bench.files.video_decoder,
        keep_loaded=True,
    )
    settings = replace(bench.settings, clips=max(1, bench.settings.clips // 4))
    for factor in (2, 1):
        size = {"width": factor * settings.width, "height": factor * settings.height}
        larger = Bench(bench.files, replace(settings, **size), pipeline)
        one, two = (
            [larger.frames_and_audio(c, i, stages=n) for i, c in enumerate(larger.truths)] for n in (1, 2)
        )
        at = f"{size['width']}x{size['height']}"
        sharp = [mean([edge_sharpness(frames) for frames, _, _ in clips]) for clips in (one, two)]
        yield Figure(
            part="two stages",
            what=f"edge sharpness over one stage, {at}",
            value=sharp[1] / max(sharp[0], 1e-6),
            least=1,
            unit="x",
        )
        right = [agreements([measure(*clip) for clip in clips], larger.truths) for clips in (one, two)]
        for word in ("colour", "kind"):
            yield Figure(
                part="two stages",
                what=f"{word} right, {at} (one stage in the column chance)",
                value=right[1][word],
                chance=right[0][word],
            )


def distilled(bench: Bench) -> Iterator[Figure]:
    """Score of the distilled LoRA, in one and in two stages, over that of the full model."""
    if bench.files.distilled is None:
        raise Missing("distilled LoRA")
    pipeline = bench.with_loras((bench.files.distilled, 1.0))
    full = score(bench.text_to_video, bench.truths)
    for stages in (1, 2) if bench.files.upscaler is not None else (1,):
        measured = [
            bench.generate(clip, index, pipeline, distilled=True, stages=stages)
            for index, clip in enumerate(bench.truths)
        ]
        steps = "8 steps" if stages == 1 else "8 + 3 steps"
        yield Figure(
            part="distilled LoRA",
            what=f"{steps}, cfg 1: score over the full model's",
            value=100 * score(measured, bench.truths) / max(full, 1e-6),
            least=85,
        )


def edges(bench: Bench) -> Iterator[Figure]:
    """IoU of generated edges with those of the control video, with and without the LoRA."""
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
