"""Measures the content of frames from their pixels: background, bodies, motion, contacts with the floor.

All figures are medians or means over many pixels, so that blur, ringing and noise of an autoencoder change
them little. Letters: F frames, H W rows and columns of pixels, N bodies.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from .palette import COLOURS, KINDS, Colour, Motion, palette
from .render import distance

Outline = Callable[[Tensor, Tensor], Tensor]
"""Signed distance of points to the outline of a shape of radius 1, negative inside, from x and y."""

OUTLINES: Mapping[str, Outline] = {kind: partial(distance, kind, radius=1.0) for kind in KINDS}
"""The shapes of the world, by name."""

_NEAR = 0.75
"""A pixel within this RGB distance of a palette colour has that colour."""
_MIN_AREA = 0.012
"""Least area of a body, in squares of the shorter side; the smallest body has 0.04."""
_PATCH = 24
"""Pixels of the patch on which a shape is compared with templates."""
_REACH = 1.9
"""Distance from the centre of that patch to its border, in radii of the body."""
_SOFTNESS = (0.06, 0.12, 0.2, 0.3, 0.42)
"""Blurs of the templates that a shape is compared with, in radii of the body."""
_MIN_BOUNCE, _MIN_SLIDE, _MIN_PULSE = 0.06, 0.07, 0.22
"""Least change that counts as motion: of the height, of the width, and of the logarithm of the radius."""


@dataclass(frozen=True, kw_only=True)
class MeasuredBody:
    """One body (coloured shape) of a clip of F frames; positions are NaN in frames where it is not found.

    ``centre`` (F, 2) is x and y as fractions of width and height, ``radius`` (F,) a fraction of the shorter
    side.
    """

    colour: Colour
    kind: str
    kind_margin: float
    """Error of the second-best shape over that of the best; 1 means that both fit equally well."""
    centre: Tensor
    """(F, 2): x and y as fractions of width and height."""
    radius: Tensor
    """(F,), as a fraction of the shorter side."""


@dataclass(frozen=True, kw_only=True)
class MeasuredVideo:
    """Background, bodies (coloured shapes) and motion of a clip; the first body is that which moves most."""

    background: Colour
    bodies: tuple[MeasuredBody, ...]
    motion: Motion
    contacts: tuple[float, ...]
    """Fractional frame numbers at which the first body touches the floor."""


def measure_video(frames: Tensor, outlines: Mapping[str, Outline] = OUTLINES) -> MeasuredVideo:
    """Find the background and the bodies (coloured shapes) of a synthetic clip, and how they move.

    ``frames`` (F, 3, H, W) are in [-1, 1]. A body is found if its radius is at least 2 pixels. Its
    shape is that of ``outlines`` which it resembles most. Raises ValueError for frames of another shape.
    """
    if frames.ndim != 4 or frames.shape[1] != 3:
        raise ValueError(f"frames are {tuple(frames.shape)}; expected (F, 3, H, W) in [-1, 1]")
    pixels = frames.detach().float().cpu().clamp(-1, 1)
    colours = palette()
    ground = _ground(pixels)
    background = COLOURS[int((colours - ground).norm(dim=1).argmin())]
    found = _body_colours(pixels, ground, background)
    bodies = [
        _body(cover, colour, outlines)
        for cover, (colour, _) in zip(_mattes(pixels, ground, found), found, strict=True)
    ]
    bodies.sort(key=lambda body: max(_activity(body).values()), reverse=True)
    motion = _motion(bodies[0]) if bodies else "still"
    contacts = find_contacts(bodies[0].centre[:, 1]) if bodies else ()
    return MeasuredVideo(background=background, bodies=tuple(bodies), motion=motion, contacts=contacts)


def _ground(pixels: Tensor) -> Tensor:
    """The colour of the background (3,): the median of the border pixels of ``pixels`` (F, 3, H, W)."""
    # Bodies stay within margins, so that the border is background alone.
    ring = max(1, min(pixels.shape[2:]) // 16)
    strips = (pixels[:, :, :ring], pixels[:, :, -ring:], pixels[..., :ring], pixels[..., -ring:])
    border = torch.cat([rearrange(strip, "f c h w -> (f h w) c") for strip in strips])
    return border.median(dim=0).values


def _body_colours(pixels: Tensor, ground: Tensor, background: Colour) -> list[tuple[Colour, Tensor]]:
    """Find up to two bodies by colour in ``pixels`` (F, 3, H, W): names and RGB (3,), larger body first.

    ``ground`` (3,) is the colour of the background, ``background`` its name. If no area has a palette colour,
    the pixels farthest from the background count as one body.
    """
    flat = rearrange(pixels, "f c h w -> f (h w) c")
    shorter = min(pixels.shape[2:])
    # Against the measured background too, as a decoder shifts its colour.
    known = torch.cat([palette(), ground[None]])
    apart = torch.cdist(flat, known, compute_mode="use_mm_for_euclid_dist")
    (gap, nearest), off = apart[..., :-1].min(dim=-1), apart[..., -1]
    nearest = torch.where((gap < _NEAR) & (off > _NEAR), nearest, len(COLOURS))
    found = []
    for index, colour in enumerate(COLOURS):
        here = nearest == index
        # Median over the frames: a flicker of another colour is no body.
        area = float(here.sum(dim=1).float().median()) / shorter**2
        if colour != background and area > _MIN_AREA:
            found.append((area, colour, flat[here].median(dim=0).values))
    if not found:
        # A body of washed-out colour is still a body, with the nearest name.
        strongest = off.flatten().topk(max(8, int(_MIN_AREA * shorter**2) * len(pixels)))
        colour_found = flat.flatten(0, 1)[strongest.indices].median(dim=0).values
        if float((colour_found - ground).norm()) > 0.5:
            away = [c for c in COLOURS if c != background]
            names = torch.stack([palette()[COLOURS.index(c)] for c in away])
            found.append((0.0, away[int((names - colour_found).norm(dim=1).argmin())], colour_found))
    found.sort(key=lambda item: item[0], reverse=True)
    return [(colour, value) for _, colour, value in found[:2]]


def _mattes(pixels: Tensor, ground: Tensor, found: list[tuple[Colour, Tensor]]) -> Tensor:
    """Compute the share of each pixel of (F, 3, H, W) that each body covers, (N, F, H, W) in [0, 1].

    Each pixel is taken as a mixture of the colours of the background, ``ground`` (3,), and the N bodies
    ``found``, and solved by least squares.
    """
    if not found:
        return pixels.new_zeros(0, *pixels[:, 0].shape)
    towards = torch.stack([value - ground for _, value in found], dim=1)
    # A pixel is background plus shares of the bodies' differences from it.
    solve = torch.linalg.pinv(towards)
    return torch.einsum("nc,fchw->nfhw", solve, pixels - ground[:, None, None]).clamp(0, 1)


def _body(cover: Tensor, colour: Colour, outlines: Mapping[str, Outline]) -> MeasuredBody:
    """Measure the shape, place and size of the body of the colour named ``colour``.

    ``cover`` (F, H, W) in [0, 1] is the share of each pixel that the body covers.
    """
    height, width = cover.shape[1:]
    # A soft step removes noise; it preserves the area of a symmetric edge, and so the sub-pixel position.
    weight = ((cover - 0.25) / 0.5).clamp(0, 1)
    x, y = torch.arange(width) + 0.5, torch.arange(height) + 0.5
    # Each pass removes what lies too far from the centre that the pass before has found.
    for _ in range(3):
        total = weight.sum(dim=(1, 2))
        area = total.clamp(min=1e-6)
        cx, cy = (weight.sum(dim=1) @ x) / area, (weight.sum(dim=2) @ y) / area
        radius = torch.sqrt(area / math.pi)
        # Spots away from the body would shift its centre. A triangle reaches 1.56 radii.
        spread = (x - cx[:, None]).square()[:, None, :] + (y - cy[:, None]).square()[:, :, None]
        weight = weight * (spread < (1.9 * radius + 1).square()[:, None, None])
    # A body that has nearly vanished has no centre worth measuring.
    found = total > 0.25 * total.median()
    kind, margin = _kind(cover[found], cx[found], cy[found], radius[found], outlines)
    centre = torch.stack([cx / width, cy / height], dim=-1)
    return MeasuredBody(
        colour=colour,
        kind=kind,
        kind_margin=margin,
        centre=centre.masked_fill(~found[:, None], math.nan),
        radius=(radius / min(width, height)).masked_fill(~found, math.nan),
    )


def _kind(
    cover: Tensor, cx: Tensor, cy: Tensor, radius: Tensor, outlines: Mapping[str, Outline]
) -> tuple[str, float]:
    """Find the shape of a body: its name, and the error of the next best shape over that of the best.

    The mean over frames of the patch around the body is compared with blurred templates. ``cover`` (F, H, W)
    is the share of each pixel that the body covers; centres ``cx``, ``cy`` and ``radius`` (F,) are in pixels.
    ``outlines`` are the shapes to choose from, at least two.
    """
    if not len(cover):
        return next(iter(outlines)), 1.0
    height, width = cover.shape[1:]
    steps = torch.linspace(-_REACH, _REACH, _PATCH)
    x = (cx[:, None] + steps * radius[:, None]) / width * 2 - 1
    y = (cy[:, None] + steps * radius[:, None]) / height * 2 - 1
    grid = torch.stack([x[:, None, :].expand(-1, _PATCH, -1), y[:, :, None].expand(-1, -1, _PATCH)], dim=-1)
    patch = F.grid_sample(cover[:, None], grid, align_corners=False, padding_mode="zeros").mean(dim=0)[0]
    errors = {}
    for kind, distance_to in outlines.items():
        outline = distance_to(steps[None, :], steps[:, None])
        # The best of several blurs, so that sharpness does not decide the shape.
        errors[kind] = min(
            float((torch.sigmoid(-outline / s * 2) - patch).square().mean()) for s in _SOFTNESS
        )
    best, second = sorted(errors, key=lambda kind: errors[kind])[:2]
    return best, errors[second] / max(errors[best], 1e-9)


def _activity(body: MeasuredBody) -> dict[str, float]:
    """How much a body bounces, slides and pulses; 1 is the least change that counts as that motion.

    Returns numbers under the keys "bounce", "slide" and "pulse".
    """
    found = ~body.radius.isnan()
    time = torch.arange(len(found))[found].float()
    if len(time) < 4:
        return {"bounce": 0.0, "slide": 0.0, "pulse": 0.0}
    x, y = body.centre[found].unbind(dim=-1)
    return {
        "bounce": _range(y) / _MIN_BOUNCE,
        "slide": abs(_slope(time, x)) * len(found) / _MIN_SLIDE,
        "pulse": _range(body.radius[found].clamp(min=1e-3).log()) / _MIN_PULSE,
    }


def _motion(body: MeasuredBody) -> Motion:
    activity = _activity(body)
    name = max(activity, key=lambda key: activity[key])
    if activity[name] < 1:
        return "still"
    if name == "slide":
        found = ~body.radius.isnan()
        rightward = _slope(torch.arange(len(found))[found].float(), body.centre[found, 0]) > 0
        return "slide_right" if rightward else "slide_left"
    return "bounce" if name == "bounce" else "pulse"


def find_contacts(y: Tensor) -> tuple[float, ...]:
    """Find the frames at which a body touches the floor, as fractional frame numbers.

    ``y`` (F,) is its vertical position in each frame, as a fraction of the height, growing downwards. A
    contact is a maximum of y, placed where the lines through the frames before and after it meet. In the
    first and last two frames this is impossible, and the contact is a whole frame. A curve flatter than any
    bounce has no contacts.
    """
    if bool(y.isnan().all()):
        return ()
    y = _fill(y)
    height = _range(y)
    if height < _MIN_BOUNCE:
        return ()
    found: list[float] = []
    for i in range(1, len(y) - 1):
        window = y[max(0, i - 3) : i + 4]
        # Of a flat top only the first frame counts, or one contact would be found several times.
        if y[i] < window.max() or y[i] == y[i - 1]:
            continue
        before, after = y[max(0, i - 6) : i + 1].min(), y[i : i + 7].min()
        # Near the ends of a clip a part of the fall or of the rise is missing, so that a smaller drop is
        # enough.
        edge = min(i, len(y) - 1 - i) < 6
        drop = float(torch.minimum(y[i] - before, y[i] - after))
        if drop > (0.08 if edge else 0.25) * height:
            found.append(_turn(y, i))
    return tuple(found)


def _turn(y: Tensor, i: int) -> float:
    """The fractional frame at which two lines through ``y`` (F,) meet, before and after its maximum.

    ``i`` is the frame of the maximum; each line goes through the two frames next to it.
    """
    if i < 2 or i > len(y) - 3:
        return float(i)
    falling, rising = float(y[i - 1] - y[i - 2]), float(y[i + 2] - y[i + 1])
    if falling - rising <= 1e-6:
        return float(i)
    # Solves y[i-1] + falling (t + 1) = y[i+1] + rising (t - 1), with t counted from i.
    t = (float(y[i + 1] - y[i - 1]) - falling - rising) / (falling - rising)
    return i + min(1.0, max(-1.0, t))


def _fill(values: Tensor) -> Tensor:
    """Replace NaN in ``values`` (F,) by the last valid value before it, or at the start by the first one."""
    valid = ~values.isnan()
    last = torch.where(valid, torch.arange(len(values)), -1).cummax(dim=0).values
    return values[last.clamp(min=int(valid.float().argmax()))]


def _range(values: Tensor) -> float:
    # Quantiles and not extremes, which one badly decoded frame would decide.
    low, high = torch.quantile(values, torch.tensor([0.05, 0.95])).tolist()
    return float(high - low)


def _slope(time: Tensor, values: Tensor) -> float:
    time = time - time.mean()
    return float((time * (values - values.mean())).sum() / time.square().sum())
