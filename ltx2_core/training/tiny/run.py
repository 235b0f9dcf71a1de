"""One run of the recipe of the tiny set: its folder and its files.

In the folder, ``models`` is the result, ``parts`` has one file for each finished network, ``latents`` the
dataset, ``start`` initial weights from an existing set, ``state`` the files from which unfinished stages
resume, and ``cost.json`` the seconds that each stage has taken.
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
from safetensors.torch import load_file
from torch import Tensor, nn

from ...media.atomic import replacing
from ...storage.writing import write_tensors
from ...tiny.write import TinySet
from ..loop import LoopOptions
from ..text import TextBatch, batch_text, encode_captions, load_text
from .scales import Scale

Recipe = TypeVar("Recipe")


class Unfinished(Exception):
    """Raised when the time limit ends a run before a stage (the training of one network) is done.

    The same call again resumes the stage.
    """


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of the training of a tiny model set: its folder, scale (sizes and steps), seed and limits.

    The run consists of stages, each of which writes one network, LoRA, dataset or checkpoint to the folder.
    """

    folder: Path
    scale: Scale
    seed: int = 0
    prompts: tuple[str, ...] = ("",)
    """Prompts that stand for "no prompt" in training: the empty one and the usual negative one."""
    steps: Mapping[str, int] = field(default_factory=dict)
    """Numbers of steps by stage, in place of those of the scale."""
    max_seconds: float = float("inf")
    """Time limit of the whole run."""
    dtype: torch.dtype = torch.float32
    """bfloat16 computes gradient steps under autocast."""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    """Of gradient steps; least squares, random numbers and files stay on the CPU."""
    workers: int = 1
    """Processes that encode latents."""
    progress: bool = True
    """Whether to display progress bars."""
    started: float = field(default_factory=time.monotonic)
    base: TinySet | None = None
    """The trained set of 2.3 that the training of LTX-2.5 continues; None for a set of 2.3."""

    @property
    def models(self) -> TinySet:
        return TinySet.in_folder(self.folder / "models", "2.3" if self.base is None else "2.5")

    @property
    def changes(self) -> Path:
        """Folder of the small files in which a set of LTX-2.5 differs from that of 2.3 that it continues."""
        return self.folder / "changes"

    @property
    def distilled(self) -> Path:
        return self.models.distilled

    @property
    def edges(self) -> Path:
        return self.models.edges

    def part(self, name: str) -> Path:
        return self.folder / "parts" / f"{name}.safetensors"

    def start(self, name: str) -> Path:
        """Path of the weights that the network of stage ``name`` starts from, if the file exists.

        They are copied from a trained model set. Without the file the stage computes its own initial weights.
        """
        return self.folder / "start" / f"{name}.safetensors"

    def state(self, name: str) -> Path:
        return self.folder / "state" / f"{name}.safetensors"

    def outputs(self, stage: str) -> tuple[Path, ...]:
        """The files that ``stage`` (the training of a network, by name) writes; it is done when all exist."""
        return {
            "text": (self.models.text_encoder / "model.safetensors",),
            "latents": (self.folder / "latents" / "complete",),
            "upsampler": (self.models.upsampler,),
            "distilled": (self.distilled,),
            "edges": (self.edges,),
            "export": (self.models.checkpoint,),
        }.get(stage, (self.part(stage),))

    def options(self) -> LoopOptions:
        """Options for a training loop that starts now; its time limit is what remains of that of the run."""
        left = max(0.0, self.max_seconds - (time.monotonic() - self.started))
        return LoopOptions(
            max_seconds=left, dtype=self.dtype, progress=self.progress, evaluates=self.scale.evaluates
        )

    def sized(self, stage: str, recipe: Recipe) -> Recipe:
        """A copy of ``recipe`` with the number of steps that the user set for ``stage``, if any."""
        if stage not in self.steps:
            return recipe
        return replace(recipe, total_steps=self.steps[stage])  # type: ignore[type-var]

    def unconditional(self) -> TextBatch:
        """The text encoder's hidden states of the prompts that stand for "no prompt", on the run's device."""
        states = encode_captions(*load_text(self.models.text_encoder), self.prompts).all()
        return batch_text(states).map(lambda t: t.to(self.device))

    def load(self, network: nn.Module, path: Path, prefix: str) -> None:
        """Load weights from the file ``path`` into ``network``, and freeze it.

        They are the tensors whose names in the file start with ``prefix``; the network's names have none.
        """
        tensors = load_file(path)
        state = {name: tensors[prefix + name] for name in network.state_dict()}
        network.load_state_dict(state, strict=True)
        network.eval().requires_grad_(False)

    def check_finished(self, stage: str, total_steps: int, *, after: float = 0, seconds: float = 1) -> None:
        """Raise Unfinished unless the state file of ``stage`` has reached ``total_steps``.

        ``seconds`` is the time limit of the stage, and ``after`` how many seconds it has trained in this
        call: if that is the limit or more, the stage counts as finished at any step.
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
        """Raise Unfinished if the time limit of the run has passed."""
        if time.monotonic() - self.started > self.max_seconds:
            raise Unfinished("the time limit has passed")

    def spend(self, stage: str, seconds: float) -> None:
        """Add ``seconds`` to the recorded cost of ``stage`` in ``cost.json``."""
        path = self.folder / "cost.json"
        cost = self.cost()
        # Added up, since a stage may have been stopped and resumed.
        cost[stage] = round(cost.get(stage, 0.0) + seconds, 1)
        self.folder.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(cost, indent=2) + "\n", encoding="utf-8")

    def cost(self) -> dict[str, float]:
        """Seconds spent so far, by name of stage."""
        path = self.folder / "cost.json"
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}


def save_tensors(
    path: Path,
    tensors: Mapping[str, Tensor],
    *,
    dtype: torch.dtype = torch.float32,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write ``tensors``, by name, as a safetensors file in ``dtype`` that all users may read.

    ``metadata`` is for its header. The file appears whole or not at all.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Sorted, so that equal tensors give equal files.
    stored = {name: tensor.detach().to("cpu", dtype) for name, tensor in sorted(tensors.items())}
    write_tensors(path, stored, metadata)


def prefixed(prefix: str, network: nn.Module) -> dict[str, Tensor]:
    """The state dict of ``network`` with ``prefix`` before each name."""
    return {prefix + name: tensor for name, tensor in network.state_dict().items()}


def without_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those of ``tensors`` whose names start with ``prefix``, under their names without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
