"""Official names for the layers that a tool writes, also where a file has underscores in place of dots."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache

from torch import nn

from ...tiny.settings import TinyGeneration, tiny_config
from ...types import Numerics
from ..components import build
from ..detect import Component
from ..lora import Lora
from ..lora_dialects import ModuleNames, few, target_of

PREFIX = "diffusion_model."
"""Prefix of module names in official LoRA files."""

_PLACE = re.compile(r"(transformer_(?:1d_)?blocks_)(\d+)(_)")


def official_names(lora: Lora) -> Mapping[str, str]:
    """Module of ``lora`` -> name of the module with dots, as in official files.

    Raises ValueError for a name with underscores that no module of any LTX-2 has.
    """
    names: dict[str, str] = {}
    unknown = []
    for module in lora.layers:
        found = module if "." in module or target_of(module)[0] is not Component.TRANSFORMER else None
        found = found or _dotted(module)
        if found is None:
            unknown.append(module)
        else:
            names[module] = found
    if unknown:
        raise ValueError(f"{lora.path}: no LTX-2 has a layer called {few(unknown)}")
    return names


def key(module: str) -> str:
    """The name of a module in an official LoRA file; layers of a text encoder have no prefix."""
    component, _ = target_of(module)
    return module if component is Component.TEXT_ENCODER else PREFIX + module


def _dotted(flat: str) -> str | None:
    """The module that a name with underscores stands for, whatever the number of its block."""
    match = _PLACE.search(flat)
    plain = flat if match is None else flat.replace(match[0], f"{match[1]}0{match[3]}", 1)
    found = next((name for names in _vocabulary() if (name := names.find(plain))), None)
    if found is None or match is None:
        return found
    return re.sub(r"(transformer_(?:1d_)?blocks\.)0\.", rf"\g<1>{match[2]}.", found, count=1)


@cache
def _vocabulary() -> tuple[ModuleNames, ...]:
    """The names of all modules of the transformer, by the first block of each generation."""
    generations: Iterable[TinyGeneration] = ("2.3", "2.0")
    return tuple(ModuleNames(_shapes(generation)) for generation in generations)


def _shapes(generation: TinyGeneration) -> dict[str, tuple[int, ...]]:
    network = build(
        Component.TRANSFORMER,
        tiny_config(generation),
        {},
        operations=nn,
        numerics=Numerics.OFFICIAL,
    )
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
