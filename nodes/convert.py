"""Between the host's values and the library's: the one place where a range or an axis order changes.

Letters: N pictures, H W rows and columns, B batch, C channels, F latent frames, S samples, T audio latents.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ..ltx2_core.audio.mel import resample, to_stereo
from ..ltx2_core.media import compress_image, fit_image
from ..ltx2_core.media.writer import AAC_RATES
from ..ltx2_core.shapes import (
    AUDIO_BINS,
    AUDIO_CHANNELS,
    AUDIO_DOWNSAMPLE,
    AUDIO_HOP_LENGTH,
    AUDIO_LATENTS_PER_SECOND,
    SPATIAL_SCALE,
    VIDEO_CHANNELS,
)
from .host.latents import Latent, concat_av, separate_av, to_av

VIDEO_AUDIO_RATE = 48000
JOIN = (
    "connect the latent of LTX-2 Clip Plan or LTX-2 Empty AV Latent, "
    "or join the two with LTX-2 Concat AV Latent"
)


class Streams(NamedTuple):
    """The video and the audio of a LATENT as LATENTs of their own; None is an absent one."""

    video: Latent | None
    audio: Latent | None

    def joined(self) -> Latent:
        """One LATENT again, nested if both streams are there."""
        if self.video is None or self.audio is None:
            latent = self.video or self.audio
            assert latent is not None
            return latent
        return concat_av(self.video, self.audio)


def split(latent: Latent) -> Streams:
    """The streams of any LATENT of this family. Raises ValueError for a latent of another model."""
    samples = to_av(latent)
    for name, stream, fits in (
        ("video", samples.video, lambda x: x.ndim == 5 and x.shape[1] == VIDEO_CHANNELS),
        (
            "audio",
            samples.audio,
            lambda x: x.ndim == 4 and (x.shape[1], x.shape[3]) == (AUDIO_CHANNELS, AUDIO_BINS),
        ),
    ):
        if stream is not None and not fits(stream):
            raise ValueError(
                f"a latent of shape {tuple(stream.shape)} is no LTX-2 {name} latent, which is "
                f"(batch, {VIDEO_CHANNELS}, frames, rows, columns) for video and "
                f"(batch, {AUDIO_CHANNELS}, frames, {AUDIO_BINS}) for audio: {JOIN}"
            )
    if samples.video is not None and samples.audio is not None:
        return Streams(*separate_av(latent))
    return Streams(latent, None) if samples.video is not None else Streams(None, latent)


def split_av(latent: Latent) -> tuple[Latent, Latent]:
    """Video and audio of an AV LATENT. Raises ValueError that says which of the two is missing."""
    video, audio = split(latent)
    if video is None or audio is None:
        have, lack = ("audio", "video") if video is None else ("video", "audio")
        raise ValueError(f"this latent holds {have} only and its {lack} is missing: {JOIN}")
    return video, audio


def video_of(latent: Latent) -> Latent:
    """The video of a LATENT. Raises ValueError if it holds only audio."""
    video = split(latent).video
    if video is None:
        raise ValueError(f"this latent holds audio only and its video is missing: {JOIN}")
    return video


def audio_of(latent: Latent) -> Latent:
    """The audio of a LATENT. Raises ValueError if it holds only video."""
    audio = split(latent).audio
    if audio is None:
        raise ValueError(
            "this latent holds video only and its audio is missing: connect the audio-video latent from "
            f"before it was separated, or {JOIN}"
        )
    return audio


def frames_from_image(image: Tensor) -> Tensor:
    """IMAGE (N, H, W, C) in [0, 1] -> (N, 3, H, W) in [0, 1]; transparency is dropped, grey repeated."""
    if image.ndim != 4 or image.shape[-1] not in (1, 3, 4):
        raise ValueError(f"an image is (N, H, W, channels) with 1, 3 or 4 channels; got {tuple(image.shape)}")
    frames = rearrange(image, "n h w c -> n c h w")
    return frames.expand(-1, 3, -1, -1) if frames.shape[1] == 1 else frames[:, :3]


def image_from_frames(frames: Tensor) -> Tensor:
    """(N, 3, H, W) -> IMAGE (N, H, W, 3); the range stays."""
    return rearrange(frames, "n c h w -> n h w c").contiguous()


def compress(image: Tensor, crf: int) -> Tensor:
    """Every picture of an IMAGE through H.264 at ``crf``; 0 leaves it as it is."""
    if crf == 0:
        return image
    return image_from_frames(torch.stack([compress_image(frame, crf) for frame in frames_from_image(image)]))


def image_at_stage(image: Tensor, video: Latent, crf: int) -> Tensor:
    """An IMAGE cut and scaled to the size that a video LATENT decodes to, then compressed; (N, H, W, 3)."""
    rows, columns = (SPATIAL_SCALE * size for size in video["samples"].shape[3:])
    fitted = fit_image(frames_from_image(image), columns, rows, mode="comfy")
    return compress(image_from_frames(fitted), crf)


def clip_audio(audio: dict[str, Any] | None, start_s: float, latents: int) -> tuple[Tensor, int, float]:
    """AUDIO from ``start_s`` on, exactly as long as ``latents`` audio latents.

    Returns (waveform (B, C, S), its rate, seconds of silence added at the end). Raises ValueError if there
    is no sound, or none left from ``start_s`` on.
    """
    if audio is None:
        raise ValueError("there is no sound here: the file that it comes from has no audio track")
    waveform, rate = audio["waveform"], int(audio["sample_rate"])
    if waveform.ndim != 3 or 0 in waveform.shape:
        raise ValueError(f"a sound is (batch, channels, samples) and not empty; got {tuple(waveform.shape)}")
    start = round(start_s * rate)
    if start >= waveform.shape[-1]:
        raise ValueError(
            f"the sound lasts {waveform.shape[-1] / rate:.2f} s and nothing is left from {start_s:g} s on: "
            "choose an earlier start"
        )
    wanted = math.ceil(latents * rate / AUDIO_LATENTS_PER_SECOND)
    missing = wanted - (waveform.shape[-1] - start)
    return F.pad(waveform[..., start:], (0, missing)), rate, max(0, missing) / rate


def encoder_audio(waveform: Tensor, rate: int, target: int, latents: int) -> Tensor:
    """Sound as an audio VAE of the host takes it: (B, S, 2) at ``target`` Hz, ``latents`` latents long."""
    sound = resample(to_stereo(waveform), rate, target)
    samples = latents * AUDIO_DOWNSAMPLE * AUDIO_HOP_LENGTH - 1
    return rearrange(F.pad(sound, (0, samples - sound.shape[-1])), "b c s -> b s c")


def audio_from_decoder(decoded: Tensor, rate: int) -> dict[str, Any]:
    """What an audio VAE of the host decodes to, (B, S, C) -> AUDIO."""
    return {"waveform": rearrange(decoded, "b s c -> b c s"), "sample_rate": int(rate)}


def track_of(audio: dict[str, Any], index: int) -> tuple[Tensor, int]:
    """One sound of an AUDIO as a video file takes it: ((1 or 2, S), a rate that AAC has)."""
    waveform, rate = audio["waveform"], int(audio["sample_rate"])
    one = waveform[min(index, len(waveform) - 1)][:2]
    return (one, rate) if rate in AAC_RATES else (resample(one, rate, VIDEO_AUDIO_RATE), VIDEO_AUDIO_RATE)
