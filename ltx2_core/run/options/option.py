"""One option: what is declared of it, and how its default reads."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, Literal, TypeAlias

from ..recipes import recipe_for

Kind: TypeAlias = Literal["int", "float", "text", "path", "flag", "choice"]


class ByRecipe(Enum):
    """The default of an option that the checkpoint decides."""

    BY_RECIPE = "by the recipe of the checkpoint"


BY_RECIPE: Final = ByRecipe.BY_RECIPE

GROUPS: Final[dict[str, str]] = {
    "text": "Text",
    "source": "Source",
    "edit": "Edit",
    "window": "Windows",
    "size": "Size and length",
    "inputs": "Image and audio inputs",
    "sampling": "Sampling",
    "guidance": "Guidance",
    "model": "Model files",
    "execution": "Execution",
    "several": "Several clips",
    "output": "Output",
}
"""Group -> its heading, in the order of the help."""


@dataclass(frozen=True, kw_only=True)
class Option:
    """One option.

    Attributes:
        name: unique; the keyword of the Python call where there is one.
        flags: as written on the command line.
        group: a key of ``GROUPS``.
        range: lowest and highest value, None where there is no bound.
        unit: such as "pixels"; empty for plain numbers and text.
        default: None for off or absent.
        command: the only command that has it, for options of one command.
        request: whether it is a field of ``Request``.
        edit_default: the default for edits, where it differs.
    """

    name: str
    flags: tuple[str, ...]
    kind: Kind
    group: str
    help: str
    range: tuple[float | None, float | None] = (None, None)
    unit: str = ""
    default: Any = None
    choices: tuple[str, ...] = ()
    multiple: bool = False
    metavar: str | None = None
    command: str | None = None
    request: bool = False
    required: bool = False
    edit_default: Any = None

    @property
    def flag(self) -> str:
        """The long flag, for messages."""
        return next(flag for flag in self.flags if flag.startswith("--"))

    @property
    def by_recipe(self) -> bool:
        """Whether the recipe of the checkpoint decides the default."""
        return self.default is BY_RECIPE

    def default_text(self, command: str = "generate") -> str:
        """The default of a command in words, as the help has it; "" where absent means off."""
        if self.edit_default is not None and command in ("extend", "retake", "sound", "long"):
            return str(self.edit_default)
        if self.default is BY_RECIPE:
            released, tiny = (getattr(recipe_for(name), self.name) for name in ("2.3", "tiny"))
            if not isinstance(released, int | float):
                return str(BY_RECIPE.value) if len(str(released)) > 20 else str(released)
            return f"{released:g}" if released == tiny else f"{released:g}; tiny set {tiny:g}"
        if self.default is None or isinstance(self.default, bool):
            return ""
        return f"{self.default:g}" if isinstance(self.default, float) else str(self.default)
