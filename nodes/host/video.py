"""A latent decoded straight into a file in the host's temporary folder, as the host's VIDEO."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import comfy.model_management
import folder_paths
import torch
from comfy_api.latest import InputImpl
from einops import rearrange
from torch import Tensor

from ...ltx2_core.editing import Edit
from ...ltx2_core.media import VideoWriter, to_bytes
from ...ltx2_core.run.generation import as_long_as
from ...ltx2_core.shapes import SPATIAL_SCALE, frames_of
from .progress import check_interrupted, count_bar


def write_video(
    video_vae: Any, samples: Tensor, fps: float, sound: tuple[Tensor, int] | None, crf: int
) -> InputImpl.VideoFromFile:
    """Decode one clip ``samples`` (1, C, f, h, w) into an MP4 file; ``sound`` is ((C, S), rate in Hz).

    Where the VAE can stream, only some frames exist at a time. The file lives as long as the host's temporary
    folder; the host's save node copies its streams without encoding them again.
    """
    rows, columns = (SPATIAL_SCALE * size for size in samples.shape[3:])
    rate = None if sound is None else sound[1]
    path = temporary_mp4()
    on_count = count_bar(frames_of(samples.shape[2]))
    with VideoWriter(path, width=columns, height=rows, fps=fps, sample_rate=rate, crf=crf) as writer:
        if sound is not None:
            writer.write_audio(as_long_as(*sound, frames_of(samples.shape[2]) / fps))
        for frames in decoded_frames(video_vae, (samples,), as_bytes=True):
            check_interrupted()
            writer.write_frames(frames)
            on_count(writer.frame_count)
    return InputImpl.VideoFromFile(str(path))


def write_edit(edit: Edit, crf: int) -> InputImpl.VideoFromFile:
    """Write a clip whose pictures and sound are made as they are written."""
    path, bar = temporary_mp4(), count_bar(edit.frame_count)

    def on_frames(done: int, total: int) -> None:
        check_interrupted()
        bar(done)

    edit.save(path, crf=crf, on_frames=on_frames)
    return InputImpl.VideoFromFile(str(path))


def temporary_mp4() -> Path:
    """A new name in the host's temporary folder."""
    folder = Path(folder_paths.get_temp_directory())
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"ltx2_{uuid.uuid4().hex}.mp4"


def decoded_frames(video_vae: Any, pieces: Iterable[Tensor], *, as_bytes: bool = False) -> Iterator[Tensor]:
    """Frames (N, 3, H, W) in [-1, 1] of one clip, a few at a time; all of them if the VAE cannot stream.

    ``pieces`` (1, C, f, h, w) are its latent, in one or in parts one after another. With ``as_bytes`` frames
    that stream are uint8 before they leave the device.
    """
    network = video_vae.first_stage_model
    if not hasattr(network, "decode_stream"):
        # The host's VAE gives (B, F, H, W, 3) in [0, 1].
        yield rearrange(video_vae.decode(torch.cat([*pieces], dim=2))[0], "f h w c -> f c h w") * 2 - 1
        return
    parts = iter(pieces)
    first = next(parts)
    memory = video_vae.memory_used_decode(first.shape, video_vae.vae_dtype)
    comfy.model_management.load_models_gpu([video_vae.patcher], memory_required=memory)
    where = {"device": video_vae.device, "dtype": video_vae.vae_dtype}
    done = 0
    for piece in network.decode_stream(part.to(**where) for part in chain((first,), parts)):
        frames = rearrange(piece[0], "c f h w -> f c h w")
        done += len(frames)
        if as_bytes:
            frames = to_bytes(frames, first=done - len(frames)).cpu()
        # Neither name may keep this piece on the device while the next one is made.
        del piece
        yield frames
        del frames
