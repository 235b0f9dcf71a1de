"""A model that the service offers, and the files of which it is made."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from ..run.execution import Execution
from ..run.pipeline import LTX2Pipeline


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """A model of the service: its id, the name of its weights, and its files.

    ``distilled_lora`` is used in the second stage of videos of the resolution "High", which need an
    ``upscaler`` too. ``embedded`` says that it is the tiny set of the package, whatever its id.
    """

    id: str
    base_model: str
    checkpoints: tuple[Path, ...]
    text_encoder: Path | None = None
    upscaler: Path | None = None
    video_decoder: Path | None = None
    distilled_lora: Path | None = None
    embedded: bool = False

    def open(self, execution: Execution) -> LTX2Pipeline:
        """Open a pipeline, which reads headers only. Raises what the class of pipelines raises."""
        return LTX2Pipeline(
            *self.checkpoints,
            text_encoder=self.text_encoder,
            upscaler=self.upscaler,
            video_decoder=self.video_decoder,
            execution=execution,
        )


def shared(model: ServedModel) -> ServedModel:
    """What the pipeline of a model depends on; ids and LoRAs of jobs are no part of it."""
    return replace(model, id="", base_model="", distilled_lora=None)
