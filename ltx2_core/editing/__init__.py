"""Work on clips that exist: extend, make parts of them anew, add sound."""

from .extend import extend
from .footage import Edit, Footage
from .retake import retake
from .sound import add_sound, limit_loudness, text_to_audio

__all__ = [
    "Edit",
    "Footage",
    "add_sound",
    "extend",
    "limit_loudness",
    "retake",
    "text_to_audio",
]
