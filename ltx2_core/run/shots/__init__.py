"""Shot lists: one JSON file that says what happens when in a clip, for the command line, Python and nodes."""

from .format import FORMAT, Shots, parse_shots, read_shots
from .importing import imported
from .mapping import Mapped, long_prompts, mapped

__all__ = ["FORMAT", "Mapped", "Shots", "imported", "long_prompts", "mapped", "parse_shots", "read_shots"]
