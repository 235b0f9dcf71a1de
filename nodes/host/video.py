"""Decodes latents directly into a file in ComfyUI's temporary folder, as a ComfyUI VIDEO."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path

import comfy.model_management
import folder_paths
import torch
from comfy_api.latest import InputImpl
from einops import rearrange
from torch import Tensor

from ...ltx2_core.editing import Edit
from ...ltx2_core.media import VideoWriter, to_bytes
from ...ltx2_core.media.encoder_thread import Check, EncoderThread
from ...ltx2_core.run.generation import as_long_as
from ...ltx2_core.shapes import SPATIAL_SCALE, frames_of
from .progress import check_interrupted, count_bar
from .values import Vae
from .video_vae import checked_video_vae


def write_video(
    video_vae: Vae,
    samples: Tensor,
    fps: float,
    track: tuple[Tensor, int] | None,
    crf: int,
    *,
    on_frames: Callable[[Tensor], None] | None = None,
) -> InputImpl.VideoFromFile:
    """Decode ``samples``, the latent (1, C, F, H, W) of one clip, into an MP4 file, and return it as a VIDEO.

    ``track`` is the audio (waveform (channels, samples), rate in Hz), None without audio; ``crf`` is the
    H.264 quality. ``on_frames`` is called with each chunk of frames (N, 3, H, W), uint8 or in [-1, 1], before
    it is written. If the VAE can stream, only some frames are in memory at a time. The file lives as long as
    ComfyUI's temporary folder; ComfyUI's node for saving copies its streams without encoding them again.
    """
    rows, columns = (SPATIAL_SCALE * size for size in samples.shape[3:])
    rate = None if track is None else track[1]
    path = temporary_mp4()
    on_count = count_bar(frames_of(samples.shape[2]), "decoding and encoding frame")
    writer = VideoWriter(path, width=columns, height=rows, fps=fps, sample_rate=rate, crf=crf)

    def encode(frames: Tensor, check: Check) -> int:
        writer.write_frames(frames, check=check)
        return writer.frame_count

    with writer, EncoderThread(on_written=on_count) as encoder:
        if track is not None:
            writer.write_audio(as_long_as(*track, frames_of(samples.shape[2]) / fps))
        for frames in decoded_frames(video_vae, (samples,), as_bytes=True):
            # Encoding a long clip takes minutes, in which the host itself checks nothing.
            check_interrupted()
            if on_frames is not None:
                on_frames(frames)
            encoder.submit(partial(encode, frames))
    return InputImpl.VideoFromFile(str(path))


def write_edit(edit: Edit, crf: int) -> InputImpl.VideoFromFile:
    """Write an edited clip into a temporary MP4 file and return it as a VIDEO; ``crf`` is the H.264 quality.

    Frames and audio are decoded while they are written.
    """
    path, bar = temporary_mp4(), count_bar(edit.frame_count, "decoding and encoding frame")

    def on_frames(done: int, total: int) -> None:
        check_interrupted()
        bar(done)

    edit.save(path, crf=crf, on_frames=on_frames)
    return InputImpl.VideoFromFile(str(path))


def temporary_mp4() -> Path:
    """A path for a new MP4 file in ComfyUI's temporary folder."""
    folder = Path(folder_paths.get_temp_directory())
    folder.mkdir(parents=True, exist_ok=True)
    # The host may run several nodes of this kind before it reads the first file.
    return folder / f"ltx2_{uuid.uuid4().hex}.mp4"


def decoded_frames(video_vae: Vae, pieces: Iterable[Tensor], *, as_bytes: bool = False) -> Iterator[Tensor]:
    """Decode the latent of one clip to successive chunks of frames (frames, 3, height, width) in [-1, 1].

    ``pieces`` (1, C, F, H, W) are consecutive parts of the latent. If the VAE cannot stream, there is one
    chunk with all frames. With ``as_bytes`` frames of a VAE that streams are uint8 in 0 to 255 instead, on
    the CPU.
    """
    network = checked_video_vae(video_vae).first_stage_model
    # The VAE may come from the host's own loader.
    if not hasattr(network, "decode_parts"):
        # The host's VAE returns (B, F, H, W, 3) in [0, 1].
        yield rearrange(video_vae.decode(torch.cat([*pieces], dim=2))[0], "f h w c -> f c h w") * 2 - 1
        return
    parts = iter(pieces)
    # Memory depends on the size of frames, which all pieces share, and hardly on the length.
    first = next(parts)
    memory = video_vae.memory_used_decode(first.shape, video_vae.vae_dtype)
    comfy.model_management.load_models_gpu([video_vae.patcher], memory_required=memory)
    device, dtype = video_vae.device, video_vae.vae_dtype
    done = 0
    for piece in network.decode_parts(part.to(device=device, dtype=dtype) for part in chain((first,), parts)):
        frames = rearrange(piece[0], "c f h w -> f c h w")
        done += len(frames)
        if as_bytes:
            frames = to_bytes(frames, first=done - len(frames)).cpu()
        # Neither name may hold this piece on the device while the next one is decoded.
        del piece
        yield frames
        del frames
