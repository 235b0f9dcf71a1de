"""Prepared steps of random strategies against the official rules in plain formulas, from the same seed."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch import Tensor

from ltx2_core.training.objective import Clips, GeneratorDraws, Reference, prepare
from ltx2_core.training.objective.objective import official_objective
from ltx2_core.types import TextContext

Rows = dict[str, Tensor]
GRIDS = [(1, 1, 2), (2, 2, 2), (3, 2, 4), (5, 4, 2), (7, 4, 6), (1, 2, 2)]


@pytest.mark.parametrize("seed", range(40))
def test_a_step_of_any_strategy_has_the_official_inputs(seed) -> None:
    pick = random.Random(seed)
    clips, strategy = _clips(pick, seed), _strategy(pick)
    torch.manual_seed(seed)
    own = prepare(official_objective(strategy), clips, GeneratorDraws(torch.default_generator))
    after = torch.rand(1)
    torch.manual_seed(seed)
    for name in ("video", "audio"):
        found, expected = getattr(own, name), _plain(name, strategy.get(name), clips)
        if expected is None:
            assert found is None
            continue
        for part, value in expected.items():
            actual = {
                "tokens": found.modality.tokens,
                "timesteps": found.modality.timesteps,
                "positions": found.modality.positions,
                "target": found.target,
                "in_loss": found.in_loss,
            }[part]
            # Noise of the cache's precision is what official numbers need; clean tokens are the same in any.
            assert part != "target" or actual.dtype == value.dtype
            assert torch.equal(actual.expand(value.shape).float(), value.float()), (name, part, strategy)
    assert torch.equal(torch.rand(1), after), "as many random numbers are drawn"


def _clips(pick: random.Random, seed: int) -> Clips:
    generator = torch.Generator().manual_seed(seed)
    batch, (frames, rows, columns), heard = (
        pick.choice([1, 2, 3]),
        pick.choice(GRIDS),
        pick.choice([5, 9, 17]),
    )
    dtype = pick.choice([torch.float32, torch.bfloat16])
    space = pick.choice([1, 2]) if rows % 2 == columns % 2 == 0 else 1
    time = pick.choice([1, 2]) if frames in (5, 7) else 1
    fps = pick.choice([24.0, 25.0, 30.0])

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    small = ((frames - 1) // time + 1, rows // space, columns // space)
    return Clips(
        video=normal(batch, 8, frames, rows, columns),
        audio=torch.randn(batch, 8, heard, 16, generator=generator),
        context=TextContext(torch.zeros(batch, 1, 1), torch.zeros(batch, 1, 1)),
        fps=fps,
        video_mask=torch.rand(batch, frames, rows, columns, generator=generator),
        audio_mask=torch.rand(batch, heard, generator=generator),
        references=tuple(Reference(normal(batch, 8, *small), fps / time) for _ in range(2)),
        audio_references=(torch.randn(batch, 8, 7, 16, generator=generator),),
    )


def _strategy(pick: random.Random) -> dict[str, Any]:
    """A random strategy as the official configuration has it."""
    corner, end = pick.choice([0, 20, 32]), pick.choice([40, 64, 300])
    video: list[dict[str, Any]] = [
        {"type": "first_frame"},
        {"type": "prefix", "temporal_boundary": pick.choice([1, 2, 9])},
        {"type": "suffix", "temporal_boundary": pick.choice([1, 2, 9])},
        {
            "type": "spatial_crop",
            "spatial_region": [corner, pick.choice([0, 33]), end, pick.choice([70, 500])],
        },
        *({"type": kind} for kind in ("mask", "reference", "reference")),
    ]
    audio: list[dict[str, Any]] = [
        {"type": "prefix", "temporal_boundary": 3},
        {"type": "suffix", "temporal_boundary": 4},
        *({"type": kind} for kind in ("mask", "reference")),
    ]

    def some(kinds: list[dict[str, Any]]) -> list[dict[str, Any]]:
        chosen = pick.sample(kinds, pick.randrange(4))
        return [{**kind, "probability": pick.choice([1.0, 0.5, 0.2])} for kind in chosen]

    mode = pick.choice(["t2v", "video", "audio", "v2a", "a2v"])
    strategy: dict[str, Any] = {"name": "flexible"}
    if mode != "audio":
        strategy["video"] = {"is_generated": mode != "v2a", "conditions": some(video)}
    if mode != "video":
        strategy["audio"] = {"is_generated": mode != "a2v", "conditions": some(audio)}
    return strategy


def _plain(name: str, block: dict[str, Any] | None, clips: Clips) -> Rows | None:
    """The inputs of one stream by the formulas of the official trainer."""
    if block is None:
        return None
    latent = getattr(clips, name)
    tokens = _tokens(latent)
    batch, count = tokens.shape[:2]
    generated, conditions = block["is_generated"], block["conditions"]
    sigma, noisy, found = torch.zeros(batch), tokens, Rows()
    if generated:
        sigma = _sigma(batch, count)
        noise = torch.randn(tokens.shape, dtype=tokens.dtype)
        noisy = (1 - sigma[:, None, None]) * tokens + sigma[:, None, None] * noise
        found["target"] = noise - tokens
    known = torch.zeros(batch, count, dtype=torch.bool)
    for condition in conditions:
        if generated and condition["type"] != "reference":
            chosen = torch.rand(batch) < condition["probability"]
            known |= _kept(name, condition, clips).expand(batch, -1) & chosen[:, None]
    if generated:
        found["in_loss"] = ~known
    noisy = torch.where(known[..., None], tokens.to(noisy.dtype), noisy)
    timesteps = torch.where(known, torch.zeros(()), sigma[:, None].expand(batch, count))
    rows = {"tokens": noisy, "timesteps": timesteps, "positions": _positions(latent, clips.fps)}
    return {**found, **_with_references(name, conditions, clips, rows)}


def _with_references(name: str, conditions: list[dict[str, Any]], clips: Clips, rows: Rows) -> Rows:
    """The rows of a stream with its references in front."""
    latent = getattr(clips, name)
    references = iter(clips.references if name == "video" else clips.audio_references)
    for condition in conditions:
        if condition["type"] != "reference":
            continue
        reference = next(references)
        if float(torch.rand(())) >= condition["probability"]:
            continue
        if isinstance(reference, Reference):
            other, own = reference.latent, _positions(reference.latent, reference.fps)
            time = (latent.shape[2] - 1) // (other.shape[2] - 1) if other.shape[2] > 1 else 1
            if time > 1:
                own[:, 0] = (own[:, 0] - (time - 1) / clips.fps).clamp(min=0)
            own[:, 1:] *= latent.shape[3] // other.shape[3]
        else:
            other, own = reference, _positions(reference, 0.0)
        clean = _tokens(other).to(rows["tokens"].dtype)
        rows = {
            "tokens": torch.cat((clean, rows["tokens"]), 1),
            "timesteps": torch.cat((torch.zeros(clean.shape[:2]), rows["timesteps"]), 1),
            "positions": torch.cat((own, rows["positions"]), 2),
        }
    return rows


def _sigma(batch: int, tokens: int) -> Tensor:
    mean = 0.95 + (tokens - 1024) * 1.10 / 3072
    normal, uniform, choice = torch.randn(batch), torch.rand(batch), torch.rand(batch)
    low, high = (torch.sigmoid(torch.tensor(mean + shift)) for shift in (-2.5758, 3.0902))
    sigma = (torch.sigmoid(mean + normal) - low) / (high - low)
    sigma = torch.where(sigma < 1e-3, 2e-3 - sigma, sigma).clamp(0, 1)
    return torch.where(choice > 0.1, sigma, (1 - 1e-3) * uniform + 1e-3)


def _tokens(latent: Tensor) -> Tensor:
    if latent.ndim == 5:
        return latent.flatten(2).transpose(1, 2)
    return latent.transpose(1, 2).flatten(2)


def _positions(latent: Tensor, fps: float) -> Tensor:
    if latent.ndim == 4:
        bounds = [
            [max(0, 4 * t - 3) * 160 / 16000, (4 * t + 1) * 160 / 16000] for t in range(latent.shape[2])
        ]
        return torch.tensor(bounds)[None, None]
    frames, rows, columns = latent.shape[2:]
    found = torch.empty(1, 3, frames, rows, columns, 2)
    for f in range(frames):
        found[0, 0, f] = torch.tensor([max(0.0, 8 * f - 7), 8 * f + 1.0]) / fps
    for y in range(rows):
        found[0, 1, :, y] = torch.tensor([32.0 * y, 32.0 * y + 32])
    for x in range(columns):
        found[0, 2, :, :, x] = torch.tensor([32.0 * x, 32.0 * x + 32])
    return found.flatten(2, 4)


def _kept(name: str, condition: dict[str, Any], clips: Clips) -> Tensor:
    """Which tokens a condition makes known, (B or 1, N)."""
    latent, kind = getattr(clips, name), condition["type"]
    if kind == "mask":
        return (getattr(clips, f"{name}_mask") > 0.5).flatten(1)
    shape = latent.shape[2:] if name == "video" else latent.shape[2:3]
    kept = torch.zeros(shape, dtype=torch.bool)
    if kind == "spatial_crop":
        top, left, bottom, right = condition["spatial_region"]
        kept[:, top // 32 : bottom // 32, left // 32 : right // 32] = True
    elif kind == "suffix":
        kept[max(0, len(kept) - condition["temporal_boundary"]) :] = True
    else:
        kept[: condition.get("temporal_boundary", 1)] = True
    return kept.flatten()[None]
