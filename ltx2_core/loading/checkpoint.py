"""A model file: what it holds, told from its header alone, and its components as ready networks."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from ..types import Numerics
from .components import build
from .detect import Component, Names, describe_foreign, find_components, usual_file
from .header import Header, TensorInfo, read_header
from .infer import Generation, infer_config, infer_generation
from .lora import Lora, LoraReport, apply_loras

FLOATS = ("F64", "F32", "F16", "BF16")
_QUANTISED = ("F8_E4M3", "F8_E5M2", "F8_E8M0", "F4", "U8", "I8")
_COMPANIONS = (
    ".weight_scale",
    ".weight_scale_2",
    ".input_scale",
    ".scale_weight",
    ".scale_input",
    ".comfy_quant",
)


class Checkpoint:
    """One safetensors file: a single-file checkpoint, a split component, an upscaler or a LoRA.

    Nothing but the header is read until ``load``. The file name is never looked at.
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
        except (KeyError, IndexError) as error:
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
    ) -> nn.Module:
        """The network of ``component`` in evaluation mode, without gradients.

        With ``dtype`` None every tensor keeps the file's dtype and on the CPU stays memory-mapped, so that
        pages are read when used and shared by processes. ``loras`` are merged in float32; only layers that
        they change are copied.

        Raises ValueError, before any tensor is read, where the component is not in the file, is incomplete,
        quantised, or does not fit the configuration; or where a LoRA fits nowhere.
        """
        infos = self.infos(component)
        shapes = {name: info.shape for name, info in infos.items()}
        try:
            network = build(component, self.config, shapes, operations=operations, numerics=numerics)
        except ValueError as error:
            raise ValueError(f"{component} of {self.path}: {error}") from error
        self._check(component, infos, network)
        state = self._read(component, dtype, torch.device(device))
        if loras:
            state, _ = apply_loras(state, loras, component)
        network.load_state_dict(state, strict=True, assign=True)
        return network.requires_grad_(False).eval()

    def lora_report(self, component: Component, lora: Lora) -> LoraReport:
        """What ``lora`` would change in ``component``, told from the two headers."""
        return lora.report(component, {name: info.shape for name, info in self.infos(component).items()})

    @cached_property
    def _shapes(self) -> dict[Component, dict[str, tuple[int, ...]]]:
        return {
            component: {own: self.tensors[name].shape for own, name in names.items()}
            for component, names in self._names.items()
        }

    def _require(self, component: Component) -> Names:
        if component not in self._names:
            raise ValueError(
                f"{self.path} has no {component}; it holds {_listed(self.components)}. "
                f"The {component} is usually in {usual_file(component)}"
            )
        return self._names[component]

    def _check(self, component: Component, infos: Mapping[str, TensorInfo], network: nn.Module) -> None:
        """Compare header and network while both are still free of data."""
        self._refuse_quantised(component, infos)
        expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
        problems = {
            "missing": sorted(expected.keys() - infos.keys()),
            "unexpected": sorted(infos.keys() - expected.keys()),
            "of another shape": [
                f"{name} (file {infos[name].shape}, configuration {shape})"
                for name, shape in sorted(expected.items())
                if name in infos and infos[name].shape != shape
            ],
            "not floating point": [
                f"{name} ({info.dtype})" for name, info in sorted(infos.items()) if info.dtype not in FLOATS
            ],
        }
        told = [f"{len(names)} {what}: {_few(names)}" for what, names in problems.items() if names]
        if told:
            raise ValueError(f"{self.path} does not hold a usable {component}: {'; '.join(told)}")

    def _refuse_quantised(self, component: Component, infos: Mapping[str, TensorInfo]) -> None:
        quantised = [name for name, info in infos.items() if info.dtype in _QUANTISED]
        companions = [name for name in infos if name.endswith(_COMPANIONS)]
        if companions or any(infos[name].dtype.startswith("F8") for name in quantised):
            shown = _few(sorted({*quantised, *companions}))
            raise ValueError(
                f"the {component} of {self.path} is quantised ({shown}), which is not supported yet; "
                "use the bf16 file"
            )

    def _read(
        self, component: Component, dtype: torch.dtype | None, device: torch.device
    ) -> dict[str, Tensor]:
        with safe_open(self.path, framework="pt", device="cpu") as file:
            return {
                own: file.get_tensor(name).to(device=device, dtype=dtype)
                for own, name in self._require(component).items()
            }


def open_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Look into a model file; only its header is read.

    Raises FileNotFoundError, or ValueError that says what the file is instead: damaged, of another format, or
    of another model.
    """
    checkpoint = Checkpoint(read_header(path))
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
    held = "; ".join(f"{c.path.name}: {_listed(c.components)}" for c in files) or "no files"
    raise ValueError(
        f"no {component} in the given files ({held}). The {component} is usually in {usual_file(component)}"
    )


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


def _few(names: Sequence[str], limit: int = 3) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
