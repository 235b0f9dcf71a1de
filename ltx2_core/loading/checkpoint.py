"""A model file or folder: what it holds, told from headers alone, and its components as ready networks."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..config.reader import DIFFUSION_VAE, DIFFUSION_VAE_ADVICE
from ..storage.header import Header, TensorInfo, read_header
from ..storage.quantized import QuantizedLinear, find_quantized, replace_linears
from ..storage.reading import decoded_shape, read_markers
from ..types import Numerics
from .components import build
from .detect import Component, Names, describe_foreign, find_components, usual_file
from .fit import check_fit
from .folder import read_folder
from .infer import Generation, infer_config, infer_generation
from .lora import Lora
from .lora_merge import Base, find_changes, merged, network_shapes, put, switch
from .lora_report import LoraReport


class Checkpoint:
    """A file or folder: a single-file checkpoint, split components, a diffusers folder, an upscaler, a LoRA.

    Nothing but headers is read until ``load``. File names are never looked at.
    """

    def __init__(self, header: Header) -> None:
        self._header = header
        self._names = find_components(header.tensors)

    @property
    def path(self) -> Path:
        return self._header.path

    @property
    def metadata(self) -> Mapping[str, Any]:
        """The header's ``__metadata__``, values parsed as JSON where they are JSON."""
        return self._header.metadata

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Every tensor of the file by its name there."""
        return self._header.tensors

    @property
    def components(self) -> frozenset[Component]:
        return frozenset(self._names)

    @cached_property
    def generation(self) -> Generation | None:
        """ "2.0", "2.3" or "2.5"; None where the file does not say (a LoRA or upscaler without metadata)."""
        return infer_generation(self._shapes, str(self.metadata.get("model_version", "")))

    @cached_property
    def config(self) -> dict[str, Any]:
        """The header's configuration; a section that is missing there is rebuilt from tensor shapes.

        Raises ValueError where neither the header nor the shapes tell.
        """
        stated = self.metadata.get("config", {})
        if not isinstance(stated, dict):
            kind = type(stated).__name__
            raise ValueError(f"{self.path}: metadata 'config' must be a JSON object; got {kind}")
        missing = {c: s for c, s in self._shapes.items() if _SECTION.get(c, "mid_channels") not in stated}
        try:
            return {**infer_config(missing), **stated}
        except (LookupError, ZeroDivisionError) as error:
            raise ValueError(
                f"{self.path} is incomplete: it has no 'config' metadata and lacks {error}"
            ) from None
        except ValueError as error:
            raise ValueError(f"{self.path}: {error}") from None

    def infos(self, component: Component) -> dict[str, TensorInfo]:
        """Official (unprefixed) name -> entry, for one component. Raises ValueError where it is not there."""
        return {own: self.tensors[name] for own, name in self._require(component).items()}

    def nbytes(self, component: Component) -> int:
        """Bytes of the component in the file; tensors that two components share count in both."""
        return sum(info.nbytes for info in self.infos(component).values())

    def load(
        self,
        component: Component,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str = "cpu",
        operations: Any = nn,
        loras: Sequence[Lora] = (),
        numerics: Numerics = Numerics.OFFICIAL,
        fp8_matmul: bool = False,
        nvfp4_matmul: bool = False,
    ) -> nn.Module:
        """The network of ``component`` in evaluation mode, without gradients.

        With ``dtype`` None every tensor keeps the file's dtype and on the CPU stays memory-mapped, so that
        pages are read when used and shared by processes. ``loras`` are merged, summed in float32; only layers
        that they change are copied. :meth:`switch_loras` exchanges them later.

        Quantised linear layers keep their weight as it is stored and decode it when used, so ``dtype`` is
        what they compute in. ``fp8_matmul`` and ``nvfp4_matmul`` let those in fp8 and NVFP4 multiply as they
        are stored where the device can, which rounds their input too. What else is quantised is decoded while
        loading.

        Raises ValueError, before any weight is read, where the component is not in the file, is incomplete,
        of an unknown number format, or does not fit the configuration; or where a LoRA fits nowhere.
        """
        network, base = self._prepare(
            component, operations, numerics, dtype, torch.device(device), fp8_matmul, nvfp4_matmul
        )
        changes, _ = find_changes(loras, component, base.shapes, self.generation)
        rebuilt = {name for module in changes for name in base.names(module)}
        state = base.state([name for name in base.infos if name not in rebuilt])
        for module, tensors in merged(base, changes):
            put(network, module, tensors, base)
            state.update((f"{module}.{suffix}", tensor) for suffix, tensor in tensors.items())
        network.load_state_dict(state, strict=True, assign=True)
        return network.requires_grad_(False).eval()

    def check(self, component: Component) -> None:
        """Raise the ValueError that :meth:`load` would raise before it reads any weight."""
        self._prepare(component, nn, Numerics.OFFICIAL, None, torch.device("cpu"), False, False)

    def switch_loras(
        self,
        network: nn.Module,
        component: Component,
        *,
        before: Sequence[Lora],
        after: Sequence[Lora],
        dtype: torch.dtype | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        """Exchange the LoRAs of a ``network`` that was loaded from here with ``before``, layer by layer.

        Every changed weight is computed anew from the file, so the result has the bits of a fresh load with
        ``after``, however often this is done. One layer at a time exists twice. ``dtype`` and ``device`` are
        those that it was loaded with. Raises ValueError, before anything changes, where a LoRA fits nowhere;
        after any other error the network has to be loaded again.
        """
        infos, shapes = self.infos(component), network_shapes(network)
        base = Base(
            infos=infos,
            layers=find_quantized(infos, read_markers(infos, self.metadata)),
            resident=frozenset(n for n, m in network.named_modules() if isinstance(m, QuantizedLinear)),
            shapes=shapes,
            dtype=dtype,
            device=torch.device(device),
        )
        new, _ = find_changes(after, component, shapes, self.generation)
        old, _ = find_changes(before, component, shapes, self.generation)
        switch(network, base, old, new)

    def lora_report(self, component: Component, lora: Lora) -> LoraReport:
        """What ``lora`` would change in ``component``, told from the two headers."""
        return lora.report(component, self.shapes(component), self.generation)

    def shapes(self, component: Component) -> Mapping[str, tuple[int, ...]]:
        """Official name -> shape of the decoded tensor. Raises ValueError where it is not there."""
        self._require(component)
        return self._shapes[component]

    @cached_property
    def _shapes(self) -> dict[Component, dict[str, tuple[int, ...]]]:
        """Of the decoded tensors."""
        return {
            component: {own: decoded_shape(self.tensors[name]) for own, name in names.items()}
            for component, names in self._names.items()
        }

    def _require(self, component: Component) -> Names:
        if component not in self._names:
            if component in _VIDEO_HALVES and self._is_diffusion_vae():
                raise ValueError(f"{component} of {self.path}: {DIFFUSION_VAE_ADVICE}")
            raise ValueError(
                f"{self.path} has no {component}; it holds {_listed(self.components)}. "
                f"The {component} is usually in {usual_file(component)}"
            )
        return self._names[component]

    def _is_diffusion_vae(self) -> bool:
        config = self.metadata.get("config")
        vae = config.get("vae") if isinstance(config, dict) else None
        return isinstance(vae, dict) and vae.get("_class_name") == DIFFUSION_VAE

    def _prepare(
        self,
        component: Component,
        operations: Any,
        numerics: Numerics,
        dtype: torch.dtype | None,
        device: torch.device,
        fp8_matmul: bool,
        nvfp4_matmul: bool,
    ) -> tuple[nn.Module, Base]:
        """The network on ``meta`` and what fills it, found to fit each other."""
        infos, shapes = self.infos(component), self._shapes[component]
        try:
            network = build(component, self.config, shapes, operations=operations, numerics=numerics)
            plain = network
            if operations is not nn:
                # A host's layers may have no parameters before they are loaded: torch's tell what to expect.
                plain = build(component, self.config, shapes, operations=nn, numerics=numerics)
            layers = find_quantized(infos, read_markers(infos, self.metadata))
        except ValueError as error:
            raise ValueError(f"{component} of {self.path}: {error}") from error
        # The projection is multiplied slice by slice, so its weight has to be there.
        kept = [] if component is Component.TEXT_PROJECTION else list(layers.values())
        expected = {name: tuple(tensor.shape) for name, tensor in plain.state_dict().items()}
        resident = replace_linears(network, kept, plain, fp8_matmul=fp8_matmul, nvfp4_matmul=nvfp4_matmul)
        check_fit(self.path, component, infos, layers, expected)
        return network, Base(
            infos=infos, layers=layers, resident=resident, shapes=expected, dtype=dtype, device=device
        )


def open_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Look into a model file or folder; only headers are read.

    A folder is a diffusers pipeline (or its ``model_index.json``), one component of it, or holds split files.

    Raises FileNotFoundError, or ValueError that says what the file is instead: damaged, of another format, or
    of another model.
    """
    path = Path(path)
    if path.name == "model_index.json":
        path = path.parent
    checkpoint = Checkpoint(read_folder(path) if path.is_dir() else read_header(path))
    video_only = "adaln_single.emb.timestep_embedder.linear_1.bias"
    foreign = Component.TRANSFORMER not in checkpoint.components and any(
        name.endswith(f".{video_only}") or name == video_only for name in checkpoint.tensors
    )
    if (foreign or not checkpoint.components) and Component.LORA not in checkpoint.components:
        raise ValueError(
            f"{path} is not an LTX-2 file: found {describe_foreign(checkpoint.tensors)}; expected an LTX-2 "
            "checkpoint or a part of one (transformer, connectors, VAE, vocoder, upscaler, LoRA)"
        )
    return checkpoint


def find_component(checkpoints: Iterable[Checkpoint], component: Component) -> Checkpoint:
    """The first file that holds ``component``. Raises ValueError that lists what each file holds."""
    files = list(checkpoints)
    for checkpoint in files:
        if component in checkpoint.components:
            return checkpoint
    for checkpoint in files:
        if len(files) == 1 or (component in _VIDEO_HALVES and checkpoint._is_diffusion_vae()):
            checkpoint._require(component)
    held = "; ".join(f"{c.path.name}: {_listed(c.components)}" for c in files) or "no files"
    raise ValueError(
        f"no {component} in the given files ({held}). The {component} is usually in {usual_file(component)}"
    )


_VIDEO_HALVES = (Component.VIDEO_ENCODER, Component.VIDEO_DECODER)

_SECTION: Mapping[Component, str] = {
    Component.TRANSFORMER: "transformer",
    Component.TEXT_CONNECTORS: "transformer",
    Component.TEXT_PROJECTION: "transformer",
    Component.VIDEO_ENCODER: "vae",
    Component.VIDEO_DECODER: "vae",
    Component.AUDIO_ENCODER: "audio_vae",
    Component.AUDIO_DECODER: "audio_vae",
    Component.VOCODER: "vocoder",
}
"""Section of the header's configuration for each component; an upsampler's lies flat."""


def _listed(components: Iterable[Component]) -> str:
    order = list(Component)
    return ", ".join(str(c) for c in sorted(components, key=order.index)) or "nothing known"
