"""An edit of a file as JSON values, so that another process can finish what one has sampled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..conditioning.regions import Rounding
from ..media.images import BLACK
from ..run.generation import Generation
from .audio import add_audio, text_to_audio
from .extend import extend
from .footage import Edit, Footage
from .protocols import OnSampled, Pipeline, Waveform
from .retake import retake

EditKind = Literal["extend", "retake", "sound", "audio"]


@dataclass(frozen=True, kw_only=True)
class EditTask:
    """One call of ``extend``, ``retake``, ``add_audio`` ("sound") or ``text_to_audio`` ("audio").

    ``options`` are its other arguments as JSON values. "audio" has no source.
    """

    kind: EditKind
    prompt: str
    source: Path | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def make(
        self,
        pipeline: Pipeline,
        *,
        sampled: Generation | None = None,
        on_sampled: OnSampled | None = None,
    ) -> Edit | Waveform:
        """Run the call: the clip, or of "audio" the waveform. Raises what the functions raise."""
        options: dict[str, Any] = {**self.options, "sampled": sampled, "on_sampled": on_sampled}
        if self.kind == "audio":
            return text_to_audio(pipeline, self.prompt, **options)
        assert self.source is not None
        red, green, blue = options.pop("background", BLACK)
        source = Footage.read(self.source, background=(red, green, blue))
        if self.kind == "extend":
            return extend(pipeline, self.prompt, source, **options)
        if self.kind == "sound":
            return add_audio(pipeline, self.prompt, source, **options)
        # JSON has lists in place of the tuples of regions.
        for name in ("video", "audio"):
            options[name] = tuple((start, end) for start, end in options.get(name, ()))
        options["rounding"] = Rounding(options.get("rounding", Rounding.COVER.value))
        return retake(pipeline, self.prompt, source, **options)

    def settings(self) -> dict[str, Any]:
        """JSON values for :meth:`from_settings`."""
        return {
            "kind": self.kind,
            "prompt": self.prompt,
            "source": None if self.source is None else str(self.source.resolve()),
            "bytes": None if self.source is None else self.source.stat().st_size,
            "options": dict(self.options),
        }

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> EditTask:
        """The edit that :meth:`settings` described.

        Raises ValueError if the source is missing or has another size than when it was sampled.
        """
        source = None if settings["source"] is None else Path(settings["source"])
        if source is not None and (not source.is_file() or source.stat().st_size != settings["bytes"]):
            raise ValueError(
                f"{source} has changed or is gone since the edit was sampled: put the file back, or start "
                "the edit again without --resume"
            )
        return cls(
            kind=settings["kind"], prompt=settings["prompt"], source=source, options=settings["options"]
        )
