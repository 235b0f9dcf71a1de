"""The finished clip that an edit returns, and how it is written to a file.

Letters: N frames, H W pixel rows and columns, C channels, S samples.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..media import Destination, Encoding, VideoClip
from ..media.encoder_thread import Timed
from ..media.recut import Recut, write_recut
from ..media.remux import CannotCopy, check_copy, copy_with_audio
from ..media.save import Clip, save_clip
from ..run.generation import METADATA_KEY, silence
from .protocols import Waveform
from .renamed import renamed

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..media.encoding import EncodingOptions

log = logging.getLogger(__name__)


@renamed(pictures="frame_chunks", sounds="audio_chunks", byte_pictures="byte_chunks", sound="audio")
@dataclass(frozen=True, kw_only=True, eq=False)
class Edit:
    """A finished clip, decoded on demand.

    Attributes:
        frame_chunks: a function that yields the frames in chunks (frames, 3, height, width) in [-1, 1].
        audio_chunks: a function that yields chunks (channels, samples) of audio at ``rate`` Hz; a rate of 0
            is a clip without audio.
        frame_count, width, height, fps: number of frames, their size in pixels, and frames per second.
        byte_chunks: as ``frame_chunks``, but in uint8, converted before they leave the device; None if the
            decoder cannot do that.
        settings: JSON values for the tags of a file.
        unchanged: the video file with these frames, whose packets are copied, if only the audio is new; else
            None.
        recut: a plan by which packets without new frames are copied (see ``plan_recut``); None encodes all.
    """

    frame_chunks: Callable[[], Iterator[Tensor]]
    audio_chunks: Callable[[], Iterable[Tensor]]
    frame_count: int
    width: int
    height: int
    fps: float
    rate: int
    settings: Mapping[str, Any] = field(default_factory=dict)
    byte_chunks: Callable[[], Iterator[Tensor]] | None = None
    unchanged: VideoClip | None = None
    recut: Recut | None = None

    @property
    def hdr(self) -> str | None:
        """The colour space of an HDR clip, whose frames are codes of ACEScct; None for an SDR clip."""
        hdr: str | None = self.settings.get("request", {}).get("hdr")
        return hdr

    def silent(self) -> Edit:
        """This clip without audio."""
        return replace(self, audio_chunks=lambda: iter((torch.zeros(2, 0),)), rate=0)

    def frames(self) -> Tensor:
        """Decode all frames at once: (frames, 3, height, width) in [-1, 1]."""
        return torch.cat(list(self.frame_chunks()))

    def audio(self) -> Waveform:
        """Decode all audio at once: (waveform (channels, samples), rate in Hz)."""
        return torch.cat(list(self.audio_chunks()), dim=1), self.rate

    def save(
        self,
        path: str | os.PathLike[str] | Destination,
        *,
        on_frames: Callable[[int, int], None] | None = None,
        timed: Timed | None = None,
        **encoding: Unpack[EncodingOptions],
    ) -> None:
        """Decode the clip and write it to a file, whose name decides the kind of file.

        Kinds of file and ``encoding`` are those of :meth:`~ltx2_core.run.generation.Generation.save`. With a
        ``recut`` the file is written by that plan. Else, if the field ``unchanged`` names a video, its
        packets are copied, unless ``encoding`` sets a video option or no kind of file can hold them. Frames
        of odd size lose their last row or column if the pixel format needs even sizes. ``on_frames`` is
        called with (frames written, all frames); ``timed`` measures the seconds of encoding all frames.
        Raises what ``Generation.save`` raises, ValueError if the packets of an ``unchanged`` video do not fit
        this kind of file but fit another, and with a ``recut`` what ``write_recut`` raises.
        """
        destination, chosen = Destination.of(path, hdr=self.hdr is not None), Encoding(**encoding)
        if self.recut is not None:
            self._recut(self.recut, destination, chosen, on_frames)
        elif self.unchanged is not None and self._copied(self.unchanged, destination, chosen):
            if on_frames is not None:
                on_frames(self.frame_count, self.frame_count)
        else:
            if self.unchanged is not None:
                # A warning, because encoding again loses quality.
                log.warning("%s is encoded again", self.unchanged.path)
            save_clip(destination, self.as_clip(), chosen, on_frames=on_frames, timed=timed)

    def _copied(self, clip: VideoClip, destination: Destination, chosen: Encoding) -> bool:
        """Write the video packets of the file ``clip`` unchanged, with the new audio, to ``destination``.

        ``chosen`` are the encoding settings of the caller. Returns True if the file is written, False if
        nothing is written because the video has to be encoded instead. Raises ValueError if its packets fit
        another kind of file but not this one.
        """
        fmt = destination.format
        # A video option requires encoding, and copying would silently ignore it.
        if chosen.of_video or not (fmt.video and fmt.audio) or check_copy(clip.path, fmt) is not None:
            return False
        origin_s = clip.timeline.origin_s
        try:
            copy_with_audio(
                clip.path,
                destination,
                *self.audio(),
                origin_s=origin_s,
                metadata=self._tags(),
                encoding=chosen,
            )
        except CannotCopy as error:
            log.warning("%s", error)
            return False
        return True

    def as_clip(self) -> Clip:
        """The frames, the audio and the tags as one value for writers of files, decoded while it is read."""

        def frames(*, as_bytes: bool) -> Iterator[Tensor]:
            return (self.byte_chunks if as_bytes and self.byte_chunks else self.frame_chunks)()

        return Clip(
            width=self.width,
            height=self.height,
            fps=self.fps,
            frame_count=self.frame_count,
            frames=frames,
            audio=(lambda: (self.audio_chunks(), self.rate)) if self.rate else None,
            tags=self._tags(),
            hdr=self.hdr,
        )

    def _recut(
        self,
        recut: Recut,
        destination: Destination,
        chosen: Encoding,
        on_frames: Callable[[int, int], None] | None,
    ) -> None:
        def reported() -> Iterator[Tensor]:
            done = 0
            for chunk in self.frame_chunks():
                done += len(chunk)
                yield chunk
                if on_frames is not None:
                    on_frames(done, self.frame_count)

        # A file of copied packets always has an audio track.
        track = self.audio() if self.rate else silence(self.frame_count / self.fps)
        write_recut(recut, destination, reported(), *track, metadata=self._tags(), encoding=chosen)

    def _tags(self) -> dict[str, str]:
        return {METADATA_KEY: json.dumps(dict(self.settings))}
