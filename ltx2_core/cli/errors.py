"""How a command ends with an error: one line on stderr, and an exit code.

Exit codes: 0 done; 1 the run failed, or ``ltx2 doctor`` found something to repair; 2 the request was refused:
an option, a file or a combination of them is wrong; 130 and 143 interrupted, by Ctrl+C (SIGINT) and by
SIGTERM.
"""

from __future__ import annotations

import errno

import click

from ..run.options import BY_NAME

REFUSED = 2

_OF_THE_REQUEST = frozenset(
    {
        *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.EACCES, errno.EPERM, errno.EROFS),
        *(errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL, errno.ENXIO),
    }
)
"""Errors of the operating system about a path that was named, not about the machine."""


class Refused(click.ClickException):
    """An error that ends a command with exit code 2: the request is wrong, and nothing was done."""

    exit_code = REFUSED


def ending(error: ValueError | OSError) -> click.ClickException:
    """Return the click exception that ends the command for ``error``, with its text as one line on stderr.

    It is :class:`Refused` (exit code 2), or for an error of the machine, such as a full disk, an exception
    with exit code 1.
    """
    # A path may hold bytes that no terminal can display.
    text = str(error).encode("utf-8", "backslashreplace").decode()
    # One line, because scripts and logs read stderr line by line.
    line = in_flags(" ".join(text.split())) or type(error).__name__
    of_the_machine = isinstance(error, OSError) and error.errno not in (None, *_OF_THE_REQUEST)
    return click.ClickException(line) if of_the_machine else Refused(line)


def in_flags(line: str) -> str:
    """Change the keyword that begins a message to its flag: "steps=0 must ..." -> "--steps 0 must ..."."""
    name, equals, rest = line.partition("=")
    flags = {option.flag.removeprefix("--").replace("-", "_"): option.flag for option in BY_NAME.values()}
    flag = BY_NAME[name].flag if name in BY_NAME else flags.get(name)
    return f"{flag} {rest}" if equals and flag is not None else line
