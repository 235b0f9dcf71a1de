"""Generated keyframes: extra latent frames that LTX-2.5 generates next to the clip, each for one pixel frame.

Letters: B batch, C latent channels, K keyframes, F latent frames, H W latent rows and columns, N tokens.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from ..shapes import frames_of
from ..types import AVLatent, Guide, LatentState
from .masks import expand_mask
from .patchify import guide_positions


@dataclass(frozen=True, kw_only=True)
class KeyframeSlots:
    """A conditioning item that generates K keyframes, at the pixel frames ``frames`` of the clip, ascending.

    For each keyframe the tokens of one latent frame are appended to those of the video and sampled together
    with them: they start from noise, and the video attends to them. ``initial`` (B or 1, C, K, H, W) are the
    keyframes' normalised latents before noise is added; None stands for zeros. It matters only where sampling
    starts below noise level 1, as in a second sampling stage. :func:`generated_keyframes` returns the sampled
    keyframes.
    """

    frames: tuple[int, ...]
    initial: Tensor | None = None

    def apply(self, state: LatentState) -> LatentState:
        """Return a copy of ``state`` with the keyframes' latent frames and positions appended to the video.

        Their denoise mask is 1: they are generated in full. Raises ValueError for frames outside the clip or
        out of order, for a state without video, and for ``initial`` of another size than the clip.
        """
        video, mask = state.latent.video, expand_mask(state.mask, state.latent).video
        if video is None or mask is None:
            raise ValueError("keyframes are generated with a video: plan the clip with video")
        check_keyframes(self.frames, frames_of(video.shape[2] - state.guide_frames))
        _, channels, _, height, width = video.shape
        shape = (channels, len(self.frames), height, width)
        added = video.new_zeros(len(video), *shape) if self.initial is None else self._initial(video, shape)
        positions = [
            guide_positions(1, height, width, state.fps, frame=frame, single_frame=True)
            for frame in self.frames
        ]
        guide = Guide(frames=len(self.frames), positions=torch.cat(positions, dim=2), generated=True)
        ones = mask.new_ones(len(video), 1, len(self.frames), height, width)
        return replace(
            state,
            latent=replace(state.latent, video=torch.cat((video, added), dim=2)),
            mask=replace(state.mask, video=torch.cat((mask, ones), dim=2)),
            guides=(*state.guides, guide),
        )

    def _initial(self, video: Tensor, shape: tuple[int, ...]) -> Tensor:
        assert self.initial is not None
        if tuple(self.initial.shape[1:]) != shape or len(self.initial) not in (1, len(video)):
            raise ValueError(
                f"initial keyframes of shape {tuple(self.initial.shape)} do not fit: {len(self.frames)} of "
                f"them on this clip are ({len(video)}, {', '.join(map(str, shape))})"
            )
        return self.initial.to(video).expand(len(video), *shape)


def check_keyframes(frames: Sequence[int], clip_frames: int) -> None:
    """Raise ValueError unless there are frame numbers in ``frames``, which ascend and lie within the clip.

    The clip has ``clip_frames`` frames. All are pixel frames, counted from 0.
    """
    if not frames:
        raise ValueError("no keyframe is named: give the frames at which keyframes are generated")
    if not all(0 <= frame < clip_frames for frame in frames):
        raise ValueError(f"keyframes at {[*frames]} are not all in the clip, frames 0 to {clip_frames - 1}")
    if not all(one < other for one, other in pairwise(frames)):
        raise ValueError(f"keyframes at {[*frames]} must rise, each one given once")


def generated_keyframes(x: AVLatent, state: LatentState) -> Tensor | None:
    """The keyframes that the model generated next to the clip (LTX-2.5), (B, C, K, H, W), cut out of ``x``.

    ``x`` is what was sampled from ``state``; None is returned if ``state`` has no such keyframes. Decode each
    keyframe as a clip of one frame: along K they are not consecutive frames of a clip.
    """
    if x.video is None:
        return None
    parts = x.video[:, :, x.video.shape[2] - state.guide_frames :].split(
        [guide.frames for guide in state.guides], dim=2
    )
    slots = [part for part, guide in zip(parts, state.guides, strict=True) if guide.generated]
    return torch.cat(slots, dim=2) if slots else None


def spread_keyframes(count: int, frames: int) -> tuple[int, ...]:
    """The numbers of ``count`` frames spread evenly within a clip of ``frames`` pixel frames.

    The first and the last frame of the clip are not among them.
    """
    return _even(frames, count + 1)[:-1]


def keyframes_every(interval: int, frames: int, occupied: Collection[int] = ()) -> tuple[int, ...]:
    """The numbers of frames about ``interval`` apart in a clip of ``frames`` pixel frames.

    They ascend to the last frame of the clip. Frame 0 is left out, and so are the frames ``occupied``, which
    have an image or a keyframe already. ComfyUI's node Add Generated Keyframes places keyframes in the same
    way.
    """
    count = max(1, round((frames - 1) / interval))
    # In a very short clip two of them may be rounded to the same frame.
    return tuple(
        frame for frame in dict.fromkeys(_even(frames, count)) if frame > 0 and frame not in occupied
    )


def _even(frames: int, parts: int) -> tuple[int, ...]:
    """The last frames of ``parts`` equal parts of a clip of ``frames`` pixel frames."""
    # In float32, as in the official pipeline and ComfyUI: places between two frames are rounded by its error.
    return tuple(torch.linspace(0, frames - 1, parts + 1).round().int().tolist()[1:])
