"""An edit of a file in JSON values, so that another process can finish what one has sampled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from ..conditioning.regions import Rounding
from ..run.generation import Generation
from .audio import add_audio, text_to_audio
from .extend import extend
from .footage import Edit, Footage
from .retake import retake
from .sampled import OnSampled

if TYPE_CHECKING:
    from ..run.pipeline import LTX2Pipeline

EditKind = Literal["extend", "retake", "sound", "audio"]


@dataclass(frozen=True, kw_only=True)
class EditTask:
    """One call of ``extend``, ``retake``, ``add_audio`` ("sound") or ``text_to_audio`` ("audio").

    ``options`` are its arguments besides the prompt and the source, as JSON values; "audio" has no source.
    """

    kind: EditKind
    prompt: str
    source: Path | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def make(
        self,
        pipeline: LTX2Pipeline,
        *,
        sampled: Generation | None = None,
        on_sampled: OnSampled | None = None,
    ) -> Edit | tuple[Tensor, int]:
        """The clip, or of "audio" the sound ((2, S), Hz). Raises what the functions raise."""
        how: dict[str, Any] = {**self.options, "sampled": sampled, "on_sampled": on_sampled}
        if self.kind == "audio":
            return text_to_audio(pipeline, self.prompt, **how)
        assert self.source is not None
        source = Footage.read(self.source)
        if self.kind == "extend":
            return extend(pipeline, self.prompt, source, **how)
        if self.kind == "sound":
            return add_audio(pipeline, self.prompt, source, **how)
        for name in ("video", "audio"):
            how[name] = tuple((start, end) for start, end in how.get(name, ()))
        how["rounding"] = Rounding(how.get("rounding", Rounding.COVER.value))
        return retake(pipeline, self.prompt, source, **how)

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
        """Raises ValueError if the source is not the file that it was, or gone."""
        source = None if settings["source"] is None else Path(settings["source"])
        if source is not None and (not source.is_file() or source.stat().st_size != settings["bytes"]):
            raise ValueError(
                f"{source} has changed or is gone since the edit was sampled: put the file back, or make the "
                "edit anew"
            )
        return cls(
            kind=settings["kind"], prompt=settings["prompt"], source=source, options=settings["options"]
        )
