"""The report on a model file or folder: its typed dictionaries, and its text for people."""

from __future__ import annotations

from typing import TypedDict

from ..storage.files import JsonValue
from .detect import Component

_SHARED = frozenset(
    {
        *(Component.VIDEO_ENCODER, Component.VIDEO_DECODER, Component.AUDIO_ENCODER),
        *(Component.AUDIO_DECODER, Component.VOCODER),
    }
)
"""Components that LTX-2.3 and LTX-2.5 have in common."""


class PartReport(TypedDict, total=False):
    """One component of a file: its numbers of tensors, parameters and bytes, and its dtypes.

    ``problem`` says why the component cannot be loaded; None if it can.
    """

    name: str
    tensors: int
    parameters: int
    size: int
    dtypes: list[str]
    quantised: dict[str, int]
    """Storage format -> number of layers."""
    problem: str | None


class LoraDescription(TypedDict, total=False):
    """A LoRA file: its layers, its base model, and the scaling of an IC-LoRA's reference video.

    If the file cannot be read, ``problem`` says why and is the only key.
    """

    layers: int
    kinds: list[str]
    ranks: list[int]
    streams: dict[str, int]
    """Stream -> number of layers."""
    made_for: str | None
    reference_downscale_factor: int
    reference_temporal_scale_factor: int
    problem: str


class Report(TypedDict, total=False):
    """A model file or folder as plain values: its kind, generation, components, dtypes and metadata.

    ``tokenizer`` is present only for text encoders, ``upscaler`` only for upscalers, ``lora`` only for LoRAs,
    ``model`` (which one it is) only for LTX-Video.
    """

    file: str
    size: int
    generation: str | None
    kind: str
    layout: str
    components: list[PartReport]
    tensors: int
    dtypes: dict[str, int]
    metadata: dict[str, JsonValue]
    tokenizer: str | None
    model: str
    upscaler: str
    lora: LoraDescription


def as_text(report: Report) -> str:
    """Format the report of :func:`.describe.describe` as a table for people."""
    lines = [
        report["file"],
        f"  {_size(report['size'])}, {report['tensors']} tensors ({_counts(report['dtypes'])})",
        f"  kind        {report['kind']}",
        f"  layout      {report['layout']}",
        f"  generation  {_generations(report)}",
        "",
        f"  {'component':<18}{'tensors':>8}{'parameters':>14}{'size':>11}  dtypes",
    ]
    for part in report["components"]:
        lines.append(
            f"  {part['name']:<18}{part['tensors']:>8}{part['parameters']:>14,}{_size(part['size']):>11}"
            f"  {', '.join(part['dtypes'])}"
        )
        if part.get("quantised"):
            lines.append(f"  {'':<18}  quantised layers: {_counts(part['quantised'])}")
        if part.get("problem"):
            lines.append(f"  {'':<18}  CANNOT BE LOADED: {part['problem']}")
    if "tokenizer" in report:
        lines.append(f"  tokenizer   {report['tokenizer'] or 'none: use a file or folder that has one'}")
    if upscaler := report.get("upscaler"):
        lines.append(f"  upscaler    {upscaler}")
    if lora := report.get("lora"):
        lines += ["", *_lora_lines(lora)]
    if report["metadata"]:
        lines += ["", "  metadata"]
        lines += [f"    {key}: {_short(value)}" for key, value in report["metadata"].items()]
    return "\n".join(lines)


def _generations(report: Report) -> str:
    """The model generation of a file in words, such as "LTX-2.3", or both if two generations use the file.

    A Gemma 3, for example, is of "LTX-2.0 and LTX-2.3".
    """
    generation, held = report["generation"], {part["name"] for part in report["components"]}
    if held == {str(Component.TEXT_ENCODER)}:
        return {"0.9": "LTX-Video", "2.5": "LTX-2.5"}.get(str(generation), "LTX-2.0 and LTX-2.3")
    if lora := report.get("lora"):
        return str(lora.get("made_for") or "not stated")
    if model := report.get("model"):
        return model
    if generation is None:
        return "not stated"
    shared = held <= {str(component) for component in _SHARED}
    return "LTX-2.3 and LTX-2.5" if shared and generation in ("2.3", "2.5") else f"LTX-{generation}"


def _lora_lines(lora: LoraDescription) -> list[str]:
    if "problem" in lora:
        return [f"  CANNOT BE LOADED: {lora['problem']}"]
    ranks = ", ".join(map(str, lora["ranks"]))
    streams = ", ".join(f"{stream} {count}" for stream, count in lora["streams"].items())
    kinds = "" if lora["kinds"] == ["LoRA"] else f" ({', '.join(lora['kinds'])})"
    of_rank = f" of rank {ranks}" if ranks else ""
    lines = [f"  {lora['layers']} layers{of_rank}{kinds}: {streams}"]
    lines += [f"  {lora['made_for']}"] if lora["made_for"] else []
    space, time = lora["reference_downscale_factor"], lora["reference_temporal_scale_factor"]
    if (space, time) != (1, 1):
        lines.append(f"  IC-LoRA: reference video at 1/{space} of the size, every {_nth(time)}frame")
    return lines


def _nth(factor: int) -> str:
    return "" if factor == 1 else f"{factor}. "


def _size(nbytes: int) -> str:
    size = float(nbytes)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            break
        size /= 1000
    return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {dtype}" for dtype, count in sorted(counts.items())) or "none"


def _short(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(value) + "}"
    text = str(value)
    return text if len(text) <= 80 else text[:77] + "..."
