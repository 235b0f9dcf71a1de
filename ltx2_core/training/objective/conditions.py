"""Conditions of training: which tokens of a clip are known, and how often.

Letters: B batch, F H W latent frames, rows and columns, T audio latent frames, N tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from einops import rearrange
from torch import Tensor

from ...shapes import SPATIAL_SCALE

ConditionKind = Literal["first_frame", "prefix", "suffix", "crop", "mask", "reference"]
KINDS: tuple[ConditionKind, ...] = get_args(ConditionKind)

_OFFICIAL = {"spatial_crop": "crop"}
_VIDEO_ONLY = ("first_frame", "crop")


@dataclass(frozen=True, kw_only=True)
class Condition:
    """One kind of known content; known tokens have no noise, timestep 0 and no loss.

    ``kind`` says which tokens of the clip are known: ``first_frame`` the first latent frame, ``prefix`` and
    ``suffix`` the first or last ``latent_frames``, ``crop`` the rectangle ``region`` (top, left, bottom,
    right in pixels) of every frame, ``mask`` those where the mask of the clip is above 0.5. ``reference``
    instead adds tokens of another clip in front, as for an IC-LoRA. ``probability`` is how often the
    condition is applied: chosen for each sample, and for a reference for the batch. Raises ValueError for
    values that do not fit ``kind``.
    """

    kind: ConditionKind
    probability: float = 1.0
    latent_frames: int | None = None
    region: tuple[int, int, int, int] | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"condition {self.kind!r} is unknown: use one of {', '.join(KINDS)}")
        if not 0 <= self.probability <= 1:
            raise ValueError(f"condition {self.kind}: the probability {self.probability} must be from 0 to 1")
        if (self.kind in ("prefix", "suffix")) != (self.latent_frames is not None):
            raise ValueError(f"condition {self.kind}: {_NEEDS.get(self.kind, 'it takes no number')}")
        if self.latent_frames is not None and self.latent_frames < 1:
            raise ValueError(f"condition {self.kind}={self.latent_frames} must have at least 1 latent frame")
        if (self.kind == "crop") != (self.region is not None):
            raise ValueError(f"condition {self.kind}: {_NEEDS.get(self.kind, 'it takes no rectangle')}")
        if self.region is not None:
            top, left, bottom, right = self.region
            if not (0 <= top < bottom and 0 <= left < right):
                raise ValueError(
                    f"condition crop={top},{left},{bottom},{right} is top,left,bottom,right in pixels, with "
                    "bottom below top and right of left"
                )

    def check_stream(self, stream: str) -> None:
        """Raise ValueError if this is a condition of video only and ``stream`` is "audio"."""
        if stream == "audio" and self.kind in _VIDEO_ONLY:
            raise ValueError(
                f"condition {self.kind} is for video; audio takes prefix, suffix, mask, reference"
            )

    def known(self, grid: tuple[int, ...], mask: Tensor | None) -> Tensor:
        """Which target tokens are known: (1, N) or (B, N) bool, on the CPU or the device of ``mask``.

        ``grid`` is (F, H, W) of a video or (T,) of an audio latent. ``mask`` is (B, F, H, W) or (B, T), 1
        where content is known; raises ValueError if the condition needs it and it is None.
        """
        if self.kind == "mask":
            if mask is None:
                raise ValueError("condition mask: a clip of the dataset has no mask")
            return mask.flatten(1) > 0.5
        known = torch.zeros(grid, dtype=torch.bool)
        if self.kind == "first_frame":
            known[:1] = True
        elif self.kind == "prefix":
            known[: self.latent_frames] = True
        elif self.kind == "suffix":
            assert self.latent_frames is not None
            known[max(0, grid[0] - self.latent_frames) :] = True
        else:
            assert self.region is not None
            # Rounded down at both ends as in the official trainer: a cell that is cut at its end is unknown.
            top, left, bottom, right = (side // SPATIAL_SCALE for side in self.region)
            known[:, top:bottom, left:right] = True
        return rearrange(known.flatten(), "n -> 1 n")


_NEEDS = {
    "prefix": "write how many latent frames are known, such as prefix=2",
    "suffix": "write how many latent frames are known, such as suffix=2",
    "crop": "write the known rectangle in pixels, such as crop=0,0,256,512 (top,left,bottom,right)",
}


def condition_of(text: str) -> tuple[Literal["video", "audio"], Condition]:
    """Read a condition as users write it: ``[audio.]KIND[=VALUE][:PROBABILITY]``.

    Returns (stream, condition). Examples are ``first_frame:0.5``, ``audio.prefix=3`` and
    ``crop=0,0,256,512:0.3``. Raises ValueError for anything else.
    """
    body, _, chance = text.partition(":")
    stream: Literal["video", "audio"] = "video"
    if body.startswith(("audio.", "video.")):
        stream, body = ("audio" if body.startswith("audio.") else "video"), body[6:]
    kind, _, value = body.partition("=")
    known: Any = _OFFICIAL.get(kind, kind)
    try:
        probability = float(chance) if chance else 1.0
        numbers = tuple(int(part) for part in value.split(",")) if value else ()
    except ValueError:
        raise ValueError(
            f"condition {text!r} is not [audio.]KIND[=VALUE][:PROBABILITY], such as first_frame:0.5"
        ) from None
    if known not in KINDS:
        raise ValueError(f"condition {kind!r} is unknown: use one of {', '.join(KINDS)}")
    if len(numbers) not in (0, 1, 4):
        raise ValueError(f"condition {text!r}: {_NEEDS.get(known, 'it takes no numbers')}")
    condition = Condition(
        kind=known,
        probability=probability,
        latent_frames=numbers[0] if len(numbers) == 1 else None,
        region=(numbers[0], numbers[1], numbers[2], numbers[3]) if len(numbers) == 4 else None,
    )
    condition.check_stream(stream)
    return stream, condition


def official_condition(entry: Mapping[str, Any]) -> Condition:
    """Read a condition of a configuration file of the official trainer."""
    kind: Any = _OFFICIAL.get(entry["type"], entry["type"])
    region = entry.get("spatial_region")
    return Condition(
        kind=kind,
        probability=float(entry.get("probability", 1.0)),
        latent_frames=entry.get("temporal_boundary"),
        region=None if region is None else (region[0], region[1], region[2], region[3]),
    )
