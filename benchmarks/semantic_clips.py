"""What a checkpoint makes of prompts, pictures and sounds: the parts of the table that need nothing else."""

from __future__ import annotations

import math
from collections.abc import Iterator
from statistics import median

from semantic_bench import Bench
from semantic_figures import Figure, agreements, frames_apart, given_events, percent, score

from ltx2_core.conditioning.items import InputVideo
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
    rates = agreements(bench.text_to_video, bench.truths)
    chance = agreements(bench.text_to_video, [*bench.truths[1:], bench.truths[0]])
    for word, least in (("colour", 90), ("background", 90), ("motion", 85), ("kind", 80), ("sound", None)):
        yield Figure(
            part="text to video", what=f"{word} right", value=rates[word], chance=chance[word], least=least
        )


def sound_belongs_to_picture(bench: Bench) -> Iterator[Figure]:
    made = bench.bouncing
    distances = [contact_onset_distance(m) for m in made]
    others = [*made[1:], *made[:1]]
    shuffled = [
        event_distance(m.contacts_s, n.onsets_s) * FPS if m.contacts_s else math.inf
        for m, n in zip(made, others, strict=True)
    ]
    yield frames_apart("sound and picture", "contact to knock", distances, shuffled)


def image_to_video(bench: Bench) -> Iterator[Figure]:
    losses, motions = [], []
    for index, clip in enumerate(bench.truths):
        first = clip.frames[:1]
        frames, sound, rate = bench.frames_and_sound(clip, index, image=(first[0] + 1) / 2, image_crf=0)
        kept = float(psnr(frames[:1][None], first[None]))
        losses.append(float(psnr(bench.decode(bench.encode(first))[None], first[None])) - kept)
        motions.append(agreement(measure(frames, sound, rate), clip.truth).motion)
    yield Figure(
        part="image to video", what="first frame below the VAE's", value=median(losses), most=1, unit="dB"
    )
    yield Figure(
        part="image to video", what="motion as prompted", value=percent(motions), chance=20, least=80
    )


def audio_to_video(bench: Bench) -> Iterator[Figure]:
    made = [
        bench.generate(clip, index, audio=(clip.waveform, AUDIO_RATE))
        for index, clip in enumerate(bench.bounces)
    ]
    yield given_events(
        "audio to video", "contact to given knock", [m.contacts_s for m in made], bench.bounces
    )


def video_to_audio(bench: Bench) -> Iterator[Figure]:
    onsets = []
    for index, clip in enumerate(bench.bounces):
        latent = bench.sample(clip.caption, index, [InputVideo(latent=bench.encode(clip.frames))])
        assert latent.audio is not None
        onsets.append(measure_audio(*bench.sound(latent.audio), len(clip.frames), FPS).onsets_s)
    yield given_events("video to audio", "knock to given contact", onsets, bench.bounces)


def inpainting(bench: Bench) -> Iterator[Figure]:
    """The second half anew, by the prompt of a clip with the same motion and other colours."""
    losses, followed, unchanged = [], [], []
    half = (bench.settings.frames - 1) // 16 * 8 + 1
    for index, clip in enumerate(bench.truths):
        motion, seed = clip.scene.motion, HELD_OUT + bench.settings.clips + index
        other = sample_scene(seed, motion=motion, kind=clip.scene.actor.kind)
        video = bench.encode(clip.frames)
        audio = bench.pipeline.encode_audio(clip.waveform, AUDIO_RATE, latent_frames=len(clip.frames))
        given = AVLatent(video, audio)
        seconds = len(clip.frames) / FPS
        made = bench.sample(
            caption(other, seed), index, latent=given, mask=time_region(given, FPS, half / FPS, seconds + 1)
        )
        assert made.video is not None
        frames, again = bench.decode(made.video), bench.decode(video)
        outside = slice(0, half)
        losses.append(
            float(psnr(again[outside][None], clip.frames[outside][None]))
            - float(psnr(frames[outside][None], clip.frames[outside][None]))
        )
        inside = measure(frames[half:], None)
        wanted = (other.background, other.actor.colour)
        followed.append(inside.background == wanted[0] and wanted[1] in inside.colours)
        before = measure(clip.frames[half:], None)
        unchanged.append(before.background == wanted[0] and wanted[1] in before.colours)
    yield Figure(part="inpainting", what="outside below the VAE's", value=median(losses), most=1, unit="dB")
    yield Figure(
        part="inpainting",
        what="both colours inside follow",
        value=percent(followed),
        chance=percent(unchanged),
        least=75,
    )


def guidance(bench: Bench) -> Iterator[Figure]:
    """Words of the prompt that come true because of it; a colour alone may need none."""
    plain = [bench.generate(clip, index, cfg=1.0) for index, clip in enumerate(bench.truths)]
    lost = score(bench.text_to_video, bench.truths) - score(plain, bench.truths)
    yield Figure(part="guidance", what="words right lost without it", value=lost)
    on, off = (agreements(made, bench.truths) for made in (bench.text_to_video, plain))
    for word, least in (("colour", 1), ("motion", None), ("kind", None), ("sound", None)):
        change = on[word] - off[word]
        yield Figure(part="guidance", what=f"{word} right lost without it", value=change, least=least)
