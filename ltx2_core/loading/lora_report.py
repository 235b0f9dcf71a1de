"""What a LoRA does to a model, stream by stream, and which generation it was made for: told from headers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from .detect import Component
from .lora_dialects import few

Stream = Literal["video", "audio", "cross", "text"]
Status = Literal["matched", "unmatched", "mismatched", "elsewhere"]

STREAMS: tuple[Stream, ...] = ("video", "audio", "cross", "text")
_BLOCK = re.compile(r"^transformer_blocks[._]\d+[._]")


@dataclass(frozen=True)
class LoraEntry:
    """What becomes of one layer of a LoRA."""

    module: str
    """The model's own name where it has such a module."""
    component: Component
    status: Status
    detail: str = ""

    @property
    def stream(self) -> Stream:
        return stream_of(self.component, self.module)

    def __str__(self) -> str:
        return self.module + (f" ({self.detail})" if self.detail else "")


@dataclass(frozen=True, kw_only=True)
class LoraReport:
    """What a LoRA changes in a model, or in one component of it; ``str`` says it in words."""

    file: str
    video_strength: float
    audio_strength: float
    entries: tuple[LoraEntry, ...]
    note: str = ""
    """What its layers say about the generation that it was made for."""
    wrong_generation: bool = False

    @property
    def matched(self) -> tuple[str, ...]:
        return self._named("matched")

    @property
    def unmatched(self) -> tuple[str, ...]:
        """Layers that this model does not have."""
        return self._named("unmatched")

    @property
    def shape_mismatched(self) -> tuple[str, ...]:
        """Layers that this model has with other widths, each with both shapes."""
        return self._named("mismatched")

    @property
    def elsewhere(self) -> tuple[str, ...]:
        """Layers of components that were not looked at."""
        return self._named("elsewhere")

    @property
    def is_clean(self) -> bool:
        """Whether every layer that was looked at found its place."""
        return not (self.unmatched or self.shape_mismatched or self.wrong_generation)

    def count(self, stream: Stream, status: Status) -> int:
        return sum(entry.stream == stream and entry.status == status for entry in self.entries)

    def require_match(self) -> None:
        """Raises ValueError where the LoRA addresses what was looked at and fits it nowhere."""
        if not self.matched and (self.unmatched or self.shape_mismatched):
            raise ValueError(f"{self}\nThis LoRA was made for another model or another LTX-2 generation")

    def __str__(self) -> str:
        looked_at = len(self.entries) - len(self.elsewhere)
        lines = [f"{self.file}: {len(self.matched)} of {looked_at} layers at {self._strengths()}"]
        for stream in STREAMS:
            counts: tuple[tuple[Status, str], ...] = (
                ("matched", "matched"),
                ("unmatched", "not in this model"),
                ("mismatched", "of another shape"),
            )
            told = [f"{n} {what}" for status, what in counts if (n := self.count(stream, status))]
            if told:
                lines.append(f"{stream}: {', '.join(told)}")
        for names, what in (
            (self.unmatched, "not in this model"),
            (self.shape_mismatched, "of another shape"),
        ):
            if names:
                lines.append(f"{what}: {few(names)}")
        if self.elsewhere:
            parts = dict.fromkeys(str(e.component) for e in self.entries if e.status == "elsewhere")
            lines.append(f"for other components ({', '.join(parts)}): {len(self.elsewhere)}")
        return "\n  ".join([*lines, *([self.note] if self.note else [])])

    def _strengths(self) -> str:
        if self.video_strength == self.audio_strength:
            return f"strength {self.video_strength:g}"
        return f"strength {self.video_strength:g}, audio {self.audio_strength:g}"

    def _named(self, status: Status) -> tuple[str, ...]:
        return tuple(str(entry) for entry in self.entries if entry.status == status)


def stream_of(component: Component, module: str) -> Stream:
    """Where a module belongs. What stands between the streams is "cross", what handles text alone "text"."""
    name = _BLOCK.sub("", module)
    if component is not Component.TRANSFORMER or name.removeprefix("audio_").startswith("caption_projection"):
        return "text"
    if name.startswith(("audio_to_video_attn", "video_to_audio_attn", "av_ca_", "av_cross_attn_")):
        return "cross"
    return "audio" if name.startswith("audio_") else "video"


def updated_stream(component: Component, module: str) -> Literal["video", "audio"] | None:
    """The stream whose strength a module follows: the one that it updates; None where it serves both."""
    name = _BLOCK.sub("", module)
    if name.startswith("aggregate_embed"):
        return None
    if name.startswith("audio_to_video_attn"):
        return "video"
    if name.startswith(("audio_", "video_to_audio_attn", "av_ca_audio", "av_ca_v2a")):
        return "audio"
    return "video"


Shape = tuple[int, ...]


def describe_generation(
    layers: Mapping[tuple[Component, str], Shape], metadata: Mapping[str, Any], model: str | None
) -> tuple[str, bool]:
    """What to say about the generation of a LoRA, and whether ``model`` is certainly of another one.

    ``layers`` are shapes of the changes by component and own module name. 2.3 and 2.5 have the same layers,
    as far as a LoRA can show, so both count as 2.3.
    """
    made_for, why = _told_by_layers(layers)
    if made_for is None:
        made_for, why = _told_by_metadata(metadata)
    if model is None:
        return (f"made for LTX-{_family(made_for)}: it has {why}" if made_for else ""), False
    if made_for is None:
        return (
            f"whether it was made for LTX-{model} cannot be told: LTX-2.0, 2.3 and 2.5 have all of its "
            "layers in the same sizes"
        ), False
    if made_for == ("2.0" if model == "2.0" else "2.3"):
        return "", False
    return f"WRONG GENERATION: made for LTX-{_family(made_for)} ({why}), this model is LTX-{model}", True


_ROWS = re.compile(r"^(audio_)?adaln_single[._]linear$")
_LATE = re.compile(
    r"[._]to_gate_logits$|^(audio_)?prompt_adaln_single[._]|^(video|audio)_aggregate_embed$"
    r"|_connector[._]transformer_1d_blocks[._][2-7][._]"
)
_EARLY = re.compile(r"^(audio_)?caption_projection[._]|^aggregate_embed$")


def _told_by_layers(layers: Mapping[tuple[Component, str], Shape]) -> tuple[str | None, str]:
    for (component, name), shape in layers.items():
        if component is Component.TEXT_ENCODER:
            continue
        if _EARLY.search(name):
            return "2.0", f"its layer {name}"
        if _LATE.search(name):
            return "2.3", f"its layer {name}"
        if _ROWS.search(name) and len(shape) == 2 and shape[0] in (6 * shape[1], 9 * shape[1]):
            rows = shape[0] // shape[1]
            return ("2.0" if rows == 6 else "2.3"), f"the {rows} rows of {name}"
    return None, ""


def _told_by_metadata(metadata: Mapping[str, Any]) -> tuple[str | None, str]:
    for key in ("model_version", "ss_base_model_version", "modelspec.architecture"):
        found = re.search(r"2[._](0|3|5)\b", str(metadata.get(key, "")))
        if found:
            return ("2.0" if found[1] == "0" else "2.3"), f"metadata {key} = {metadata[key]!r}"
    return None, ""


def _family(generation: str | None) -> str:
    return "2.0" if generation == "2.0" else "2.3 or 2.5"
