"""Edits existing clips (extend, retake, add audio) and makes clips longer than one run can hold.

The same functions plan, condition and finish an edit in the library and in ComfyUI.
"""

from typing import Any

from ..text.schedule import PromptSchedule
from .audio import add_audio, limit_loudness, text_to_audio
from .dub import dub
from .extend import extend
from .footage import Footage
from .interpolate import interpolate
from .long_options import LongVideo
from .long_video import long_video
from .renamed import warn_renamed
from .result import Edit
from .retake import retake
from .sources import FramesInFile, FramesInMemory
from .task import EditTask
from .to_hdr import to_hdr

__all__ = [
    "Edit",
    "EditTask",
    "Footage",
    "FramesInFile",
    "FramesInMemory",
    "LongVideo",
    "PromptSchedule",
    "add_audio",
    "dub",
    "extend",
    "interpolate",
    "limit_loudness",
    "long_video",
    "retake",
    "text_to_audio",
    "to_hdr",
]

RENAMED = {"add_sound": "add_audio", "PictureReel": "FramesInMemory", "FileReel": "FramesInFile"}


def __getattr__(name: str) -> Any:
    if name not in RENAMED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warn_renamed(f"{__name__}.{name}", RENAMED[name])
    return globals()[RENAMED[name]]
