"""What is seen in a clip, from its pixels alone.

F frames, H W rows and columns of pixels, P palette colours, N bodies. Everything is a median or a mean over
many pixels, so that blur, ringing and noise of a codec move it little.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from .palette import COLOURS, KINDS, Colour, Kind, Motion, palette
from .render import distance

_NEAR = 0.75  # a pixel within this RGB distance of a palette colour has that colour
_MIN_AREA = 0.012  # of the shorter side squared; the smallest body has 0.04
_PATCH = 24  # pixels of the patch that a shape is judged on
_REACH = 1.9  # radii from its centre to its border
_SOFTNESS = (0.06, 0.12, 0.2, 0.3, 0.42)  # radii; how blurred a shape may be
# The least change that counts as motion: picture heights and widths, and the logarithm of the radius.
_MIN_BOUNCE, _MIN_SLIDE, _MIN_PULSE = 0.06, 0.07, 0.22


@dataclass(frozen=True, kw_only=True)
class SeenBody:
    """centre (F, 2) as (x, y) fractions of the picture, radius (F,) of the shorter side; NaN where unseen."""

    colour: Colour
    kind: Kind
    kind_margin: float  # error of the second best shape over that of the best; 1 is a guess
    centre: Tensor
    radius: Tensor


@dataclass(frozen=True, kw_only=True)
class Look:
    """What the picture holds; the body that moves most comes first."""

    background: Colour
    bodies: tuple[SeenBody, ...]
    motion: Motion
    contacts: tuple[float, ...]  # frames, fractional


def look(frames: Tensor) -> Look:
    """frames (F, 3, H, W) in [-1, 1]; at least 2 pixels across each body's radius."""
    if frames.ndim != 4 or frames.shape[1] != 3:
        raise ValueError(f"frames are {tuple(frames.shape)}; expected (F, 3, H, W) in [-1, 1]")
    pixels = frames.detach().float().cpu().clamp(-1, 1)
    colours = palette()
    ground = _ground(pixels)
    background = COLOURS[int((colours - ground).norm(dim=1).argmin())]
    found = _body_colours(pixels, ground, background)
    bodies = [
        _body(cover, colour) for cover, (colour, _) in zip(_mattes(pixels, ground, found), found, strict=True)
    ]
    bodies.sort(key=lambda body: max(_activity(body).values()), reverse=True)
    motion = _motion(bodies[0]) if bodies else "still"
    contacts = find_contacts(bodies[0].centre[:, 1]) if bodies else ()
    return Look(background=background, bodies=tuple(bodies), motion=motion, contacts=contacts)


def _ground(pixels: Tensor) -> Tensor:
    """The background's colour (3,): the median of the picture's border over all frames."""
    ring = max(1, min(pixels.shape[2:]) // 16)
    strips = (pixels[:, :, :ring], pixels[:, :, -ring:], pixels[..., :ring], pixels[..., -ring:])
    border = torch.cat([rearrange(strip, "f c h w -> (f h w) c") for strip in strips])
    return border.median(dim=0).values


def _body_colours(pixels: Tensor, ground: Tensor, background: Colour) -> list[tuple[Colour, Tensor]]:
    """Up to two (name, RGB (3,)) of bodies, larger first, and what stands out most if nothing is pure."""
    flat = rearrange(pixels, "f c h w -> f (h w) c")
    shorter = min(pixels.shape[2:])
    known = torch.cat([palette(), ground[None]])
    apart = torch.cdist(flat, known, compute_mode="use_mm_for_euclid_dist")
    (gap, nearest), off = apart[..., :-1].min(dim=-1), apart[..., -1]
    nearest = torch.where((gap < _NEAR) & (off > _NEAR), nearest, len(COLOURS))
    found = []
    for index, colour in enumerate(COLOURS):
        here = nearest == index
        area = float(here.sum(dim=1).float().median()) / shorter**2
        if colour != background and area > _MIN_AREA:
            found.append((area, colour, flat[here].median(dim=0).values))
    if not found:
        strongest = off.flatten().topk(max(8, int(_MIN_AREA * shorter**2) * len(pixels)))
        seen = flat.flatten(0, 1)[strongest.indices].median(dim=0).values
        if float((seen - ground).norm()) > 0.5:
            away = [c for c in COLOURS if c != background]
            names = torch.stack([palette()[COLOURS.index(c)] for c in away])
            found.append((0.0, away[int((names - seen).norm(dim=1).argmin())], seen))
    found.sort(key=lambda item: item[0], reverse=True)
    return [(colour, seen) for _, colour, seen in found[:2]]


def _mattes(pixels: Tensor, ground: Tensor, found: list[tuple[Colour, Tensor]]) -> Tensor:
    """How much of each pixel each body covers, (N, F, H, W): least squares of colour mixtures."""
    if not found:
        return pixels.new_zeros(0, *pixels[:, 0].shape)
    towards = torch.stack([seen - ground for _, seen in found], dim=1)
    solve = torch.linalg.pinv(towards)
    return torch.einsum("nc,fchw->nfhw", solve, pixels - ground[:, None, None]).clamp(0, 1)


def _body(cover: Tensor, colour: Colour) -> SeenBody:
    """cover (F, H, W) -> its course and kind."""
    height, width = cover.shape[1:]
    # The soft step drops noise, keeps the area inside a symmetric edge, and leaves sub-pixel position.
    weight = ((cover - 0.25) / 0.5).clamp(0, 1)
    x, y = torch.arange(width) + 0.5, torch.arange(height) + 0.5
    for _ in range(3):
        total = weight.sum(dim=(1, 2))
        area = total.clamp(min=1e-6)
        cx, cy = (weight.sum(dim=1) @ x) / area, (weight.sum(dim=2) @ y) / area
        radius = torch.sqrt(area / math.pi)
        # Stray spots away from the body would pull its centre; a triangle reaches 1.56 radii.
        spread = (x - cx[:, None]).square()[:, None, :] + (y - cy[:, None]).square()[:, :, None]
        weight = weight * (spread < (1.9 * radius + 1).square()[:, None, None])
    seen = total > 0.25 * total.median()
    kind, margin = _kind(cover[seen], cx[seen], cy[seen], radius[seen])
    centre = torch.stack([cx / width, cy / height], dim=-1)
    unseen = ~seen
    return SeenBody(
        colour=colour,
        kind=kind,
        kind_margin=margin,
        centre=centre.masked_fill(unseen[:, None], math.nan),
        radius=(radius / min(width, height)).masked_fill(unseen, math.nan),
    )


def _kind(cover: Tensor, cx: Tensor, cy: Tensor, radius: Tensor) -> tuple[Kind, float]:
    """Shape of a matte (F, H, W), centres and radii in pixels: the mean patch against blurred templates."""
    if not len(cover):
        return "circle", 1.0
    height, width = cover.shape[1:]
    steps = torch.linspace(-_REACH, _REACH, _PATCH)
    x = (cx[:, None] + steps * radius[:, None]) / width * 2 - 1
    y = (cy[:, None] + steps * radius[:, None]) / height * 2 - 1
    grid = torch.stack([x[:, None, :].expand(-1, _PATCH, -1), y[:, :, None].expand(-1, -1, _PATCH)], dim=-1)
    patch = F.grid_sample(cover[:, None], grid, align_corners=False, padding_mode="zeros").mean(dim=0)[0]
    errors = {}
    for kind in KINDS:
        outline = distance(kind, steps[None, :], steps[:, None], 1.0)
        errors[kind] = min(
            float((torch.sigmoid(-outline / s * 2) - patch).square().mean()) for s in _SOFTNESS
        )
    best, second = sorted(errors, key=lambda kind: errors[kind])[:2]
    return best, errors[second] / max(errors[best], 1e-9)


def _activity(body: SeenBody) -> dict[str, float]:
    """How much the body bounces, slides and pulses, each in units of the least that counts."""
    seen = ~body.radius.isnan()
    time = torch.arange(len(seen))[seen].float()
    if len(time) < 4:
        return {"bounce": 0.0, "slide": 0.0, "pulse": 0.0}
    x, y = body.centre[seen].unbind(dim=-1)
    return {
        "bounce": _range(y) / _MIN_BOUNCE,
        "slide": abs(_slope(time, x)) * len(seen) / _MIN_SLIDE,
        "pulse": _range(body.radius[seen].clamp(min=1e-3).log()) / _MIN_PULSE,
    }


def _motion(body: SeenBody) -> Motion:
    activity = _activity(body)
    name = max(activity, key=lambda key: activity[key])
    if activity[name] < 1:
        return "still"
    if name == "slide":
        seen = ~body.radius.isnan()
        rightward = _slope(torch.arange(len(seen))[seen].float(), body.centre[seen, 0]) > 0
        return "slide_right" if rightward else "slide_left"
    return "bounce" if name == "bounce" else "pulse"


def find_contacts(y: Tensor) -> tuple[float, ...]:
    """Fractional frames at which a course y (F,), downwards, turns at its lowest: where its two flanks meet.

    The first and last two frames cannot show a turn. No contacts if the course is flatter than a bounce.
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
        if y[i] < window.max() or y[i] == y[i - 1]:
            continue
        before, after = y[max(0, i - 6) : i + 1].min(), y[i : i + 7].min()
        edge = min(i, len(y) - 1 - i) < 6
        drop = float(torch.minimum(y[i] - before, y[i] - after))
        if drop > (0.08 if edge else 0.25) * height:
            found.append(_turn(y, i))
    return tuple(found)


def _turn(y: Tensor, i: int) -> float:
    """Where the lines through the two frames on either side of the peak i meet."""
    if i < 2 or i > len(y) - 3:
        return float(i)
    falling, rising = float(y[i - 1] - y[i - 2]), float(y[i + 2] - y[i + 1])
    if falling - rising <= 1e-6:
        return float(i)
    # y[i-1] + falling (t + 1) = y[i+1] + rising (t - 1), t from i
    t = (float(y[i + 1] - y[i - 1]) - falling - rising) / (falling - rising)
    return i + min(1.0, max(-1.0, t))


def _fill(values: Tensor) -> Tensor:
    """NaN replaced by the last value seen (the first seen, at the start)."""
    seen = ~values.isnan()
    last = torch.where(seen, torch.arange(len(values)), -1).cummax(dim=0).values
    return values[last.clamp(min=int(seen.float().argmax()))]


def _range(values: Tensor) -> float:
    low, high = torch.quantile(values, torch.tensor([0.05, 0.95])).tolist()
    return float(high - low)


def _slope(time: Tensor, values: Tensor) -> float:
    time = time - time.mean()
    return float((time * (values - values.mean())).sum() / time.square().sum())
