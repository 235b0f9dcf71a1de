"""Layouts of the diffusion video decoder that differ from its network: split projections and static gates.

diffusers stores the projections to queries, keys and values as three tensors, the network has them as one.
Some distilled files have constant gates, factors of the attention and of the feed-forward of the diffusion
blocks; loading multiplies each into the last layer of what it scales.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ..storage.header import TensorInfo
from ..storage.reading import read_tensors

_SPLIT = ("to_q", "to_k", "to_v")
_GATED = {
    "attn.proj.weight": "gate_msa",
    "attn.proj.bias": "gate_msa",
    "mlp.w_down.weight": "gate_mlp",
    "context_proj.weight": "gate_ctx",
    "context_proj.bias": "gate_ctx",
}
"""Name of a tensor in a diffusion block -> name of the stored gate that its rows are multiplied by."""

_BLOCK = re.compile(r"(decoder\.diff_blocks\.\d+\.)(.+)")


def sources(name: str, infos: Mapping[str, TensorInfo]) -> tuple[str, ...]:
    """Names of the stored tensors from which :func:`made` makes the tensor ``name`` of the network.

    These are ``name`` alone, or ``name`` and a constant gate that scales it, or the three projections that
    are joined to it, as ``infos``, the header entries of the file by tensor name, has them.
    """
    parts = _parts(name)
    if name not in infos and all(part in infos for part in parts):
        return parts
    gate = _gate(name)
    return (name, gate) if gate in infos else (name,)


def stored_shapes(
    expected: Mapping[str, tuple[int, ...]], infos: Mapping[str, TensorInfo]
) -> dict[str, tuple[int, ...]]:
    """Return name -> shape for the tensors that a file with the header ``infos`` must have.

    ``expected`` are the names and shapes of the network's tensors.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for name, shape in expected.items():
        names = sources(name, infos)
        if len(names) == len(_SPLIT):
            shapes.update((part, (shape[0] // len(_SPLIT), *shape[1:])) for part in names)
            continue
        shapes[name] = shape
        if len(names) == 2:
            shapes[names[1]] = shape[:1]
    return shapes


def made(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert the tensors of a file, ``state``, to those of the network; both are by name without a prefix.

    Separate projections to queries, keys and values are joined to one tensor. Constant gates, factors of the
    rows of a layer's weight and bias, are multiplied into that layer and left out.
    """
    gates = {name for name in state if name.rpartition(".")[2] in _GATED.values()}
    result: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name in gates:
            continue
        whole = name.replace(f".{_SPLIT[0]}.", ".qkv.")
        if whole != name:
            result[whole] = torch.cat([state[part] for part in _parts(whole)])
        elif not any(f".attn.{part}." in name for part in _SPLIT):
            gate = _gate(name)
            result[name] = _multiplied(tensor, state[gate]) if gate in gates else tensor
    return result


def entries(infos: Mapping[str, TensorInfo]) -> dict[str, tuple[str, tuple[int, ...], Callable[[], Tensor]]]:
    """Describe the network's tensors, so that they can be written to a file: name -> (dtype, shape, read).

    ``infos`` are the header entries of the file to read, by tensor name, in any supported layout. The dtype
    is that of the header, such as "BF16"; ``read()`` returns the tensor as the network has it.
    """
    found: dict[str, tuple[str, tuple[int, ...], Callable[[], Tensor]]] = {}
    for name in dict.fromkeys(_whole(name) for name in infos):
        if name.rpartition(".")[2] in _GATED.values():
            continue
        names = sources(name, infos)
        first = infos[names[0]]
        rows = first.shape[0] * len(_SPLIT) if len(names) == len(_SPLIT) else first.shape[0]

        def read(name: str = name, names: tuple[str, ...] = names) -> Tensor:
            return made(read_tensors({part: infos[part] for part in names}))[name]

        found[name] = (first.dtype, (rows, *first.shape[1:]), read)
    return found


def _whole(name: str) -> str:
    return re.sub(r"\.attn\.to_[qkv]\.", ".attn.qkv.", name)


def _parts(name: str) -> tuple[str, ...]:
    return (
        tuple(name.replace(".attn.qkv.", f".attn.{part}.") for part in _SPLIT) if ".attn.qkv." in name else ()
    )


def _gate(name: str) -> str:
    match = _BLOCK.fullmatch(name)
    return f"{match[1]}{_GATED[match[2]]}" if match and match[2] in _GATED else ""


def _multiplied(tensor: Tensor, gate: Tensor) -> Tensor:
    # In float32, and rounded once.
    rows = gate.float().reshape(-1, *[1] * (tensor.ndim - 1))
    return (tensor.float() * rows).to(tensor.dtype)
