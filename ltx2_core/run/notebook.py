"""Displays a generation: as one line of text, or in a notebook as a player with its settings."""

from __future__ import annotations

import base64
import html
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from ..shapes import ClipPlan
from ..storage.files import ParsedJson
from ..types import AVLatent
from .request import Request

_PROMPT = 60
"""Characters of the prompt in the line."""


class Shown(Protocol):
    """What the functions in this file use of a :class:`Generation`."""

    @property
    def latents(self) -> AVLatent: ...

    @property
    def clip(self) -> ClipPlan: ...

    @property
    def request(self) -> Request: ...

    def settings(self) -> ParsedJson: ...

    def save(self, path: Path) -> None: ...


def line_of(generation: Shown) -> str:
    """Describe a generation in one line: size, length, seed and the start of the prompt."""
    prompt = " ".join(generation.request.text.prompt.split())
    if len(prompt) > _PROMPT:
        prompt = f"{prompt[: _PROMPT - 3]}..."
    return f"Generation({_size(generation)}, seed {generation.request.sampling.seed}, {prompt!r})"


def html_of(generation: Shown) -> str:
    """Return HTML with a player for the clip and a table of its settings; decodes and encodes the clip.

    The encoded clip is part of the HTML, so that a saved notebook plays it without other files.
    """
    rows = "".join(
        f"<tr><th style='text-align:left'>{html.escape(name)}</th>"
        f"<td style='text-align:left'>{html.escape(text)}</td></tr>"
        for name, text in _settings(generation)
    )
    title = html.escape(generation.request.text.prompt)
    return f"<figure>{_player(generation)}<figcaption>{title}</figcaption></figure><table>{rows}</table>"


def _player(generation: Shown) -> str:
    video = generation.latents.video is not None
    # Kinds of files that every browser plays.
    name, kind = ("clip.mp4", "video/mp4") if video else ("clip.m4a", "audio/mp4")
    with tempfile.TemporaryDirectory(prefix="ltx2_notebook_") as folder:
        generation.save(Path(folder) / name)
        content = base64.b64encode((Path(folder) / name).read_bytes()).decode("ascii")
    element = f"video width='{generation.clip.width}' loop" if video else "audio"
    return f"<{element} controls src='data:{kind};base64,{content}'></{element.split()[0]}>"


def _size(generation: Shown) -> str:
    clip = generation.clip
    if generation.latents.video is None:
        return f"audio, {clip.seconds:.2f} s"
    return f"{clip.width}x{clip.height}, {clip.frames} frames at {clip.fps:g} fps, {clip.seconds:.2f} s"


def _settings(generation: Shown) -> Iterator[tuple[str, str]]:
    """Yield (name, value as text) of each setting of the clip that has a value."""
    settings = generation.settings()
    yield "clip", _size(generation)
    for name in ("checkpoints", "loras", "stage2_loras", "numerics", "dtype"):
        if settings.get(name):
            yield name, _text(settings[name])
    for name, value in settings["request"].items():
        if value not in (None, [], False, ""):
            yield name, _text(value)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
