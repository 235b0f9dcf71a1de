"""Converts ComfyUI's values to the library's and back; only here do ranges or the order of axes change.

Letters: N frames, H W rows and columns, B batch, C channels, F latent frames, S samples, T audio latent
frames.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ..ltx2_core.audio.mel import resample, to_stereo
from ..ltx2_core.formats import AAC_RATES
from ..ltx2_core.media import compress_image, fit_image
from ..ltx2_core.shapes import (
    AUDIO_BINS,
    AUDIO_CHANNELS,
    AUDIO_DOWNSAMPLE,
    AUDIO_HOP_LENGTH,
    AUDIO_LATENTS_PER_SECOND,
    SPATIAL_SCALE,
    VIDEO_CHANNELS,
)
from .host.latents import Latent, check_shapes, concat_av, each_stream, to_av
from .host.values import Audio

BRIGHTEST = 1.2
"""Value of an SDR image that no resize exceeds: sharp filters overshoot white by less than a fifth."""

VIDEO_AUDIO_RATE = 48000
JOIN = (
    "connect the latent of LTX-2 Clip Plan or LTX-2 Empty AV Latent, or join the two with LTX-2 Concat AV "
    "Latent"
)


class Streams(NamedTuple):
    """A LATENT split into one LATENT for the video and one for the audio; an absent stream is None."""

    video: Latent | None
    audio: Latent | None

    def joined(self) -> Latent:
        """Join video and audio to one LATENT with nested samples; if one is None, return the other."""
        if self.video is None or self.audio is None:
            latent = self.video or self.audio
            assert latent is not None
            return latent
        return concat_av(self.video, self.audio)


def split(latent: Latent) -> Streams:
    """Split a LATENT into one for the video and one for the audio; one that is not there is None.

    Raises ValueError if the samples do not have the shape of latents of LTX-2.
    """
    samples = to_av(latent)
    if samples.video is not None and samples.audio is not None:
        check_shapes([samples.video.shape, samples.audio.shape])
    for name, stream in (("video", samples.video), ("audio", samples.audio)):
        if stream is not None and not _is_of_family(stream):
            raise ValueError(
                f"a latent of shape {tuple(stream.shape)} is no LTX-2 {name} latent, which is "
                f"(batch, {VIDEO_CHANNELS}, frames, rows, columns) for video and "
                f"(batch, {AUDIO_CHANNELS}, frames, {AUDIO_BINS}) for audio: {JOIN}"
            )
    parts = each_stream(latent)
    if len(parts) == 2:
        return Streams(*parts)
    return Streams(parts[0], None) if samples.video is not None else Streams(None, parts[0])


def _is_of_family(stream: Tensor) -> bool:
    """Whether a latent has the shape of LTX-2: video (B, 128, F, H, W) or audio (B, 8, T, 16)."""
    if stream.ndim == 5:
        return stream.shape[1] == VIDEO_CHANNELS
    return stream.ndim == 4 and (stream.shape[1], stream.shape[3]) == (AUDIO_CHANNELS, AUDIO_BINS)


def split_av(latent: Latent) -> tuple[Latent, Latent]:
    """Return the video LATENT and the audio LATENT of an audio-video LATENT.

    Raises ValueError that names what is missing if it does not hold both.
    """
    video, audio = split(latent)
    if video is None or audio is None:
        have, lack = ("audio", "video") if video is None else ("video", "audio")
        raise ValueError(f"this latent holds {have} only and its {lack} is missing: {JOIN}")
    return video, audio


def video_of(latent: Latent) -> Latent:
    """Return the video LATENT in a LATENT. Raises ValueError if it holds only audio."""
    video = split(latent).video
    if video is None:
        raise ValueError(f"this latent holds audio only and its video is missing: {JOIN}")
    return video


def audio_of(latent: Latent) -> Latent:
    """Return the audio LATENT in a LATENT. Raises ValueError if it holds only video."""
    audio = split(latent).audio
    if audio is None:
        raise ValueError(
            "this latent holds video only and its audio is missing: connect the audio-video latent from "
            f"before it was separated, or {JOIN}"
        )
    return audio


def frames_from_image(image: Tensor) -> Tensor:
    """Convert an IMAGE (frames, height, width, channels) in [0, 1] to frames (frames, 3, height, width).

    Values stay in [0, 1]. Transparency is dropped, and one grey channel is repeated for all colours. Raises
    ValueError for other than 1, 3 or 4 channels, and for light above white, which would be clipped.
    """
    if image.ndim != 4 or image.shape[-1] not in (1, 3, 4):
        raise ValueError(f"an image is (N, H, W, channels) with 1, 3 or 4 channels; got {tuple(image.shape)}")
    if image.numel() and float(image.max()) > BRIGHTEST:
        raise ValueError(
            f"these images have values up to {float(image.max()):.3g}: they are linear light (HDR), which "
            "would be clipped here. Connect the codes of LTX-2 Load EXR, or save them with LTX-2 Save HDR"
        )
    frames = rearrange(image, "n h w c -> n c h w")
    return frames.expand(-1, 3, -1, -1) if frames.shape[1] == 1 else frames[:, :3]


def image_from_frames(frames: Tensor) -> Tensor:
    """Convert frames (frames, 3, height, width) to an IMAGE (frames, height, width, 3).

    The range of values is not changed.
    """
    return rearrange(frames, "n c h w -> n h w c").contiguous()


def compress(image: Tensor, crf: int) -> Tensor:
    """Compress every frame of an IMAGE with H.264 at ``crf`` and decode it again; crf 0 changes nothing."""
    if crf == 0:
        return image
    return image_from_frames(torch.stack([compress_image(frame, crf) for frame in frames_from_image(image)]))


def image_at_stage(image: Tensor, video: Latent, crf: int) -> Tensor:
    """Crop and scale an IMAGE to the size in pixels to which a video LATENT is decoded, then compress it.

    ``crf`` is the H.264 compression, 0 is off.
    """
    rows, columns = (SPATIAL_SCALE * size for size in video["samples"].shape[3:])
    # Scaled first and compressed second, as graphs of ComfyUI do; the official pipelines compress first.
    fitted = fit_image(frames_from_image(image), columns, rows, mode="comfy")
    return compress(image_from_frames(fitted), crf)


def clip_audio(audio: Audio | None, start_s: float, latents: int) -> tuple[Tensor, int, float]:
    """Take AUDIO from second ``start_s`` on, as long as ``latents`` audio latent frames (25 a second).

    Returns (waveform (B, channels, samples), its rate in Hz, seconds of silence appended). Raises ValueError
    if ``audio`` is None, or if it ends before ``start_s``.
    """
    if audio is None:
        raise ValueError("there is no audio here: the file that it comes from has no audio track")
    waveform, rate = audio["waveform"], int(audio["sample_rate"])
    if waveform.ndim != 3 or 0 in waveform.shape:
        raise ValueError(f"audio is (batch, channels, samples) and not empty; got {tuple(waveform.shape)}")
    start = round(start_s * rate)
    if start >= waveform.shape[-1]:
        raise ValueError(
            f"the audio lasts {waveform.shape[-1] / rate:.2f} s and nothing is left from {start_s:g} s on: "
            "choose an earlier start"
        )
    # Rounded up, so that no latent lacks its last sample.
    samples = math.ceil(latents * rate / AUDIO_LATENTS_PER_SECOND)
    missing = samples - (waveform.shape[-1] - start)
    return F.pad(waveform[..., start:], (0, missing)), rate, max(0, missing) / rate


def encoder_audio(waveform: Tensor, rate: int, target: int, latents: int) -> Tensor:
    """Resample a waveform (B, channels, samples) from ``rate`` to ``target`` Hz, for an audio encoder.

    The result is stereo, (B, 2, samples), trimmed or padded with silence to the length from which the encoder
    makes ``latents`` audio latent frames.
    """
    stereo = resample(to_stereo(waveform), rate, target)
    # A centred spectrogram has one frame more than whole hops, so that one sample less gives exactly these
    # latents.
    samples = latents * AUDIO_DOWNSAMPLE * AUDIO_HOP_LENGTH - 1
    return F.pad(stereo, (0, samples - stereo.shape[-1]))


def audio_from_decoder(decoded: Tensor, rate: int) -> Audio:
    """Make an AUDIO at ``rate`` Hz from a waveform (B, samples, channels) of ComfyUI's audio VAE."""
    return {"waveform": rearrange(decoded, "b s c -> b c s"), "sample_rate": int(rate)}


def track_of(audio: Audio, index: int) -> tuple[Tensor, int]:
    """Take clip number ``index`` of an AUDIO batch for a video file.

    Returns (waveform (1 or 2 channels, samples), rate in Hz), resampled if AAC does not support the rate. An
    ``index`` past the end of the batch takes the last clip.
    """
    waveform, rate = audio["waveform"], int(audio["sample_rate"])
    # One audio may serve all clips of a batch. AAC of a video file gets stereo at most, as the model
    # generates.
    one = waveform[min(index, len(waveform) - 1)][:2]
    # Only other rates are resampled, so that usual audio reaches the file as it is.
    return (one, rate) if rate in AAC_RATES else (resample(one, rate, VIDEO_AUDIO_RATE), VIDEO_AUDIO_RATE)
