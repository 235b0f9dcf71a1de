"""Work on clips that exist: extend, make parts anew, add sound; and clips longer than one run can hold."""

from .extend import extend
from .footage import Edit, Footage
from .long_video import LongVideo, long_video
from .prompts import PromptSchedule
from .reel import FileReel, PictureReel
from .retake import retake
from .sound import add_sound, limit_loudness, text_to_audio
from .task import EditTask

__all__ = [
    "Edit",
    "EditTask",
    "FileReel",
    "Footage",
    "LongVideo",
    "PictureReel",
    "PromptSchedule",
    "add_sound",
    "extend",
    "limit_loudness",
    "long_video",
    "retake",
    "text_to_audio",
]
