"""Decides from a name where a clip is written and as what kind of file."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ..formats import FORMATS, IMAGES, STREAMED, Format, format_of, suffixes
from .atomic import check_new_files, check_new_folder, check_output

# The name that FFmpeg, ffplay and most command lines use for stdout.
STDOUT = "-"
FRAME_NAME = "frame_%05d"
"""Name, without its suffix, of the images in a folder of frames, which are numbered from 1."""

_NUMBER = re.compile(r"%(0\d)?d")


@dataclass(frozen=True, kw_only=True)
class Destination:
    """Where a clip is written: a file, numbered images in a folder, or stdout.

    Attributes:
        path: the file; for images a pattern such as ``frames/frame_%05d.png``; ``-`` for stdout. A name of an
            EXR image without a number is that of a clip of one frame.
        format: the kind of file, such as MP4.
        own_folder: whether the images get a new folder, which contains nothing else.
    """

    path: Path
    format: Format
    own_folder: bool = False

    @classmethod
    def of(
        cls,
        output: str | os.PathLike[str] | Destination,
        container: str | None = None,
        *,
        hdr: bool = False,
    ) -> Destination:
        """Decide from the name ``output`` where to write a clip and as what kind of file.

        The suffix is the kind of file. A slash at the end means a folder of PNG frames, or with ``hdr`` of
        EXR frames; ``%05d`` in the name of images stands for the numbers of frames, and ``-`` is stdout.
        ``container`` is the kind of file for stdout, None for "mp4". A Destination is returned unchanged.
        Raises ValueError, which lists the kinds, for a suffix that is missing or not written, for a PNG name
        without a number, for a blank name, and for a ``container`` with another output than stdout.
        """
        if isinstance(output, Destination):
            return output
        text = os.fspath(output)
        # The operating system's own error for a null byte names neither the option nor the value.
        if not text.strip() or "\0" in text:
            raise ValueError(f"output={text!r} is no path: give a name such as clip.mp4")
        if text == STDOUT:
            return cls(path=Path(STDOUT), format=_streamed(container or STREAMED[0]))
        if container is not None:
            raise ValueError(
                f"container={container} is for the output - alone: the name {text} says the kind of file, so "
                "leave it out"
            )
        # Tested on the text, since Path drops a slash at the end.
        if text.endswith(("/", os.sep)):
            return cls.folder(text, "exr" if hdr else "png")
        path = Path(text)
        return cls(path=path, format=_format_of(path))

    @classmethod
    def folder(cls, path: str | os.PathLike[str], kind: str) -> Destination:
        """A destination of numbered images in a new folder ``path``; ``kind`` is "png" or "exr"."""
        fmt = FORMATS[kind]
        return cls(path=Path(path) / f"{FRAME_NAME}{fmt.suffixes[0]}", format=fmt, own_folder=True)

    @property
    def is_stdout(self) -> bool:
        return os.fspath(self.path) == STDOUT

    @property
    def is_images(self) -> bool:
        """Whether images are written, one for each frame."""
        return self.format.name in IMAGES

    @property
    def is_still(self) -> bool:
        """Whether one image without a number is written."""
        return self.is_images and _NUMBER.search(self.path.name) is None

    @property
    def exr_folder(self) -> Destination:
        """The folder of EXR images for an HDR video file at this destination: ``clip_exr/`` for ``clip.mp4``.

        An HDR clip that is written as a video (HLG) gets the same frames as EXR images next to it.
        """
        return Destination.folder(self.path.with_name(f"{self.path.stem}_exr"), "exr")

    @property
    def shown(self) -> Path:
        """The path to print for the user: the file, or the folder of the numbered images."""
        return self.path.parent if self.own_folder else self.path

    def __str__(self) -> str:
        return f"{self.shown}{os.sep}" if self.own_folder else str(self.path)

    def check(self, *, overwrite: bool = True) -> None:
        """Check that the file or the images can be written, before the work starts.

        ``overwrite`` allows replacing an existing file. Raises what :func:`check_output` raises,
        FileExistsError if numbered images of this name exist already, and ValueError if stdout is a terminal.
        """
        if self.is_stdout:
            # Binary data in a terminal may change its settings. Windows has no stdout without a console.
            if sys.stdout is not None and sys.stdout.isatty():
                raise ValueError(
                    "the output - is the terminal: give a file name, or redirect stdout to a file or program"
                )
        elif self.own_folder:
            check_new_folder(self.path.parent)
        elif self.is_images and not self.is_still:
            check_new_files(self.path.parent, self._names())
        else:
            check_output(self.path, overwrite=overwrite)

    def image(self, number: int) -> str:
        """The file name of image number ``number``, such as frame_00012.png."""
        if self.is_still:
            return self.path.name
        before, digits, after = self._parts()
        return f"{before}{number:0{digits}d}{after}"

    def images(self) -> Iterator[Path]:
        """Yield the paths of the images of this destination that exist on disk."""
        if self.is_still:
            return iter((self.path,) if self.path.exists() else ())
        names = self._names()
        return (path for path in self.path.parent.iterdir() if names.fullmatch(path.name))

    def _names(self) -> re.Pattern[str]:
        before, digits, after = self._parts()
        # As printf does, a number of more digits than the width is written in full, hence "or more".
        return re.compile(rf"{re.escape(before)}\d{{{digits},}}{re.escape(after)}")

    def _parts(self) -> tuple[str, int, str]:
        """Split the pattern of image names: (text before the number, its fewest digits, text after it)."""
        name = self.path.name
        found = _NUMBER.search(name)
        assert found is not None
        return name[: found.start()], max(int((found[1] or "01")[1:]), 1), name[found.end() :]

    def notes(self, *, frames: bool = True) -> Iterator[str]:
        """Yield sentences that say which part of a clip this kind of file cannot contain, such as the audio.

        ``frames`` is False for a run that generates audio alone.
        """
        if frames and not self.format.video:
            yield f"{self}: the audio alone is written, without the frames"
        if self.format.audio is None:
            yield f"{self}: the frames alone are written, since {self.format.suffixes[0]} holds no audio"
        if not self.format.tags:
            suffix = self.format.suffixes[0]
            yield f"{self}: without the settings, since {suffix} holds no tags (--from-file needs them)"

    def check_audio(self) -> None:
        """Raise ValueError if this kind of file has no audio; called for runs whose result is audio."""
        if self.format.audio is None:
            holding = suffixes(one for one in FORMATS.values() if one.audio)
            raise ValueError(
                f"output={self}: {self.format.suffixes[0]} holds no audio, and this run makes nothing else; "
                f"use {holding}"
            )


def stdout() -> BinaryIO:
    """Return stdout as a stream of bytes, unbuffered if it has a file descriptor."""
    buffer = sys.stdout.buffer
    # A buffer would be flushed again at the end of the process, when its reader may be gone.
    return getattr(buffer, "raw", buffer)


def _streamed(name: str) -> Format:
    if name not in STREAMED:
        raise ValueError(f"container={name} cannot be written to stdout: choose from {', '.join(STREAMED)}")
    return FORMATS[name]


def _format_of(path: Path) -> Format:
    found = format_of(path.suffix)
    numbered = bool(_NUMBER.search(path.name))
    if found is None:
        if path.exists():
            # Folders, devices and pipes have messages of their own.
            check_output(path)
        what = f"files of the kind {path.suffix} are not written" if path.suffix else "the name has no suffix"
        raise ValueError(
            f"output={path}: {what}. Use {suffixes(FORMATS.values())}, a folder for PNG frames with a slash "
            f"at its end ({path.stem or 'frames'}/), or - for stdout"
        )
    if found.name == "png" and not numbered:
        raise ValueError(
            f"output={path}: a clip has many frames. Number them ({path.stem}_%05d.png), or give a folder "
            f"with a slash at its end ({path.stem}/)"
        )
    return found
