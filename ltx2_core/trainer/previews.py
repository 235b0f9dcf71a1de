"""Previews of a run, made by the pipeline of the product: each equals a later ``ltx2 generate --lora``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..loading import Component, LoraSpec
from ..media.sheet import some_frames, write_sheet
from ..run.pipeline import LTX2Pipeline
from ..run.progress import Stop, Stopped
from ..run.request import Request
from ..tiny import embedded_set
from .open_run import Opened
from .preset_loras import preset_loras
from .settings import FullSettings, TrainSettings

OnClip = Callable[[int, Path], None]

_LITERALS = {"true": True, "false": False}


class Previews:
    """Makes a clip for each prompt with the weights of a step; prompt and seed are the same every time.

    A call returns without the other clips when ``stop`` asks for it: :class:`Stopped` is not raised.
    """

    def __init__(self, opened: Opened, *, stop: Stop | None = None, on_clip: OnClip | None = None) -> None:
        """Check prompts and options before anything is trained; raises ValueError.

        ``on_clip`` is called with (step, file of the preview). If ``stop`` returns True, a preview that is
        being made is left out.
        """
        self.opened, self.stop, self.on_clip = opened, stop, on_clip
        settings = opened.settings
        self.requests = requests_of(settings)
        pipeline = self._pipeline(None)
        for request in self.requests:
            pipeline.check(pipeline.resolve(request))

    def __call__(self, step: int, weights: Path | None) -> None:
        """Save the previews of ``step``, with the LoRA or transformer in ``weights``, or without one.

        An image shows them beside those of the untrained model.
        """
        pipeline = self._pipeline(weights)
        for number, request in enumerate(self.requests, start=1):
            path = self.opened.files.preview(step, number)
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                pipeline(request, stop=self.stop).save(path)
            except Stopped:
                # The weights are saved, and whoever stops the run has no use for the clip.
                return
            if self.on_clip is not None:
                self.on_clip(step, path)
        self._compare(step)

    def _compare(self, step: int) -> None:
        """Draw frames of the previews of ``step`` under those of the untrained model, if these are there."""
        files = self.opened.files
        rows = []
        for number, request in enumerate(self.requests, start=1):
            before, after = files.preview(0, number), files.preview(step, number)
            if step and before.is_file():
                rows.append((f"untrained: {request.prompt}", some_frames(before)))
                rows.append((f"step {step}: {request.prompt}", some_frames(after)))
        if rows:
            write_sheet(rows, files.comparison(step))

    def _pipeline(self, weights: Path | None) -> LTX2Pipeline:
        settings, networks = self.opened.settings, self.opened.networks
        base = networks.file(Component.TRANSFORMER)
        loras = [LoraSpec(path=one.path, strength=one.strength) for one in preset_loras(settings, base)]
        checkpoints = [Path(path) for path in settings.checkpoints]
        files: dict[str, Any] = {"text_encoder": settings.text_encoder or None}
        if not checkpoints:
            tiny = embedded_set()
            checkpoints = [tiny.checkpoint]
            files = {"text_encoder": tiny.text_encoder, "upscaler": tiny.upsampler}
        if weights is not None and isinstance(settings, FullSettings):
            # A full run replaces the file that holds the transformer.
            held = base.path.resolve()
            checkpoints = [weights if path.resolve() == held else path for path in checkpoints]
        elif weights is not None:
            loras.append(LoraSpec(path=weights))
        return LTX2Pipeline(*checkpoints, loras=loras, device=networks.device, dtype=networks.dtype, **files)


def requests_of(settings: TrainSettings) -> list[Request]:
    """What is generated for each preview prompt; raises ValueError for options that a clip does not have."""
    options = parse_options(settings.preview_options)
    try:
        return [
            Request(prompt=prompt).changed(seed=settings.preview_seed + number, **options)
            for number, prompt in enumerate(settings.preview_prompts)
        ]
    except TypeError as error:
        raise ValueError(f"preview_options: {error}") from error


def parse_options(texts: Sequence[str]) -> dict[str, Any]:
    """Read options of previews, ``KEY=VALUE``; raises ValueError for anything else."""
    options: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise ValueError(f"preview_options {text!r} is not KEY=VALUE, such as width=512")
        options[name.replace("-", "_")] = _value(value)
    return options


def _value(text: str) -> Any:
    if text.lower() in _LITERALS:
        return _LITERALS[text.lower()]
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text
