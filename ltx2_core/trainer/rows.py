"""What a dataset lists: media files and their captions, from a folder or from a csv, json or jsonl file."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

VIDEOS = frozenset({".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".gif"})
IMAGES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp"})
AUDIO = frozenset({".wav", ".mp3", ".flac", ".ogg", ".aac", ".m4a"})

COLUMNS: Mapping[str, tuple[str, ...]] = {
    "caption": ("caption", "prompt", "text"),
    "video": ("video", "media_path", "image"),
    "audio": ("audio", "input_audio"),
    "reference_video": ("reference_video", "ref_media_path", "in_context_videos"),
    "reference_audio": ("reference_audio",),
    "video_mask": ("video_mask",),
    "audio_mask": ("audio_mask",),
    "repeats": ("repeats", "num_repeats"),
}
"""What a column holds -> its names, the first one preferred. Other columns are ignored."""

_NO_FILES = ("caption", "repeats")
"""Columns that hold no path."""
_PLAIN = frozenset(name for role in _NO_FILES for name in COLUMNS[role])
_MOST_ERRORS = 20
_NUMBERED = re.compile(r"([1-9]\d{0,5})_")
"""Beginning of the name of a folder: how often an epoch has its clips."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One entry of a dataset.

    ``where`` is the place that errors name: file and line, or the media file of a folder. ``video`` may be an
    image. ``captions`` are alternatives, one of which is drawn in each step. ``repeats`` is how often an
    epoch has the clip.
    """

    where: str
    captions: tuple[str, ...]
    video: Path | None = None
    audio: Path | None = None
    reference_video: Path | None = None
    reference_audio: Path | None = None
    video_mask: Path | None = None
    audio_mask: Path | None = None
    repeats: int = 1

    @property
    def files(self) -> dict[str, Path]:
        """The media files of this entry, by the name of their column."""
        named = {name: getattr(self, name) for name in COLUMNS if name not in _NO_FILES}
        return {name: path for name, path in named.items() if path is not None}


def read_rows(
    source: Path,
    *,
    caption_ext: str = ".txt",
    caption_column: str | None = None,
    file_columns: Sequence[str] = (),
) -> list[Row]:
    """Read all entries of a dataset: a folder of media files, or a csv, json or jsonl file.

    In a folder the caption of ``clip.mp4`` is in ``clip.txt`` (``caption_ext``), where blank lines separate
    alternatives; ``clip.wav`` next to it replaces its audio. Folders ``reference_video``,
    ``reference_audio``, ``video_mask`` and ``audio_mask`` in it hold files of the same names. Folders
    ``5_name`` in it hold more clips, which an epoch has so many times. Paths in a file are relative to it;
    ``caption_column`` names the column of captions, None takes the usual ones. Of all columns that can hold
    files only ``file_columns`` are read; empty takes all.

    Raises ValueError that lists every problem by file and line: missing files and captions, files that are
    used twice, columns that are not there.
    """
    if source.is_dir():
        found = list(_of_folder(source, caption_ext))
        for inner in sorted(path for path in source.iterdir() if path.is_dir()):
            if (count := _NUMBERED.match(inner.name)) is not None:
                repeated = (
                    replace(row, repeats=int(count[1])) if isinstance(row, Row) else row
                    for row in _of_folder(inner, caption_ext)
                )
                found += repeated
    elif source.suffix.lower() in (".csv", ".json", ".jsonl"):
        _check_columns(file_columns)
        found = list(_of_file(source, caption_column, file_columns))
    elif source.exists():
        raise ValueError(f"{source} is no dataset: give a folder of media, or a csv, json or jsonl file")
    else:
        raise FileNotFoundError(f"no dataset at {source}")
    errors = [text for text in found if isinstance(text, str)]
    rows = [row for row in found if isinstance(row, Row)]
    errors += _repeated(rows)
    if errors:
        more = f"\n... and {len(errors) - _MOST_ERRORS} more" if len(errors) > _MOST_ERRORS else ""
        raise ValueError("\n".join(errors[:_MOST_ERRORS]) + more)
    if not rows:
        raise ValueError(f"{source} holds no media: videos, images or audio files with a caption each")
    return rows


def column_roles(columns: Iterable[str]) -> dict[str, str]:
    """What each column holds -> the name it has in this file; unknown columns are left out."""
    present = set(columns)
    roles = {role: next((n for n in names if n in present), None) for role, names in COLUMNS.items()}
    return {role: name for role, name in roles.items() if name is not None}


def paragraphs(text: str) -> tuple[str, ...]:
    """The captions in the text of a caption file: its paragraphs, with lines joined by spaces."""
    blocks: list[list[str]] = [[]]
    for line in text.splitlines():
        if line.strip():
            blocks[-1].append(line.strip())
        elif blocks[-1]:
            blocks.append([])
    return tuple(" ".join(block) for block in blocks if block)


def _of_folder(folder: Path, caption_ext: str) -> Iterator[Row | str]:
    """Entries of a folder, and sentences about what is wrong."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    known = VIDEOS | IMAGES | AUDIO
    media: dict[str, list[Path]] = {}
    for path in files:
        if path.suffix.lower() in known:
            media.setdefault(path.stem, []).append(path)
    for stem, paths in media.items():
        videos = [path for path in paths if path.suffix.lower() not in AUDIO]
        audio = [path for path in paths if path.suffix.lower() in AUDIO]
        if len(videos) > 1 or len(audio) > 1:
            twice = videos if len(videos) > 1 else audio
            yield f"{twice[0]}: {twice[1].name} has the same name, so their captions cannot be told apart"
            continue
        caption = folder / f"{stem}{caption_ext}"
        if not caption.is_file():
            yield f"{(videos or audio)[0]}: there is no caption {caption.name} next to it"
            continue
        captions = paragraphs(caption.read_text(encoding="utf-8-sig", errors="replace"))
        if not captions:
            yield f"{caption}: the caption is empty"
            continue
        yield Row(
            where=str((videos or audio)[0]),
            captions=captions,
            video=videos[0] if videos else None,
            audio=audio[0] if audio else None,
            reference_video=_media_of(folder / "reference_video", stem),
            reference_audio=_media_of(folder / "reference_audio", stem),
            video_mask=_media_of(folder / "video_mask", stem),
            audio_mask=_media_of(folder / "audio_mask", stem),
        )


def _media_of(folder: Path, stem: str) -> Path | None:
    """The media file in ``folder`` that is called ``stem``; None if there is none."""
    if not folder.is_dir():
        return None
    known = VIDEOS | IMAGES | AUDIO
    # Compared and not globbed: names may hold brackets.
    found = sorted(p for p in folder.iterdir() if p.stem == stem and p.suffix.lower() in known)
    return found[0] if found else None


def _check_columns(names: Sequence[str]) -> None:
    """Raise ValueError for a column that holds no media."""
    known = [name for role, names in COLUMNS.items() if role not in _NO_FILES for name in names]
    for name in names:
        if name not in known:
            raise ValueError(
                f"--data-file-keys {name!r} is no column of media: use some of {', '.join(known)}"
            )


def _of_file(file: Path, caption_column: str | None, file_columns: Sequence[str]) -> Iterator[Row | str]:
    """Entries of a csv, json or jsonl file, and sentences about what is wrong."""
    for line, entry in _entries(file):
        where = f"{file}:{line}"
        if isinstance(entry, str):
            yield f"{where}: {entry}"
            continue
        wanted = [name for name in entry if not file_columns or name in file_columns or name in _PLAIN]
        roles = column_roles(wanted)
        absent = [name for name in file_columns if name not in entry]
        if absent:
            yield f"{where}: there is no column {', '.join(absent)}, which --data-file-keys names"
            continue
        if caption_column is not None:
            roles["caption"] = caption_column
        values = {role: entry.get(name) for role, name in roles.items()}
        yield from _row(where, file.parent, values, caption_column)


def _row(
    where: str, folder: Path, values: Mapping[str, Any], caption_column: str | None
) -> Iterator[Row | str]:
    """The entry of one line, or sentences about what is wrong with it; ``values`` are by role."""
    raw = values.get("caption")
    captions = tuple(str(one).strip() for one in (raw if isinstance(raw, list) else [raw]) if one)
    problems = []
    if not captions or not all(captions):
        problems.append(
            "the caption is missing (column caption or prompt)"
            if caption_column is None
            else f"the column {caption_column!r} is missing or empty"
        )
    repeats = _count(values.get("repeats"))
    if repeats is None:
        problems.append(f"repeats must be a whole number from 1 on, not {values.get('repeats')!r}")
    paths: dict[str, Path] = {}
    for role, value in values.items():
        if role in _NO_FILES or not value:
            continue
        # DiffSynth writes a list even for a single reference.
        names = value if isinstance(value, list) else [value]
        if len(names) != 1 or not isinstance(names[0], str):
            problems.append(f"{role} must be one path, not {value!r}")
            continue
        paths[role] = folder / names[0]
        if not paths[role].is_file():
            problems.append(f"{role}: no file at {paths[role]}")
    if not problems and "video" not in paths and "audio" not in paths:
        problems.append("there is neither a video nor audio (columns video, media_path, image or audio)")
    if problems:
        yield from (f"{where}: {problem}" for problem in problems)
    else:
        yield Row(where=where, captions=captions, repeats=repeats or 1, **paths)


def _count(value: Any) -> int | None:
    """How often an epoch has a clip, by its column: 1 if that is empty, None if it is no such number."""
    if value is None or value == "":
        return 1
    text = str(value).strip()
    return int(text) if text.isdecimal() and 1 <= len(text) <= 6 and int(text) else None


def _entries(file: Path) -> Iterator[tuple[int, Mapping[str, Any] | str]]:
    """The objects of a file with their line (json: number in the list); a text says what is wrong."""
    text = file.read_text(encoding="utf-8-sig", errors="replace")
    if file.suffix.lower() == ".csv":
        # From the text and not from its lines, as a quoted caption may have several.
        reader = csv.DictReader(io.StringIO(text, newline=""))
        try:
            for row in reader:
                yield reader.line_num, row
        except csv.Error as error:
            yield reader.reader.line_num, f"it cannot be read: {error}"
        return
    if file.suffix.lower() == ".jsonl":
        # Not splitlines, which also splits at characters that JSON allows within a text, such as U+2028.
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                yield number, _object(line)
        return
    try:
        whole = json.loads(text)
    except json.JSONDecodeError as error:
        yield error.lineno, f"it is not JSON: {error.msg}"
        return
    if not isinstance(whole, list):
        yield 1, "it must be a list of objects, one for each clip"
        return
    for number, entry in enumerate(whole, start=1):
        yield number, entry if isinstance(entry, dict) else f"entry {number} is no object"


def _object(line: str) -> Mapping[str, Any] | str:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        return f"it is not JSON: {error.msg}"
    return value if isinstance(value, dict) else "it must be an object"


def _repeated(rows: Sequence[Row]) -> list[str]:
    """Sentences about media files that several entries use."""
    first: dict[Path, str] = {}
    texts = []
    for row in rows:
        main = row.video or row.audio
        assert main is not None
        if main.resolve() in first:
            texts.append(f"{row.where}: {main.name} is used already by {first[main.resolve()]}")
        first.setdefault(main.resolve(), row.where)
    return texts
