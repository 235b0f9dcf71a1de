"""Declares one option of a run, and checks and describes its values."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from numbers import Integral, Real
from typing import Any, Final, Literal, TypeAlias

from ..recipes import recipe_for

Kind: TypeAlias = Literal["int", "float", "text", "path", "flag", "choice"]


class ByRecipe(Enum):
    """The type of ``BY_RECIPE``, which stands for a default value that depends on the checkpoint.

    The recipe of the checkpoint (its table of default settings) decides the value.
    """

    BY_RECIPE = "by the recipe of the checkpoint"


BY_RECIPE: Final = ByRecipe.BY_RECIPE

MAX_SIDE: Final = 16384
"""The largest width or height in pixels."""
MAX_FRAMES: Final = 1_000_000
MAX_SECONDS: Final = 86_400.0
"""The longest clip or audio: a day."""
MAX_SCALE: Final = 100.0
"""The largest scale of guidance."""

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
    "batch": "Jobs",
    "server": "Address and clients",
    "limits": "Limits",
    "workers": "Workers",
    "output": "Output",
}
"""Group -> its heading, in the order of the help."""


@dataclass(frozen=True, kw_only=True)
class Option:
    """One option of a run: its flag, type, bounds, help and default.

    Attributes:
        name: unique; the keyword of the Python call where there is one.
        flags: as written on the command line.
        kind: the type of the value; "text" is parsed later, "path" is a file or folder.
        group: a key of ``GROUPS``, the headings of ``--help``.
        help: the sentences for ``--help``, the docs and the JSON schema; the first is a tooltip of nodes.
        range: lowest and highest value, None where there is no bound.
        above: whether the lowest value itself is not allowed.
        empty: whether empty text has a meaning.
        words: texts that are allowed in place of a number, such as "auto".
        unit: such as "pixels"; empty for plain numbers and text.
        default: None for off or absent; ``BY_RECIPE`` if it depends on the checkpoint.
        choices: the allowed values; empty if there is no such list.
        multiple: whether the option may be repeated.
        metavar: how the value is named in the help, such as FILE; None for the name that click chooses.
        command: the only subcommand that has the option; None for options of several subcommands.
        request: whether the option is a field of ``Request``.
        required: whether the command refuses to run without the option.
        edit_default: the default in extend, retake, sound and long, if it is another one; else None.
        help_of: pairs of a subcommand in which the option means something else, and its ``help`` there.
    """

    name: str
    flags: tuple[str, ...]
    kind: Kind
    group: str
    help: str
    range: tuple[float | None, float | None] = (None, None)
    above: bool = False
    empty: bool = False
    words: tuple[str, ...] = ()
    unit: str = ""
    default: Any = None
    choices: tuple[str, ...] = ()
    multiple: bool = False
    metavar: str | None = None
    command: str | None = None
    request: bool = False
    required: bool = False
    edit_default: Any = None
    help_of: tuple[tuple[str, str], ...] = ()

    @property
    def flag(self) -> str:
        """The long flag of the option, such as ``--steps``."""
        return next(flag for flag in self.flags if flag.startswith("--"))

    @property
    def by_recipe(self) -> bool:
        """Whether the recipe (table of default settings) of the checkpoint decides the default."""
        return self.default is BY_RECIPE

    @property
    def allowed(self) -> str:
        """The values that the option accepts, in words: "a whole number from 1 to 16384 (pixels)"."""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        low, high = self.range
        bounds = [] if low is None else [f"{'above' if self.above else 'from'} {number_text(low)}"]
        bounds += [] if high is None else [f"to {number_text(high)}"]
        unit = f" ({self.unit})" if self.unit else ""
        return " ".join([_WORDS[self.kind], *bounds]) + unit + "".join(f", or {word}" for word in self.words)

    def read(self, value: Any, name: str | None = None) -> Any:
        """Return ``value`` converted to the type of this option; numpy numbers become Python numbers.

        Raises TypeError for a value of another type and ValueError for a number or choice that is not
        allowed. Both messages begin with ``name``, the option as the caller wrote it (None: the keyword of
        this option), and the value.
        """
        problem = f"{name or self.name + '='}{value!r:.80} must be {self.allowed}"
        if self.kind == "text" and not self.choices:
            if not isinstance(value, str):
                raise TypeError(problem)
            return check_text(value, (name or self.name).strip())
        if isinstance(value, str) and value in self.words:
            return value
        if not _has_type(value, self.kind):
            raise TypeError(problem)
        if self.kind in ("int", "float"):
            # Settings are written as JSON, which has no numpy numbers.
            value = value if type(value) in (int, float) else (int if self.kind == "int" else float)(value)
            low, high = self.range
            below = low is not None and (value <= low if self.above else value < low)
            # NaN is on neither side of a bound.
            if not math.isfinite(value) or below or (high is not None and value > high):
                raise ValueError(problem)
        if self.choices and value not in self.choices:
            raise ValueError(problem)
        return value

    def help_text(self, command: str = "generate") -> str:
        """The sentences on this option in ``--help`` of the subcommand ``command``."""
        return dict(self.help_of).get(command, self.help)

    def default_text(self, command: str = "generate") -> str:
        """The default of this option in the subcommand ``command`` as text, as ``--help`` prints it.

        It is "" if by default the option is off or has no value.
        """
        if self.edit_default is not None and command in ("extend", "retake", "sound", "long"):
            return str(self.edit_default)
        if self.default is BY_RECIPE:
            usual, *others = (getattr(recipe_for(name), self.name) for name in ("2.3", "2.5", "tiny"))
            if not isinstance(usual, int | float):
                return str(BY_RECIPE.value) if len(str(usual)) > 20 else str(usual)
            named = zip(("LTX-2.5", "tiny set"), others, strict=True)
            return "; ".join(
                [f"{usual:g}", *(f"{name} {value:g}" for name, value in named if value != usual)]
            )
        if self.default is None or isinstance(self.default, bool):
            return ""
        return f"{self.default:g}" if isinstance(self.default, float) else str(self.default)


_WORDS: Final[dict[Kind, str]] = {
    "int": "a whole number",
    "float": "a number",
    "text": "text",
    "path": "a path",
    "flag": "True or False",
    "choice": "text",
}


def number_text(value: float) -> str:
    """A bound of an option as text, with all its digits."""
    # Seeds need all digits of a whole number, and 0.1 is to read as it was written.
    return str(value) if isinstance(value, int) else f"{value:.15g}"


def _has_type(value: Any, kind: Kind) -> bool:
    # A bool is a number in Python, and no value of an option that counts.
    if kind == "flag" or isinstance(value, bool):
        return kind == "flag" and isinstance(value, bool)
    return isinstance(value, {"int": Integral, "float": Real}.get(kind, str))


def check_text(text: str, name: str) -> str:
    """Return ``text`` unchanged; raise ValueError if it contains half of a surrogate pair.

    Such text cannot be written as UTF-8. ``name`` is the option with this value, which the message names.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{name}: character {error.start + 1} is half of one (a lone surrogate), which no text has: "
            "write it again"
        ) from None
    return text
