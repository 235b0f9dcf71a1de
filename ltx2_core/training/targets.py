"""Which layers a LoRA changes: presets, names of layers as other trainers write them, or a pattern."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

_ATTENTION = ("to_k", "to_q", "to_v", "to_out.0")
_FEED_FORWARD = ("ff.net.0.proj", "ff.net.2")


def _each(modules: Sequence[str], layers: Sequence[str] = _ATTENTION) -> tuple[str, ...]:
    return tuple(f"{module}.{layer}" for module in modules for layer in layers)


PRESETS: Mapping[str, tuple[str, ...]] = {
    "attention": _ATTENTION,
    "attention+ff": (*_ATTENTION, *_FEED_FORWARD, *(f"audio_{name}" for name in _FEED_FORWARD)),
    "video": (*_each(("attn1", "attn2")), *_FEED_FORWARD),
    "audio": (*_each(("audio_attn1", "audio_attn2")), *(f"audio_{name}" for name in _FEED_FORWARD)),
    "cross-modal": _each(("audio_to_video_attn", "video_to_audio_attn")),
}
"""Preset -> ends of the names of layers. ``video`` and ``audio`` are those of the official trainer."""

TEXT_PRESETS: Mapping[str, str] = {
    "connectors": rf"_embeddings_connector\..*\.(?:{'|'.join(re.escape(name) for name in _ATTENTION)})$",
    "projection": r"(?:^|\.)(?:video_|audio_)?aggregate_embed$",
}
"""Preset -> pattern of layers between the text encoder and the transformer."""

_OF_TEXT = ("connector", "aggregate_embed")


def is_of_text(target: str) -> bool:
    """Whether a target is for the text connectors or the text projection: it must name them.

    ``attention`` and ``to_q`` are layers of the transformer alone, as in other trainers.
    """
    return target in TEXT_PRESETS or any(word in target for word in _OF_TEXT)


def layer_pattern(targets: Sequence[str]) -> str:
    """Build the regular expression that finds the target layers in the transformer, by their names.

    A target is a preset, ``regex:PATTERN``, or the end of a layer's name from a dot on: ``attn1.to_k`` is not
    ``audio_attn1.to_k``. Raises ValueError if there is none, and for a damaged pattern.
    """
    parts: list[str] = []
    for target in targets:
        if target.startswith("regex:"):
            pattern = target.removeprefix("regex:")
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"target {target!r} is not a regular expression: {error}") from None
            parts.append(f"(?:{pattern})")
        elif target in TEXT_PRESETS:
            parts.append(TEXT_PRESETS[target])
        else:
            names = PRESETS.get(target, (target,))
            parts.append(rf"(?:^|\.)(?:{'|'.join(re.escape(name) for name in names)})$")
    if not parts:
        known = ", ".join((*PRESETS, *TEXT_PRESETS))
        raise ValueError(f"targets is empty: use {known}, names of layers or regex:PATTERN")
    return "|".join(parts)


def reachable(name: str, *, video: bool, audio: bool) -> bool:
    """Whether a layer, by its official name, gets a gradient in steps that compute these streams.

    Without one of the streams, its own layers and those of attention between the streams are not computed.
    """
    between = "audio_to_video_attn" in name or "video_to_audio_attn" in name
    if between:
        return video and audio
    # The one projection of 2.0 serves both streams.
    if name.endswith(".aggregate_embed"):
        return video or audio
    return audio if re.search(r"(?:^|\.)audio_", name) else video
