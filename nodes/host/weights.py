"""Reading a checkpoint through the host, so that its lazy and file-backed loading stays in force."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.utils
from torch import Tensor, nn

from ...ltx2_core.loading.checkpoint import Checkpoint, open_checkpoint
from ...ltx2_core.loading.detect import Component

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Weights:
    """One opened file: what it holds and its tensors under their names in the file."""

    checkpoint: Checkpoint
    tensors: Mapping[str, Tensor]

    @property
    def name(self) -> str:
        return self.checkpoint.path.name

    @property
    def config(self) -> dict[str, Any]:
        return self.checkpoint.config

    def take(self, *components: Component) -> Tensors:
        """Tensors of ``components`` under their official names; ValueError if the file lacks one of them."""
        return {
            own: self.tensors[info.name]
            for component in components
            for own, info in self.checkpoint.infos(component).items()
        }


def read_weights(path: str | Path) -> Weights:
    """Open a safetensors file. Raises ValueError if it is damaged or not one of LTX-2."""
    checkpoint = open_checkpoint(path)
    return Weights(checkpoint, comfy.utils.load_torch_file(str(path)))


def load_exactly(module: nn.Module, tensors: Tensors, what: str, *, assign: bool) -> None:
    """Load ``tensors`` into ``module``; ValueError names the first keys that are missing or left over.

    ``assign`` makes the tensors themselves the parameters instead of copying them.
    """
    missing, unexpected = module.load_state_dict(tensors, strict=False, assign=assign)
    if missing or unexpected:
        raise ValueError(
            f"{what}: the weights do not fit the network; {len(missing)} missing ({', '.join(missing[:3])}), "
            f"{len(unexpected)} unexpected ({', '.join(unexpected[:3])})"
        )
