"""Work on clips that exist: extend, make parts anew, add sound; and clips longer than one run can hold."""

from .audio import add_audio, limit_loudness, text_to_audio
from .extend import extend
from .footage import Edit, Footage
from .long_video import LongVideo, long_video
from .prompts import PromptSchedule
from .retake import retake
from .sources import FramesInFile, FramesInMemory
from .task import EditTask

__all__ = [
    "Edit",
    "EditTask",
    "Footage",
    "FramesInFile",
    "FramesInMemory",
    "LongVideo",
    "PromptSchedule",
    "add_audio",
    "extend",
    "limit_loudness",
    "long_video",
    "retake",
    "text_to_audio",
]
