"""LoRA files: low-rank changes W + strength * scale * (B @ A) (Hu et al., 2021), matched to a model's layers.

Letters: R rank, I inputs, O outputs; A (R, I), B (O, R). Only headers are read here; ``lora_merge`` reads
the tensors.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, SupportsFloat

from ..storage.files import ParsedJson
from ..storage.header import Header, read_header
from .detect import Component
from .infer import infer_generation
from .lora_dialects import LoraLayer, ModuleNames, find_layers, target_of
from .lora_file import check_layers, file_in, layer_rank, layer_shape, peft_settings, with_peft_scale
from .lora_report import LoraEntry, LoraReport, Shape, Status, describe_generation, updated_stream

Shapes = Mapping[str, Shape]
"""Shapes of a model's tensors, by their names in official checkpoints."""

_FAMILY = re.compile(
    r"^transformer_blocks[._]\d+[._](audio_)?(attn[12]|ff|audio_to_video_attn|video_to_audio_attn)[._]"
    r"|^(audio_)?(patchify_proj|proj_out|caption_projection|(prompt_)?adaln_single)([._]|$)"
    r"|^av_ca_|_embeddings_connector[._]|aggregate_embed$"
)
REFERENCE_KEYS = ("reference_downscale_factor", "reference_temporal_scale_factor")
"""Keys in the metadata of an IC-LoRA that say how its reference videos were scaled."""

STACKED = (
    "two IC-LoRAs are stacked: each was trained alone with references of its own, so together they seldom do "
    "what either does; use one of them"
)
# The range of ComfyUI's LoraLoader, so that its workflows load with the same numbers.
MAX_STRENGTH = 100
"""The largest strength of a LoRA, in either direction."""

_HDR_CURVES: Mapping[str, Literal["acescct", "logc3"]] = {
    "logc3": "logc3",
    "acescct": "acescct",
    "true": "logc3",
    "1": "logc3",
}
"""Value of ``hdr_transform`` in an HDR IC-LoRA's metadata, in lower case -> its log codes."""


BY_RECIPE: Final = "recipe"
"""In place of a strength: that of a distilled LoRA in the recipe (default settings) of the checkpoint."""
DISTILLED: Final = "distilled"
"""What the names of distilled LoRAs contain; nothing in the files tells them from others."""


def is_distilled(path: str | os.PathLike[str]) -> bool:
    """Whether the name of a LoRA file says that it makes distilled weights of full ones."""
    return DISTILLED in Path(path).name.lower()


@dataclass(frozen=True, kw_only=True)
class LoraSpec:
    """A LoRA file and its strength; 0 turns it off, negative values apply the opposite change.

    A ``strength`` of "recipe" is that of a distilled LoRA in the published graphs for the generation of the
    checkpoint: 1 for LTX-2.0, 0.5 from 2.3 on. ``video_strength`` and ``audio_strength`` override
    ``strength`` for the layers of their stream; None does not. A cross-modal layer counts for the stream that
    it updates.
    """

    path: str | os.PathLike[str]
    strength: float | Literal["recipe"] = 1.0
    video_strength: float | None = None
    audio_strength: float | None = None

    def __post_init__(self) -> None:
        """Raise ValueError unless each strength that is a number is from -100 to 100.

        Also raised for the strength "recipe" of a file that is not named as a distilled LoRA.
        """
        if self.strength == BY_RECIPE and not is_distilled(self.path):
            raise ValueError(
                f"{os.fspath(self.path)}: the strength {BY_RECIPE!r} is that of distilled LoRAs, and this "
                "name does not say that it is one: write a number"
            )
        for name in ("strength", "video_strength", "audio_strength"):
            value = getattr(self, name)
            if value is None or (name == "strength" and value == BY_RECIPE):
                continue
            if not isinstance(value, SupportsFloat):
                raise TypeError(f"{os.fspath(self.path)}: {name}={value!r} must be a number")
            # NaN lies on neither side of a bound.
            if not abs(float(value)) <= MAX_STRENGTH:
                raise ValueError(
                    f"{os.fspath(self.path)}: the {name} {value:g} of a LoRA must be from {-MAX_STRENGTH} to "
                    f"{MAX_STRENGTH}"
                )


@dataclass(frozen=True)
class Lora:
    """An opened LoRA file and the strengths with which it is merged; no tensor has been read yet."""

    header: Header
    layers: Mapping[str, LoraLayer]
    """Layers by official module name, or by flat name (see ``lora_dialects.FLAT_PREFIXES``)."""
    strength: float = 1.0
    video_strength: float = 1.0
    audio_strength: float = 1.0
    reason: str = ""
    """Where the strength comes from, such as "by the recipe of LTX-2.3 dev"; "" if the caller named it."""

    @property
    def path(self) -> Path:
        return self.header.path

    @property
    def metadata(self) -> ParsedJson:
        return self.header.metadata

    @property
    def reference_downscale_factor(self) -> int:
        """n if an IC-LoRA was trained with reference videos of 1/n of the clip's width and height.

        The result is 1 if the file does not state it.
        """
        return self._factor(REFERENCE_KEYS[0])

    @property
    def reference_temporal_scale_factor(self) -> int:
        """n if an IC-LoRA was trained with every n-th frame of its reference videos; 1 if not stated."""
        return self._factor(REFERENCE_KEYS[1])

    @property
    def hdr_curve(self) -> Literal["acescct", "logc3"] | None:
        """The log codes in which an HDR IC-LoRA generates frames; None for other LoRAs.

        It is the ``hdr_transform`` of the file's metadata, where "true" is LogC3, as in the official
        pipeline. Raises ValueError for an unknown one.
        """
        stated = str(self.metadata.get("hdr_transform", self.metadata.get("use_hdr_transform", ""))).lower()
        if stated in ("", "none", "false", "0"):
            return None
        if stated not in _HDR_CURVES:
            raise ValueError(
                f"{self.path.name}: hdr_transform={stated!r} in its metadata is unknown; known are "
                f"{', '.join(_HDR_CURVES)}"
            )
        return _HDR_CURVES[stated]

    @property
    def ranks(self) -> tuple[int, ...]:
        """The ranks of the layers in this file, ascending; a LoKr without low-rank factors has none."""
        ranks = {layer_rank(self.header, layer) for layer in self.layers.values()}
        return tuple(sorted(rank for rank in ranks if rank is not None))

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of layers in this file, sorted, such as ("DoRA", "LoRA"); see :attr:`LoraLayer.kind`."""
        return tuple(sorted({layer.kind for layer in self.layers.values()}))

    @property
    def is_ic_lora(self) -> bool:
        """Whether the file states how reference videos were scaled in training, as only IC-LoRAs do."""
        # Only IC-LoRAs state how their reference was scaled.
        return any(key in self.metadata for key in REFERENCE_KEYS)

    @property
    def components(self) -> frozenset[Component]:
        """The components of the model, such as the transformer, for which the file has layers."""
        return frozenset(target_of(module)[0] for module in self.layers)

    @property
    def settings(self) -> list[str | float]:
        """JSON values that identify this LoRA in saved settings: file name, video and audio strength.

        The audio strength is left out if it equals the video strength.
        """
        audio = [] if self.audio_strength == self.video_strength else [self.audio_strength]
        return [self.path.name, self.video_strength, *audio]

    @property
    def base_model(self) -> str:
        """The generation of the model that the LoRA was trained on and how it was detected, as text.

        The text is "" if the generation is unknown.
        """
        shapes = {target_of(module): self._shape(layer) for module, layer in self.layers.items()}
        return describe_generation(shapes, self.metadata, None)[0]

    @property
    def is_of_family(self) -> bool:
        """Whether at least one layer is named after a module of an LTX-2 transformer or its text networks."""
        return any(_FAMILY.search(target_of(module)[1]) for module in self.layers)

    def strength_of(self, module: str) -> float:
        """The strength with which the layer for ``module``, the official name of a module, is merged."""
        stream = updated_stream(module)
        if stream is None:
            return self.strength
        return self.video_strength if stream == "video" else self.audio_strength

    def pairs(self, component: Component, shapes: Shapes) -> dict[str, LoraLayer]:
        """The LoRA's layers that fit ``component``, by the component's module name.

        ``shapes`` has the shapes of the component's tensors by official name.
        """
        return self._match({component: shapes})[1].get(component, {})

    def report(self, component: Component, shapes: Shapes, generation: str | None = None) -> LoraReport:
        """Report which layers of the LoRA fit the tensors of ``component``.

        ``shapes`` has the shapes of these tensors by official name. ``generation`` is that of the model, such
        as "2.3"; None if it is unknown.
        """
        return self.report_all({component: shapes}, generation)

    def report_all(self, parts: Mapping[Component, Shapes], generation: str | None = None) -> LoraReport:
        """Report which layers of the LoRA fit several components of a model.

        ``parts`` maps each component to the shapes of its tensors by official name. Layers for other
        components are reported as "elsewhere". ``generation`` is that of the model, such as "2.3"; None if it
        is unknown.
        """
        entries, _ = self._match(parts)
        note, wrong = describe_generation(
            {(e.component, e.module): self._shape(layer) for e, layer in entries},
            self.metadata,
            generation or infer_generation(parts, ""),
        )
        return LoraReport(
            file=self.path.name,
            video_strength=self.video_strength,
            audio_strength=self.audio_strength,
            entries=tuple(entry for entry, _ in entries),
            note=note,
            wrong_generation=wrong,
        )

    def _match(
        self, parts: Mapping[Component, Shapes]
    ) -> tuple[list[tuple[LoraEntry, LoraLayer]], dict[Component, dict[str, LoraLayer]]]:
        names = {component: ModuleNames(shapes) for component, shapes in parts.items()}
        entries: list[tuple[LoraEntry, LoraLayer]] = []
        pairs: dict[Component, dict[str, LoraLayer]] = {}
        for module, layer in self.layers.items():
            component, name = target_of(module)
            status: Status = "elsewhere"
            detail = ""
            if component in parts:
                own, change = names[component].find(name), self._shape(layer)
                shape = parts[component].get(f"{own}.weight")
                name = own or name
                if own is None or shape is None:
                    status = "unmatched"
                # A layer of another shape is reported and not merged, since it was made for another network.
                elif change != tuple(shape):
                    status, detail = "mismatched", f"LoRA {change}, model {tuple(shape)}"
                else:
                    status = "matched"
                    pairs.setdefault(component, {})[name] = layer
            entries.append((LoraEntry(name, component, status, detail), layer))
        return entries, pairs

    def _shape(self, layer: LoraLayer) -> Shape:
        return layer_shape(self.header, layer)

    def _factor(self, key: str) -> int:
        # A file without the key was trained with references of the clip's own size.
        value = self.metadata.get(key, 1)
        # A bool is an int in Python, and no factor.
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{self.path}: {key} must be a whole number of at least 1; got {value!r}")
        return value


def open_lora(
    path: str | os.PathLike[str],
    strength: float = 1.0,
    *,
    video_strength: float | None = None,
    audio_strength: float | None = None,
) -> Lora:
    """Open a LoRA file, or the PEFT or diffusers folder of one; no tensor is read.

    LoRA, DoRA, LoKr and LoHa are supported. ``video_strength`` and ``audio_strength`` override ``strength``
    for the layers of their stream; None does not. Raises FileNotFoundError for a missing file, ValueError for
    a file without LoRA tensors, with incomplete or damaged layers or of an unsupported kind such as OFT, and
    for a strength that is not finite.
    """
    video = strength if video_strength is None else video_strength
    audio = strength if audio_strength is None else audio_strength
    # An infinite strength would make every merged weight NaN or infinite.
    for value in (strength, video, audio):
        if not math.isfinite(value):
            raise ValueError(f"LoRA strength must be a finite number; got {value}")
    header = read_header(file_in(Path(path)))
    layers = find_layers(header.path, header.tensors)
    check_layers(header, layers)
    # PEFT stores alpha and rank in its settings and not next to the tensors.
    # Only PEFT's own files have this prefix: a configuration next to another file may belong to another LoRA.
    settings = peft_settings(header, any("base_model.model." in layer.names[0] for layer in layers.values()))
    if settings:
        layers = {m: with_peft_scale(header, layer, settings) for m, layer in layers.items()}
    return Lora(header, layers, strength, video, audio)
