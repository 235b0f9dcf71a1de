"""The request of a shot list for one pipeline, whose recipe decides what the list leaves out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from ..flat_options import RequestFields
from ..replacing import without
from ..request import Request
from .mapping import Find, clip_fields, mapped

if TYPE_CHECKING:
    from ...shapes import ClipPlan
    from ..planner import Planner
    from .format import Shots

_SIZE = ("width", "height", "num_frames", "seconds", "fps", "snap", "stages")


def request_of(
    shots: Shots, planner: Planner, fields: RequestFields, find: Find
) -> tuple[RequestFields, tuple[str, ...]]:
    """Convert ``shots`` to keywords of a request, in which ``fields`` replace values.

    Returns them with sentences on times that were rounded to frames. ``find`` says where the files are; of
    them only audio that has to be mixed is read. Raises ValueError for what does not fit the clip.
    """
    made = mapped(shots, clip_of(shots, planner, fields), find)
    own = without({**made.fields, "prompt": made.prompt}, fields)
    return cast(RequestFields, {**own, **fields}), made.notes


def clip_of(shots: Shots, planner: Planner, fields: RequestFields) -> ClipPlan:
    """The size and length of the clip: those of ``fields``, else of ``shots``, else of the recipe."""
    written = {name: value for name, value in fields.items() if name in _SIZE}
    own = without(clip_fields(shots.clip), written)
    size: dict[str, Any] = {name: value for name, value in {**own, **written}.items() if name in _SIZE}
    stages = size.pop("stages", 1)
    return planner.stages(planner.resolve(Request(prompt="", stages=stages, **size)))[-1].finished
