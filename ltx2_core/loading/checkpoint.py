"""Opens a model file or folder: detects its components from headers and loads them as networks."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..config.diffusion import DIFFUSION_VAE
from ..config.reader import VIDEO_TRANSFORMER
from ..storage.files import ParsedJson
from ..storage.gguf import is_gguf, read_gguf_header
from ..storage.header import Header, TensorInfo, read_header
from ..storage.quantized import QuantizedLinear, find_quantized, replace_linears
from ..storage.reading import decoded_shape, read_markers
from ..types import Numerics
from . import diffusion_vae
from .components import build
from .detect import DIFFUSION_MARK, Component, Names, describe_foreign, find_components, usual_file
from .fit import check_fit
from .folder import read_folder
from .infer import Generation, infer_config, infer_generation, is_causal, is_video_only
from .lora import Lora
from .lora_merge import Base, find_changes, merged, network_shapes, put, switch
from .lora_report import LoraReport
from .sections import SECTION

_VAE_HALVES = frozenset({Component.VIDEO_ENCODER, Component.VIDEO_DECODER})


class Checkpoint:
    """An opened model file or folder: single-file checkpoint, split files, diffusers folder, upscaler, LoRA.

    Its components (transformer, video decoder, ...) are detected from tensor names and metadata, never from
    file names. Only headers are read until :meth:`load`.
    """

    def __init__(self, header: Header) -> None:
        self._header = header
        self._names = find_components(header.tensors)

    @property
    def path(self) -> Path:
        return self._header.path

    @property
    def metadata(self) -> ParsedJson:
        """The header's ``__metadata__``; values that are JSON text are parsed."""
        return self._header.metadata

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Header entries (dtype, shape, place in the file) of all tensors, by their name in the file."""
        return self._header.tensors

    @property
    def components(self) -> frozenset[Component]:
        return frozenset(self._names)

    @cached_property
    def generation(self) -> Generation | None:
        """The model generation, such as "2.3"; "0.9" is LTX-Video.

        None if unknown, as for a LoRA without metadata.
        """
        return infer_generation(self._shapes, str(self.metadata.get("model_version", "")))

    @cached_property
    def config(self) -> ParsedJson:
        """The configuration of the networks in the header; a missing section is inferred from tensor shapes.

        Raises ValueError if the header is malformed, or if the shapes do not determine a missing section.
        """
        stated = self.metadata.get("config", {})
        if not isinstance(stated, dict):
            kind = type(stated).__name__
            raise ValueError(f"{self.path}: metadata 'config' must be a JSON object; got {kind}")
        # A section that the header states is never guessed from shapes.
        missing = {c: s for c, s in self._shapes.items() if SECTION.get(c, "mid_channels") not in stated}
        try:
            # Repackaged files often lose their metadata, so that the shapes of their tensors stand for it.
            config = {**infer_config(missing), **stated}
        except (LookupError, ZeroDivisionError) as error:
            raise ValueError(
                f"{self.path} is incomplete: it has no 'config' metadata and lacks {error}"
            ) from None
        except ValueError as error:
            raise ValueError(f"{self.path}: {error}") from None
        transformer = config.get("transformer")
        if isinstance(transformer, dict) and is_video_only(self._shapes.get(Component.TRANSFORMER, {})):
            # Repackaged headers may lack the name, by which the reader knows the family.
            config["transformer"] = {**transformer, "_class_name": VIDEO_TRANSFORMER}
            if self.path.is_dir():
                # Diffusers states no such setting, and its pipelines ignore what the weights were trained on.
                names = [n for part in self.components & _VAE_HALVES for n in self._names[part]]
                config["transformer"].setdefault("causal_temporal_positioning", is_causal(names))
        vae = config.get("vae")
        if isinstance(vae, dict) and Component.VIDEO_DECODER in self._names:
            # Tensors tell which decoder it is, whatever a header says.
            label = DIFFUSION_VAE if self.has_diffusion_decoder else vae.get("_class_name")
            if label == DIFFUSION_VAE and not self.has_diffusion_decoder:
                raise ValueError(f"{self.path}: its header describes {label}, but its tensors are of another")
            config["vae"] = {**vae, "_class_name": label} if label else vae
        return config

    def infos(self, component: Component) -> dict[str, TensorInfo]:
        """Header entries of the tensors of one component, by official name without the component's prefix.

        Official names are those of the LTX-2 repository. Raises ValueError if the file does not contain the
        component.
        """
        return {own: self.tensors[name] for own, name in self._require(component).items()}

    def nbytes(self, component: Component) -> int:
        """Size of the component in the file, in bytes; a tensor that two components share counts for both."""
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
        int8_matmul: bool = False,
        merge_device: torch.device | None = None,
    ) -> nn.Module:
        """Load the network of ``component``, in evaluation mode and without gradients.

        With ``dtype`` None every tensor has the file's dtype, except that what is decoded becomes bfloat16.
        On the CPU tensors that have this dtype in the file stay memory-mapped: they are read from disk when
        used, and shared between processes; only float32 ones that the file does not align are copied.
        ``operations`` is the namespace of layer classes, torch.nn or that of a host such as ComfyUI.
        ``numerics`` selects which implementation is reproduced where they differ, the official one or a
        version of ComfyUI. ``loras`` are merged in float32, which copies only the layers they change;
        :meth:`switch_loras` exchanges them later. They are computed layer by layer on ``merge_device``, by
        default on ``device``.

        Quantised linear layers stay quantised and decode their weight in the forward pass; ``dtype`` is what
        they compute in. With ``fp8_matmul``, ``nvfp4_matmul`` or ``int8_matmul``, layers of that kind are
        multiplied in that format on devices that support it, which rounds their input too. Other quantised
        tensors are decoded while loading.

        Raises ValueError, before any weight is read, if the component is missing, incomplete, in an unknown
        number format or does not fit the configuration, or if a LoRA has layers for it but none fits. Raises
        it while reading for weights that are NaN or infinite.
        """
        matmul = {"fp8_matmul": fp8_matmul, "nvfp4_matmul": nvfp4_matmul, "int8_matmul": int8_matmul}
        network, base = self._prepare(component, operations, numerics, dtype, torch.device(device), matmul)
        base = replace(base, merge_device=merge_device)
        # All LoRAs are matched before weights are read, so that a wrong one fails at once.
        changes, _ = find_changes(loras, component, base.shapes, self.generation)
        # These are read by ``merged``, one layer at a time; reading them here would hold them twice.
        rebuilt = {name for module in changes for name in base.names(module)}
        state = base.state([name for name in base.infos if name not in rebuilt])
        for module, tensors in merged(base, changes):
            put(network, module, tensors, base)
            state.update((f"{module}.{suffix}", tensor) for suffix, tensor in tensors.items())
        if component is Component.VIDEO_DECODER and self.has_diffusion_decoder:
            state = diffusion_vae.made(state)
        # Assigned and not copied: the parameters are on ``meta``, and what was read may map the file.
        network.load_state_dict(state, strict=True, assign=True)
        return network.requires_grad_(False).eval()

    def check(self, component: Component) -> None:
        """Raise the ValueError that :meth:`load` would raise for ``component``, without reading weights."""
        self._prepare(component, nn, Numerics.OFFICIAL, None, torch.device("cpu"), {})

    def switch_loras(
        self,
        network: nn.Module,
        component: Component,
        *,
        before: Sequence[Lora],
        after: Sequence[Lora],
        dtype: torch.dtype | None = None,
        device: torch.device | str = "cpu",
        merge_device: torch.device | None = None,
    ) -> None:
        """Replace the LoRAs ``before`` of a loaded ``network`` by ``after``, in place and layer by layer.

        Every changed weight is computed again from the file, so that the result equals a fresh load with
        ``after`` bit for bit, however often LoRAs are switched. At most one layer is in memory twice.
        ``dtype`` and both devices must be those of :meth:`load`. Raises ValueError, before anything changes,
        if a LoRA has layers for ``component`` but none fits; after any other error the network must be loaded
        again.
        """
        # Shapes are those of the loaded network, since its quantised layers have decoded ones.
        infos, shapes = self.infos(component), network_shapes(network)
        base = Base(
            infos=infos,
            layers=find_quantized(infos, read_markers(infos, self.metadata)),
            resident=frozenset(n for n, m in network.named_modules() if isinstance(m, QuantizedLinear)),
            shapes=shapes,
            dtype=dtype,
            device=torch.device(device),
            merge_device=merge_device,
        )
        new, _ = find_changes(after, component, shapes, self.generation)
        old, _ = find_changes(before, component, shapes, self.generation)
        switch(network, base, old, new)

    def lora_report(self, component: Component, lora: Lora) -> LoraReport:
        """Report which layers of ``component`` a LoRA would change; reads only headers."""
        return lora.report(component, self.shapes(component), self.generation)

    def shapes(self, component: Component) -> Mapping[str, tuple[int, ...]]:
        """Shapes of a component's tensors, by official name.

        A quantised tensor has the shape of its decoded weight. Raises ValueError if the file does not contain
        the component.
        """
        self._require(component)
        return self._shapes[component]

    @cached_property
    def _shapes(self) -> dict[Component, dict[str, tuple[int, ...]]]:
        """Shapes of all tensors, by component and official name.

        A quantised tensor has the shape of its decoded weight.
        """
        return {
            component: {own: decoded_shape(self.tensors[name]) for own, name in names.items()}
            for component, names in self._names.items()
        }

    def _require(self, component: Component) -> Names:
        if component not in self._names:
            raise ValueError(
                f"{self.path} has no {component}; it holds {_listed(self.components)}. "
                f"The {component} is usually in {usual_file(component)}"
            )
        return self._names[component]

    @property
    def has_diffusion_decoder(self) -> bool:
        """Whether the video decoder is the diffusion decoder of LTX-2.5, by its tensors."""
        return DIFFUSION_MARK in self._names.get(Component.VIDEO_DECODER, {})

    def _prepare(
        self,
        component: Component,
        operations: Any,
        numerics: Numerics,
        dtype: torch.dtype | None,
        device: torch.device,
        matmul: Mapping[str, bool],
    ) -> tuple[nn.Module, Base]:
        """Build the network without memory (on ``meta``), and check that the file's tensors fit it.

        Arguments are those of :meth:`load`; ``matmul`` has its last three by name. Returns the network and a
        description of the stored tensors, from which the weights are read afterwards.
        """
        infos, shapes = self.infos(component), self._shapes[component]
        try:
            network = build(component, self.config, shapes, operations=operations, numerics=numerics)
            plain = network
            if operations is not nn:
                # A host's layers may create parameters only when loaded, so torch's give the expected shapes.
                plain = build(component, self.config, shapes, operations=nn, numerics=numerics)
            layers = find_quantized(infos, read_markers(infos, self.metadata))
        except ValueError as error:
            raise ValueError(f"{component} of {self.path}: {error}") from error
        # The text projection is multiplied slice by slice, so its weight must be decoded.
        quantised = [] if component is Component.TEXT_PROJECTION else list(layers.values())
        # Shapes are compared on the meta device, before any weight is read.
        expected = {name: tuple(tensor.shape) for name, tensor in plain.state_dict().items()}
        resident = replace_linears(network, quantised, plain, **matmul)
        if component is Component.VIDEO_DECODER and self.has_diffusion_decoder:
            expected = diffusion_vae.stored_shapes(expected, infos)
        check_fit(self.path, component, infos, layers, expected)
        return network, Base(
            infos=infos, layers=layers, resident=resident, shapes=expected, dtype=dtype, device=device
        )


def open_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Open a model file or folder; only headers are read.

    A folder is a diffusers pipeline (its ``model_index.json`` is accepted too), one component of a pipeline,
    or a folder of split files.

    Raises FileNotFoundError for a missing path, and ValueError for a damaged file, another format or another
    model. The message says which one it is.
    """
    path = Path(path)
    # File dialogs choose files, so the index stands for its folder.
    if path.name == "model_index.json":
        path = path.parent
    read = read_folder if path.is_dir() else read_gguf_header if is_gguf(path) else read_header
    checkpoint = Checkpoint(read(path))
    # A transformer that was cut out of LTX-2 has this tensor and not that of audio.
    video_only = "adaln_single.emb.timestep_embedder.linear_1.bias"
    foreign = Component.TRANSFORMER not in checkpoint.components and any(
        name.endswith(f".{video_only}") or name == video_only for name in checkpoint.tensors
    )
    if (foreign or not checkpoint.components) and Component.LORA not in checkpoint.components:
        raise ValueError(
            f"{path} is not an LTX-2 file: found {describe_foreign(checkpoint.tensors)}; expected an LTX-2 "
            "or LTX-Video checkpoint or a part of one (transformer, connectors, VAE, vocoder, upscaler, LoRA)"
        )
    return checkpoint


def find_component(checkpoints: Iterable[Checkpoint], component: Component) -> Checkpoint:
    """Return the first of ``checkpoints`` that contains ``component``.

    If there is none, raises ValueError, which lists the components of each file and says in which file the
    missing one is usually found.
    """
    files = list(checkpoints)
    for checkpoint in files:
        if component in checkpoint.components:
            return checkpoint
    if len(files) == 1:
        files[0]._require(component)
    held = "; ".join(f"{c.path.name}: {_listed(c.components)}" for c in files) or "no files"
    raise ValueError(
        f"no {component} in these files ({held}). The {component} is usually in {usual_file(component)}"
    )


def _listed(components: Iterable[Component]) -> str:
    order = list(Component)
    return ", ".join(str(c) for c in sorted(components, key=order.index)) or "nothing known"
