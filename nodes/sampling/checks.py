"""Checks before sampling for wrongly connected nodes, which would else be seen only in the finished clip."""

from __future__ import annotations

from typing import Any

from ...ltx2_core.shapes import AUDIO_LATENTS_PER_SECOND, audio_latents_of, frames_of
from ...ltx2_core.types import Numerics
from ..conditioning.attached import guides_marked
from ..convert import split
from ..host.latents import Latent
from ..host.network import HostTransformer
from ..host.prompt_parts import has_parts
from ..host.values import Conditioning, Model

CROP = "crop guide frames with LTX-2 Crop Guides right after the sampler, and continue with its conditioning"

ROUNDING = 3
"""Audio latents that may be missing: ComfyUI's encoding crops up to 93 ms, and lengths are rounded."""


def check_stage(positive: Conditioning, latent: Latent) -> None:
    """Raise ValueError if ``positive``, the prompt's CONDITIONING, and the LATENT do not belong together.

    The LATENT must have video, and the guide frames that the CONDITIONING describes. The audio must not be
    shorter than the video without its guides, at the frame rate of the CONDITIONING.
    """
    video, audio = split(latent)
    if video is None:
        raise ValueError(
            "this latent holds audio only: join it with a video latent (LTX-2 Concat AV Latent), or use the "
            "latent of LTX-2 Clip Plan"
        )
    frames, rows, columns = video["samples"].shape[2:]
    guides = _value(positive, "keyframe_idxs")
    guide_tokens, cells = (0 if guides is None else guides.shape[2]), rows * columns
    if guide_tokens % cells or guide_tokens >= frames * cells:
        raise ValueError(
            f"the conditioning describes {guide_tokens} guide tokens, which do not fit a latent of {frames} "
            f"frames of {rows} x {columns}: it is from another stage; {CROP}"
        )
    # Guide frames of other packs have no mark, so that only a mark that contradicts the conditioning is an
    # error.
    marked = guides_marked(latent)
    if marked is not None and marked * cells != guide_tokens:
        raise ValueError(
            f"this latent holds {marked} guide frames and the conditioning describes "
            f"{guide_tokens // cells}: connect positive, negative and latent of the last LTX-2 Add Guide "
            "together to the sampler, and after LTX-2 Crop Guides its three outputs"
        )
    fps = _value(positive, "frame_rate")
    # Core's 2.3 templates compute frames as seconds * fps + 1, so that audio and video often differ in
    # length.
    if audio is not None and fps:
        # Guide frames are no part of the time that the audio has to fill.
        check_audio(frames - guide_tokens // cells, audio["samples"].shape[2], fps)


def check_prompts(model: Model, positive: Conditioning) -> None:
    """Raise ValueError if ``positive`` has prompts by time and ``model`` has ComfyUI's own network."""
    if has_parts(positive) and not isinstance(model.model.diffusion_model, HostTransformer):
        raise ValueError(
            "LTX-2 Prompt By Time needs the network LTX-2, and ComfyUI's would ignore the parts: set network "
            "to LTX-2 in LTX-2 Load All or LTX-2 Load Checkpoint, or use LTX-2 Prompt"
        )


def check_audio(latent_frames: int, audio_latents: int, fps: float) -> None:
    """Raise ValueError if the audio ends before the video, by more than 3 audio latent frames.

    ``latent_frames`` is the length of the video, ``audio_latents`` that of the audio in audio latent frames,
    and ``fps`` the frame rate of the video.
    """
    frames = frames_of(latent_frames)
    if audio_latents < audio_latents_of(frames, fps, Numerics.COMFY) - ROUNDING:
        raise ValueError(
            f"the audio lasts {audio_latents / AUDIO_LATENTS_PER_SECOND:.2f} s and the video "
            f"{frames / fps:.2f} s ({frames} frames at {fps:g} fps): use one LTX-2 Clip Plan for latent, "
            "prompt and decoding, or for an encoded clip connect fps of Get Video Components wherever fps is "
            f"asked for. If the video still has guide frames: {CROP}"
        )


def _value(conditioning: Conditioning, key: str) -> Any:
    """The first value of ``key`` among the entries of a CONDITIONING; None if no entry has it."""
    return next((entry[1][key] for entry in conditioning if entry[1].get(key) is not None), None)
