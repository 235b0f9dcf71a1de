"""How a command ends with an error: one line on stderr, and an exit code.

Exit codes: 0 done; 1 the run failed, or ``ltx2 doctor`` found something to repair; 2 the request was refused:
an option, a file or a combination of them is wrong; 130 and 143 interrupted, by Ctrl+C (SIGINT) and by
SIGTERM.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import click

from ..run.options import BY_NAME, COMMANDS, Option, options_of

REFUSED = 2

_OF_THE_REQUEST = frozenset(
    {
        *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.EACCES, errno.EPERM, errno.EROFS),
        *(errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL, errno.ENXIO),
    }
)
"""Errors of the operating system about a path that was named, not about the machine."""


_FILES = frozenset({"loras", "stage2_loras", "detail_lora", "image", "images", "references"})
"""Options whose text begins with a file."""
_WRITTEN = frozenset({"output", "picture", "state"})
"""Options whose files are written, so that an error may be about the folder of the file."""


class Refused(click.ClickException):
    """An error that ends a command with exit code 2: the request is wrong, and nothing was done."""

    exit_code = REFUSED


def ending(
    error: ValueError | OSError, explicit: Mapping[str, Any] = MappingProxyType({}), command: str = "generate"
) -> click.ClickException:
    """Return the click exception that ends the command for ``error``, with its text as one line on stderr.

    ``explicit`` are the options that the user wrote, by name, with their values, and ``command`` is the
    subcommand: the line names the flag that it is about. The result is :class:`Refused` (exit code 2), or for
    an error of the machine, such as a full disk, an exception with exit code 1.
    """
    message = str(error)
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        message = f"{_shown(error.filename)}: {error.strerror}"
    # A path may hold bytes that no terminal can display.
    text = message.encode("utf-8", "backslashreplace").decode()
    # One line, because scripts and logs read stderr line by line.
    line = in_flags(" ".join(text.split()), command, explicit) or type(error).__name__
    line = _with_flag(line, explicit)
    of_the_machine = isinstance(error, OSError) and error.errno not in (None, *_OF_THE_REQUEST)
    return click.ClickException(line) if of_the_machine else Refused(line)


def in_flags(line: str, command: str = "generate", explicit: Collection[str] = ()) -> str:
    """Change the keywords in a message to their flags: "steps=0 must ..." -> "--steps 0 must ...".

    A keyword is followed by "=", has an underscore, or begins the message before a colon or a comma: other
    words may just be words. ``command`` is the subcommand, and ``explicit`` are the names of the options that
    the user wrote.
    """
    flags = {option.flag.removeprefix("--").replace("-", "_"): option.flag for option in options(command)}
    flags |= {option.name: option.flag for option in options(command)}
    flags["paste"], flags["no_paste"] = "--paste", "--no-paste"
    # An --image with a frame is a keyframe too.
    written = [flags[name] for name in ("image", "images") if name in explicit and name in flags]
    if written:
        flags["images"] = " or ".join(written)
    if command == "long":
        flags["keyframes"] = flags["images"]

    def flag(match: re.Match[str]) -> str:
        name, end = match.group(1), match.group(2)
        if name not in flags or not (end == "=" or "_" in name or (end and match.start() == 0)):
            return match.group(0)
        return flags[name] + (" " if end == "=" else end)

    # Where letters of a path or of a tensor's name stand next to it, it is part of them.
    line = re.sub(r"(?<![\w/\\.\-])([a-z]\w*)(=|: |, |(?![\w/\\.\-]))", flag, line)
    # A switch is written without a value.
    return line.replace("--paste False", "--no-paste")


def options(command: str) -> Iterable[Option]:
    """The options of the subcommand ``command``, or all for one that is not in the table of options."""
    return options_of(command) if command in COMMANDS else BY_NAME.values()


def _with_flag(line: str, explicit: Mapping[str, Any]) -> str:
    """Put the flags whose value a message names in front of it, unless it has one of the flags already.

    ``explicit`` are the options that the user wrote, by name, with their values.
    """
    if line.startswith("-"):
        return line
    found: dict[str, int] = {}
    for name, value in explicit.items():
        option = BY_NAME[name]
        if option.kind not in ("path", "text"):
            continue
        for one in value if isinstance(value, tuple) else (value,):
            text = _shown(one)
            parts = [repr(text), *_paths(text)]
            if name in _WRITTEN and Path(text).parent.parts:
                parts.append(str(Path(text).parent))
            if line.startswith(f"{text} ") and (option.kind == "path" or name in _FILES):
                parts.insert(0, text)
            part = next((part for part in parts if _names(line, part)), None)
            if part is not None:
                found[option.flag] = max(len(part), found.get(option.flag, 0))
    # The longest one, because the folder of an output may hold the other files.
    flags = [flag for flag, length in found.items() if length == max(found.values())]
    named = not flags or any(_names(line, flag) for flag in flags)
    return line if named else f"{' or '.join(flags)}: {line}"


def _paths(value: str) -> Iterator[str]:
    """Yield what in the value of an option may be the path: all of it, then less and less from its end.

    A strength, a frame and the like stand after ``:``, ``@`` or ``,``. Text that is no path is not yielded.
    """
    value = value.removeprefix("@")
    while value:
        # A single word or a number may stand in any message.
        if any(sign in value for sign in "./\\") and not re.fullmatch(r"[\d.\s/-]+", value):
            yield value
        end = max(value.rfind(sign) for sign in ":@,")
        value = value[: max(end, 0)]


def _names(line: str, text: str) -> bool:
    """Whether ``text`` stands in ``line`` and is not part of a longer word or path."""
    return re.search(rf"(?<![\w/\\.\-]){re.escape(text)}(?![\w/\\\-])", line) is not None


def _shown(path: object) -> str:
    """A path in the form of the line that is printed: blanks are single and surrogates are written out."""
    text = path.decode("utf-8", "backslashreplace") if isinstance(path, bytes) else str(path)
    return " ".join(text.encode("utf-8", "backslashreplace").decode().split())
