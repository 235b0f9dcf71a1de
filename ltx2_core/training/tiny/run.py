"""One making of the tiny set: its folder, its files, and what each stage starts from.

Below the folder: ``models`` is the result, ``parts`` one file for each finished network, ``latents`` the
cache, ``start`` given weights to begin with, ``state`` what unfinished stages continue from, ``cost.json``
the seconds that have been spent.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ...media.atomic import replacing
from ...tiny.write import TinySet
from ..loop import LoopOptions
from ..text import TextBatch, batch_text, encode_captions, load_text
from .scales import Scale

Recipe = TypeVar("Recipe")


class Unfinished(Exception):
    """The time given to a run was over before its stage was; the same call goes on from there."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One making of the set: where, how large, from which seed.

    ``prompts`` stand for "no prompt" in training: the empty one and what negative prompts will say.
    ``steps`` replaces the number of steps of stages by name. ``max_seconds`` bounds the whole run. Gradient
    steps are on ``device``; what is solved, drawn and kept stays on the CPU.
    """

    folder: Path
    scale: Scale
    seed: int = 0
    prompts: tuple[str, ...] = ("",)
    steps: Mapping[str, int] = field(default_factory=dict)
    max_seconds: float = float("inf")
    dtype: torch.dtype = torch.float32
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    workers: int = 1
    """Processes that make latents."""
    progress: bool = True
    started: float = field(default_factory=time.monotonic)

    @property
    def models(self) -> TinySet:
        return TinySet.in_folder(self.folder / "models")

    @property
    def distilled(self) -> Path:
        return self.models.distilled

    @property
    def edges(self) -> Path:
        return self.models.edges

    def part(self, name: str) -> Path:
        return self.folder / "parts" / f"{name}.safetensors"

    def start(self, name: str) -> Path:
        """What a stage begins with in place of new weights, where the file exists."""
        return self.folder / "start" / f"{name}.safetensors"

    def state(self, name: str) -> Path:
        return self.folder / "state" / f"{name}.safetensors"

    def outputs(self, stage: str) -> tuple[Path, ...]:
        """What a stage leaves behind."""
        return {
            "text": (self.models.text_encoder / "model.safetensors",),
            "latents": (self.folder / "latents" / "complete",),
            "upsampler": (self.models.upsampler,),
            "distilled": (self.distilled,),
            "edges": (self.edges,),
            "export": (self.models.checkpoint,),
        }.get(stage, (self.part(stage),))

    def options(self) -> LoopOptions:
        """For a loop that starts now."""
        left = max(0.0, self.max_seconds - (time.monotonic() - self.started))
        return LoopOptions(
            max_seconds=left, dtype=self.dtype, progress=self.progress, evaluates=self.scale.evaluates
        )

    def sized(self, stage: str, recipe: Recipe) -> Recipe:
        """``recipe`` with the number of steps that was asked for."""
        if stage not in self.steps:
            return recipe
        return replace(recipe, total_steps=self.steps[stage])  # type: ignore[type-var]

    def unconditional(self) -> TextBatch:
        """States of the prompts that stand for no prompt, on the device."""
        states = encode_captions(*load_text(self.models.text_encoder), self.prompts).all()
        return batch_text(states).map(lambda t: t.to(self.device))

    def load(self, network: nn.Module, path: Path, prefix: str) -> None:
        """Give ``network`` the tensors that the part at ``path`` holds for it, and freeze it."""
        tensors = load_file(path)
        state = {name: tensors[prefix + name] for name in network.state_dict()}
        network.load_state_dict(state, strict=True)
        network.eval().requires_grad_(False)

    def check_finished(self, stage: str, total_steps: int, *, after: float = 0, seconds: float = 1) -> None:
        """Raises Unfinished unless the state of ``stage`` has reached ``total_steps``.

        A recipe that has been given ``seconds`` is finished ``after`` as many.
        """
        if after >= seconds:
            return
        step, path = 0, self.state(stage)
        if path.exists():
            with safe_open(path, framework="pt") as file:
                step = int(json.loads(file.metadata()["training"])["step"])
        if step < total_steps:
            raise Unfinished(f"{stage} has done {step} of {total_steps} steps")

    def check_time(self) -> None:
        """Raises Unfinished when the time is over."""
        if time.monotonic() - self.started > self.max_seconds:
            raise Unfinished("the time is over")

    def spend(self, stage: str, seconds: float) -> None:
        """Add to the cost of a stage."""
        path = self.folder / "cost.json"
        cost = self.cost()
        cost[stage] = round(cost.get(stage, 0.0) + seconds, 1)
        self.folder.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(cost, indent=2) + "\n", encoding="utf-8")

    def cost(self) -> dict[str, float]:
        """Seconds spent so far by stage."""
        path = self.folder / "cost.json"
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}


def save_tensors(
    path: Path,
    tensors: Mapping[str, Tensor],
    *,
    dtype: torch.dtype = torch.float32,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a safetensors file whole or not at all, readable by everyone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    stored = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in sorted(tensors.items())}
    with replacing(path) as temporary:
        save_file(stored, temporary, metadata=dict(metadata or {}) or None)
        temporary.chmod(0o644)  # safetensors makes files that only their owner can read


def prefixed(prefix: str, network: nn.Module) -> dict[str, Tensor]:
    """The state dict with ``prefix`` before each name."""
    return {prefix + name: tensor for name, tensor in network.state_dict().items()}


def without_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with ``prefix``, by the rest of their names."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
