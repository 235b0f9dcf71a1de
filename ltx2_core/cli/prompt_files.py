"""Reads text files with prompts that are named on the command line."""

from __future__ import annotations

from pathlib import Path

MAX_BYTES = 2**20
"""The largest size in bytes of a file of prompts: 1 MiB."""


def read_text(file: Path, option: str) -> str:
    """Read a text file; ``option`` is the flag that named it, for error messages.

    Raises FileNotFoundError unless it is a regular file, ValueError for one that cannot be read, is too
    large, empty or not UTF-8.
    """
    # A pipe would block for ever.
    if not file.is_file():
        raise FileNotFoundError(f"{option}: no file of prompts at {file}")
    try:
        with file.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise ValueError(f"{option} {file} cannot be read: {error.strerror}") from error
    if len(content) > MAX_BYTES:
        raise ValueError(f"{option} {file} is larger than {MAX_BYTES} bytes")
    try:
        # Editors on Windows put a byte order mark in front of UTF-8.
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{option} {file} is not text in UTF-8: {error}") from None
    if not text.strip():
        raise ValueError(f"{option} {file} holds no prompt")
    return text
