"""What a run trains: LoRA adapters of the transformer, or its own weights."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ..loading import Component, open_lora
from ..loading.convert import convert, single_parts
from ..loading.lora_report import updated_stream
from ..media.atomic import replacing
from ..storage.writing import Entry, entry_of
from ..training.adapters import Kind
from ..training.lora import LoraAdapters, save_lora, saved_name
from ..training.processes import Processes, split_blocks, whole
from ..transformer import Transformer
from .open_run import Opened, metadata
from .settings import FullSettings, LoraSettings
from .texts import TextNetworks

DTYPES = {"bf16": torch.bfloat16, "float32": torch.float32}


class Trainee(Protocol):
    """What a run trains and saves."""

    module: nn.Module
    """Holds what is trained; its state dict is that of the run."""

    def named(self) -> Iterator[tuple[str, str, nn.Parameter]]:
        """Yield (name in ``module``, official name of its layer, parameter) for all that is trained."""

    def begin_pass(self, number: int) -> None:
        """Prepare for forward pass ``number`` of the run."""

    def save(self, path: Path, step: int, *, write: bool = True) -> None:
        """Write the weights of ``step``; all processes must call this, one has ``write``."""


@dataclass(frozen=True)
class Networks:
    """The networks of a step; ``text`` is there if captions are not encoded to the end."""

    transformer: Transformer
    text: TextNetworks | None = None

    def named(self) -> nn.Module:
        """A module of all of them, in which modules have their official names."""
        if self.text is None:
            return self.transformer
        both = nn.Module()
        for prefix, network in self.text.official().items():
            if prefix:
                both.add_module(prefix, network)
                continue
            for one in (self.transformer, network):
                for name, child in one.named_children():
                    both.add_module(name, child)
        return both


class LoraTrainee:
    """LoRA, DoRA or LoKr adapters on the target layers of frozen networks."""

    def __init__(self, opened: Opened, networks: Networks, _processes: Processes) -> None:
        settings = opened.settings
        assert isinstance(settings, LoraSettings)
        self.opened, self.settings = opened, settings
        networks.transformer.requires_grad_(False)
        exact = "|".join(rf"^{re.escape(name)}$" for name in opened.layers)
        kind: Kind = settings.kind  # type: ignore[assignment]  # checked by the settings
        self.adapters = LoraAdapters(
            networks.named(),
            rank=settings.rank,
            alpha=settings.lora_alpha,
            targets=exact,
            seed=settings.seed,
            kind=kind,
            rank_stabilised=settings.rank_stabilized,
            dropout=settings.dropout,
        )
        # Layers of swapped blocks lie in system memory, their adapters do not.
        self.adapters.to(opened.networks.device)
        self.module: nn.Module = self.adapters
        if settings.init_lora and not opened.files.state.is_file():
            self._start_from(Path(settings.init_lora))

    def named(self) -> Iterator[tuple[str, str, nn.Parameter]]:
        for name, parameter in self.adapters.named_parameters():
            yield name, self.adapters.names[int(name.split(".")[1])], parameter

    def begin_pass(self, number: int) -> None:
        self.adapters.draw = number

    def save(self, path: Path, step: int, *, write: bool = True) -> None:
        """Write the LoRA in the chosen style of names, with the scale multiplied in and its metadata."""
        if write:
            tensors = styled(self.adapters.tensors(""), self.settings.key_style)
            facts = metadata(self.opened, step, len(self.adapters.names))
            save_lora(path, tensors, dtype=DTYPES[self.settings.save_precision], metadata=facts)

    def _start_from(self, path: Path) -> None:
        open_lora(path)
        tensors = load_file(path)
        for name, adapter in self.adapters.by_layer():
            prefix = f"{saved_name(name)}."
            own = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
            if not adapter.load(own):
                raise ValueError(f"init_lora: {path} has no layer {name} of rank {self.settings.rank}")


class FullTrainee:
    """The weights of the transformer, all of them or those that ``parameters`` names."""

    def __init__(self, opened: Opened, networks: Networks, processes: Processes) -> None:
        settings, network = opened.settings, networks.transformer
        assert isinstance(settings, FullSettings)
        self.opened, self.settings = opened, settings
        self.module: nn.Module = network
        with torch.no_grad():
            for parameter in network.parameters():
                # What was loaded may map the file, which must not be written to.
                parameter.data = parameter.data.clone()
        chosen = re.compile("|".join(settings.parameters))
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(bool(chosen.search(name)))
        if settings.sharding == "fsdp" and processes.size > 1:
            device = next(network.parameters()).device
            split_blocks(network.transformer_blocks, device, processes)

    def named(self) -> Iterator[tuple[str, str, nn.Parameter]]:
        for name, parameter in self.module.named_parameters():
            if parameter.requires_grad:
                yield name, name.rpartition(".")[0], parameter

    def begin_pass(self, number: int) -> None:
        """Do nothing: there is no dropout."""

    def save(self, path: Path, step: int, *, write: bool = True) -> None:
        """Write the file that held the transformer, with all else that is in it, with these weights."""
        dtype = DTYPES[self.settings.save_precision]
        tensors = {}
        for name, tensor in self.module.state_dict().items():
            stored = whole(tensor)
            if write:
                tensors[name] = stored.to("cpu", dtype)
        if write:
            base = self.opened.networks.file(Component.TRANSFORMER)
            facts = metadata(self.opened, step, len(tensors))
            path.parent.mkdir(parents=True, exist_ok=True)
            trained = {Component.TRANSFORMER: _Trained(tensors)}
            with replacing(path) as temporary:
                convert(temporary, [base], single_parts([base]), fp8=False, changed=trained, stated=facts)


@dataclass(frozen=True)
class _Trained:
    """The trained tensors, in place of those of the file."""

    tensors: Mapping[str, Tensor]

    def replaces(self, _own: str) -> bool:
        return True

    def entries(self) -> dict[str, Entry]:
        return {name: entry_of(tensor) for name, tensor in sorted(self.tensors.items())}

    def is_written(self, own: str, tensor: Tensor) -> bool:
        return torch.equal(tensor, self.tensors[own])


def styled(tensors: Mapping[str, Tensor], style: str) -> dict[str, Tensor]:
    """Name the tensors of a LoRA, by layer and ending, as a style has them: official, bare or kohya.

    The alpha of kohya is the rank, as the scale is in the matrices.
    """
    if style != "kohya":
        return {_official(name) if style == "official" else name: tensor for name, tensor in tensors.items()}
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        layer, _, end = name.rpartition(".lora_")
        flat = f"lora_unet_{layer.replace('.', '_')}"
        found[f"{flat}.lora_{'down' if end.startswith('A') else 'up'}.weight"] = tensor
        if end.startswith("A"):
            found[f"{flat}.alpha"] = torch.tensor(float(len(tensor)))
    return found


def _official(name: str) -> str:
    """The name in an official file of a tensor, by layer and ending."""
    layer, _, ending = name.rpartition(".lora_")
    if layer:
        return f"{saved_name(layer)}.lora_{ending}"
    layer, _, ending = name.rpartition(".")
    return f"{saved_name(layer)}.{ending}"


def stream_name(layer: str) -> Literal["video", "audio", "cross"]:
    """The stream of a layer for norms of gradients; cross is attention between the streams."""
    if "audio_to_video_attn" in layer or "video_to_audio_attn" in layer or "av_ca_" in layer:
        return "cross"
    return "audio" if updated_stream(layer) == "audio" else "video"


def by_stream(parts: Sequence[tuple[str, str, nn.Parameter]]) -> dict[str, list[nn.Parameter]]:
    """The trained parameters of each stream."""
    found: dict[str, list[nn.Parameter]] = {}
    for _, layer, parameter in parts:
        found.setdefault(stream_name(layer), []).append(parameter)
    return found
