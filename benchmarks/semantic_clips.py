"""Parts of the semantic table on generated clips: by text, image, audio, video, inpainting, guidance."""

from __future__ import annotations

import math
from collections.abc import Iterator
from statistics import median

from semantic_bench import Bench
from semantic_figures import Figure, agreements, conditioned_events, frames_apart, percent, score

from ltx2_core.conditioning.items import InputVideo
from ltx2_core.run.image_checks import LEAST_SPEED, ImageChecks
from ltx2_core.training.data import psnr
from ltx2_core.training.tasks import time_region
from ltx2_core.training.world import (
    FPS,
    agreement,
    caption,
    contact_onset_distance,
    event_distance,
    measure,
    measure_audio,
    sample_scene,
)
from ltx2_core.training.world.batches import AUDIO_RATE, HELD_OUT
from ltx2_core.types import AVLatent


def text_to_video(bench: Bench) -> Iterator[Figure]:
    """Per cent of clips in which each word of the prompt is right."""
    rates = agreements(bench.text_to_video, bench.truths)
    chance = agreements(bench.text_to_video, [*bench.truths[1:], bench.truths[0]])
    for word, least in (("colour", 90), ("background", 90), ("motion", 85), ("kind", 80), ("sound", None)):
        yield Figure(
            part="text to video", what=f"{word} right", value=rates[word], chance=chance[word], least=least
        )


def audio_matches_video(bench: Bench) -> Iterator[Figure]:
    """Distance between contacts and knocks within a clip; chance is that to the knocks of another clip."""
    measured = bench.bouncing
    distances = [contact_onset_distance(m) for m in measured]
    others = [*measured[1:], *measured[:1]]
    shuffled = [
        event_distance(m.contacts_s, n.onsets_s) * FPS if m.contacts_s else math.inf
        for m, n in zip(measured, others, strict=True)
    ]
    yield frames_apart("audio and video", "contact to knock", distances, shuffled)


def image_to_video(bench: Bench) -> Iterator[Figure]:
    """How well the first frame is preserved, whether the clip moves, and whether as the prompt says."""
    losses, motions, moving = [], [], []
    for index, clip in enumerate(bench.truths):
        first = clip.frames[:1]
        frames, waveform, rate = bench.frames_and_audio(clip, index, image=(first[0] + 1) / 2, image_crf=0)
        preserved = float(psnr(frames[:1][None], first[None]))
        losses.append(float(psnr(bench.decode(bench.encode(first))[None], first[None])) - preserved)
        motions.append(agreement(measure(frames, waveform, rate), clip.truth).motion)
        if clip.scene.motion != "still":
            checks = ImageChecks(image=(first[0] + 1) / 2, strength=1.0, fps=FPS)
            checks.add(frames)
            moving.append(checks.speed >= LEAST_SPEED)
    yield Figure(
        part="image to video", what="first frame below the VAE's", value=median(losses), most=1, unit="dB"
    )
    yield Figure(
        part="image to video", what="motion as prompted", value=percent(motions), chance=20, least=80
    )
    yield Figure(part="image to video", what="moves by the motion check", value=percent(moving), least=90)


def audio_to_video(bench: Bench) -> Iterator[Figure]:
    """Distance of generated contacts to the knocks of the input audio."""
    measured = [
        bench.generate(clip, index, audio=(clip.waveform, AUDIO_RATE))
        for index, clip in enumerate(bench.bounces)
    ]
    yield conditioned_events(
        "audio to video", "contact to input knock", [m.contacts_s for m in measured], bench.bounces
    )


def video_to_audio(bench: Bench) -> Iterator[Figure]:
    """Distance of generated knocks to the contacts of the input video."""
    onsets = []
    for index, clip in enumerate(bench.bounces):
        latent = bench.sample(clip.caption, index, [InputVideo(latent=bench.encode(clip.frames))])
        assert latent.audio is not None
        onsets.append(measure_audio(*bench.decode_audio(latent.audio), len(clip.frames), FPS).onsets_s)
    yield conditioned_events("video to audio", "knock to input contact", onsets, bench.bounces)


def inpainting(bench: Bench) -> Iterator[Figure]:
    """Regenerate the second half by the prompt of a clip with the same motion and other colours."""
    losses, followed, unchanged = [], [], []
    half = (bench.settings.frames - 1) // 16 * 8 + 1
    for index, clip in enumerate(bench.truths):
        motion, seed = clip.scene.motion, HELD_OUT + bench.settings.clips + index
        other = sample_scene(seed, motion=motion, kind=clip.scene.actor.kind)
        video = bench.encode(clip.frames)
        audio = bench.pipeline.encode_audio(clip.waveform, AUDIO_RATE, latent_frames=len(clip.frames))
        source = AVLatent(video, audio)
        seconds = len(clip.frames) / FPS
        inpainted = bench.sample(
            caption(other, seed), index, latent=source, mask=time_region(source, FPS, half / FPS, seconds + 1)
        )
        assert inpainted.video is not None
        frames, decoded = bench.decode(inpainted.video), bench.decode(video)
        outside = slice(0, half)
        losses.append(
            float(psnr(decoded[outside][None], clip.frames[outside][None]))
            - float(psnr(frames[outside][None], clip.frames[outside][None]))
        )
        inside = measure(frames[half:], None)
        prompted = (other.background, other.actor.colour)
        followed.append(inside.background == prompted[0] and prompted[1] in inside.colours)
        before = measure(clip.frames[half:], None)
        unchanged.append(before.background == prompted[0] and prompted[1] in before.colours)
    yield Figure(part="inpainting", what="outside below the VAE's", value=median(losses), most=1, unit="dB")
    yield Figure(
        part="inpainting",
        what="both colours inside follow",
        value=percent(followed),
        chance=percent(unchanged),
        least=75,
    )


def guidance(bench: Bench) -> Iterator[Figure]:
    """How many words of the prompt are right only because of guidance."""
    plain = [bench.generate(clip, index, cfg=1.0) for index, clip in enumerate(bench.truths)]
    lost = score(bench.text_to_video, bench.truths) - score(plain, bench.truths)
    yield Figure(part="guidance", what="words right lost without it", value=lost)
    on, off = (agreements(clips, bench.truths) for clips in (bench.text_to_video, plain))
    for word, least in (("colour", 1), ("motion", None), ("kind", None), ("sound", None)):
        change = on[word] - off[word]
        yield Figure(part="guidance", what=f"{word} right lost without it", value=change, least=least)
