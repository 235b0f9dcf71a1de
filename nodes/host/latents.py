"""Converts ComfyUI's LATENT dicts to AVLatent and back.

The samples of an audio-video LATENT are ComfyUI's nested tensor, video first. Letters: B batch, C channels, F
latent frames, H W latent rows and columns, T audio latent frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from comfy.nested_tensor import NestedTensor

from ...ltx2_core.shapes import AUDIO_BINS, AUDIO_CHANNELS, VIDEO_CHANNELS
from ...ltx2_core.types import AVLatent
from .masks import masks_of, streams_of
from .values import Latent as Latent

ATTACHED, GUIDE_FRAMES = "ltx2av_given", "ltx2av_guide_frames"
"""Keys of a LATENT of this pack: what was inserted into its video, and the pair (guide frames at the end of
the video, all of its latent frames)."""

AUDIO_ONLY = "ltx2av_sound_alone"
"""Key of a LATENT of audio alone, whose video is a placeholder that the host's model requires."""


def concat_av(video: Latent, audio: Latent) -> Latent:
    """Join a video LATENT (B, C, F, H, W) and an audio LATENT (B, 8, T, 16) into one audio-video LATENT.

    If only one has a noise mask, the other gets a mask of ones. All other keys are copied; of the keys that
    both have, those about guides and inserted images are the video's, all others the audio's.
    """
    # A stale copy of these keys may be on the audio, if it was separated from another latent.
    of_video = {key: video[key] for key in (ATTACHED, GUIDE_FRAMES) if key in video}
    joined = {**video, **audio, **of_video, "samples": NestedTensor((video["samples"], audio["samples"]))}
    masks = video.get("noise_mask"), audio.get("noise_mask")
    # A mask of one stream alone would have the wrong structure for the nested samples.
    joined.pop("noise_mask", None)
    # The host unbinds mask and samples together, so both streams need a mask or neither.
    if any(mask is not None for mask in masks):
        joined["noise_mask"] = NestedTensor(
            torch.ones_like(latent["samples"]) if mask is None else mask
            for mask, latent in zip(masks, (video, audio), strict=True)
        )
    return joined


def each_stream(latent: Latent) -> list[Latent]:
    """Split a LATENT into a list of LATENTs, one for the video and one for the audio, as far as it has them.

    Each has its own noise mask, if there is one, and all other keys. Whatever form another node gave the
    mask, it then has the axes of its samples, each of full size or 1.
    """
    streams = streams_of(latent["samples"])
    rest = {key: value for key, value in latent.items() if key != "noise_mask"}
    return [
        {**rest, "samples": samples} if mask is None else {**rest, "samples": samples, "noise_mask": mask}
        for samples, mask in zip(streams, masks_of(latent.get("noise_mask"), streams), strict=True)
    ]


def to_av(latent: Latent) -> AVLatent:
    """The samples of a LATENT as video (B, C, F, H, W), audio (B, 8, T, 16), or both of a nested tensor.

    What the LATENT lacks is None. Raises ValueError for a tensor that has neither four nor five axes.
    """
    streams = streams_of(latent["samples"])
    if len(streams) == 2:
        return AVLatent(streams[0], streams[1])
    (stream,) = streams
    if stream.ndim not in (4, 5):
        raise ValueError(
            f"a latent must be video (B, C, F, H, W) or audio (B, 8, T, 16); got {tuple(stream.shape)}"
        )
    return AVLatent(stream, None) if stream.ndim == 5 else AVLatent(None, stream)


def from_av(av: AVLatent, like: Latent | None = None) -> Latent:
    """Make a LATENT whose samples are ``av``; all other keys are copied from ``like``, if it is not None."""
    streams = [x for x in (av.video, av.audio) if x is not None]
    samples = NestedTensor(streams) if len(streams) == 2 else streams[0]
    return {**(like or {}), "samples": samples}


def check_batch_index(latent: Latent) -> None:
    """Raise ValueError if ``batch_index`` of a LATENT has not one entry for each clip of its batch.

    ``batch_index`` is ComfyUI's key that selects the noise of each clip; a LATENT without it passes.
    """
    index, batch = latent.get("batch_index"), len(streams_of(latent["samples"])[0])
    if index is not None and len(index) != batch:
        raise ValueError(
            f"this latent holds {batch} clips and its batch_index has {len(index)} entries: a node between "
            "has changed the batch. Put Latent Batch Seed Behavior after the last node that does"
        )


def check_noise(noise: Any, samples: Any) -> None:
    """Raise ValueError if ``noise`` and ``samples`` differ in shape, as when the noise is of the video alone.

    Batch sizes may differ, since one noise may serve all clips.
    """
    of_noise, of_samples = ([tuple(one.shape) for one in streams_of(x)] for x in (noise, samples))
    # One noise may serve all clips of a batch.
    if [shape[1:] for shape in of_noise] != [shape[1:] for shape in of_samples]:
        raise ValueError(
            f"noise is of {_listed(of_noise)} and latent_image is of {_listed(of_samples)}: the node that "
            "makes the noise was given another latent. Connect Random Noise, which fits any latent"
        )


def check_shapes(shapes: Sequence[Sequence[int]], channels: int = VIDEO_CHANNELS) -> None:
    """Raise ValueError if ``shapes``, those of a latent that is to be sampled, are not those of LTX-2.

    Allowed are a video (B, ``channels``, F, H, W), alone or followed by an audio (B, 8, T, 16) of as many
    clips.
    """
    found = [tuple(shape) for shape in shapes]
    wanted = [len(shape) == 5 and shape[1] == channels for shape in found[:1]]
    wanted += [(len(shape), *shape[1::2]) == (4, AUDIO_CHANNELS, AUDIO_BINS) for shape in found[1:]]
    if [len(shape) for shape in found] == [4, 5]:
        raise ValueError(
            "this latent has audio where its video belongs and video where its audio belongs: swap the two "
            "inputs of the node that joins them"
        )
    if not all(wanted) or len(found) > 2:
        raise ValueError(
            f"LTX-2 samples video (batch, {channels}, frames, rows, columns), alone or joined with audio "
            f"(batch, {AUDIO_CHANNELS}, frames, {AUDIO_BINS}), and this latent is {_listed(found)}: connect "
            "the latent of LTX-2 Clip Plan or LTX-2 Empty AV Latent"
        )
    if len({shape[0] for shape in found}) > 1:
        raise ValueError(
            f"the video of this latent is a batch of {found[0][0]} and its audio of {found[1][0]}: repeat "
            "both to the same batch size before they are joined"
        )


def _listed(shapes: list[tuple[int, ...]]) -> str:
    names = {5: "video", 4: "audio"}
    return " and ".join(f"{names.get(len(shape), 'a tensor')} {shape}" for shape in shapes)
