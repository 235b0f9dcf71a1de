"""Writes images in linear light to files, and reads which log codes an HDR IC-LoRA generates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import cast, get_args

from torch import Tensor

from ...ltx2_core.media.destination import Destination
from ...ltx2_core.media.encoding import Encoding
from ...ltx2_core.media.hdr_space import HDR_SPACES, HdrCurve
from ...ltx2_core.media.save import Clip, save_clip
from ...ltx2_core.run.generation import as_long_as
from ..convert import track_of
from ..host.progress import check_interrupted, count_bar
from ..host.values import Audio

CHUNK_FRAMES = 8
"""Images that are converted at a time; of 1080p one takes 25 MB."""


def read_curve(parameters: Mapping[str, object] | None) -> HdrCurve:
    """Name of the log curve that encodes the pixels which the HDR IC-LoRA of ``parameters`` generates.

    Without such parameters, or without a LoRA for HDR in them, it is "acescct", that of LTX-2.5 itself.
    """
    stated = (parameters or {}).get("hdr_transform")
    return cast(HdrCurve, stated) if stated in get_args(HdrCurve) else "acescct"


def save_light(
    path: Path, light: Tensor, colours: str, fps: float, audio: Audio | None, *, as_folder: bool
) -> None:
    """Save ``light``, N images (N, 3, H, W) in linear light and colour space ``colours``, as EXR in a folder.

    With ``as_folder`` that folder is ``path``; else ``path`` is an HLG master in MP4, at ``fps`` frames a
    second and with ``audio``, if there is any, and the folder is next to it. Raises what
    :func:`~ltx2_core.media.save.save_clip` raises.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    space, count, (rows, columns) = HDR_SPACES[colours], len(light), light.shape[2:]

    def frames(*, as_bytes: bool) -> Iterator[Tensor]:  # noqa: ARG001 light is never asked for as bytes
        for part in light.split(CHUNK_FRAMES):
            check_interrupted()
            # The writers take what a decoder returns: codes in [-1, 1].
            yield space.to_codes(part.float().cpu()) * 2 - 1

    def track(audio: Audio) -> tuple[Iterator[Tensor], int]:
        waveform, rate = track_of(audio, 0)
        return iter((as_long_as(waveform, rate, count / fps),)), rate

    clip = Clip(
        width=columns,
        height=rows,
        fps=fps,
        frame_count=count,
        frames=frames,
        audio=None if audio is None else partial(track, audio),
        hdr=colours,
    )
    bar = count_bar(count, "saving image")
    destination = Destination.of(f"{path}/" if as_folder else path, hdr=True)
    save_clip(destination, clip, Encoding(), on_frames=lambda done, total: bar(done))
