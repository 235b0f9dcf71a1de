"""The files that a request names, recorded with a digest and found again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from os import PathLike
from pathlib import Path
from typing import Any

from ..storage.identity import identity
from .request import Request

_SINGLE = ("image", "audio", "reference_audio")
_LISTS = ("images", "references")


def file_records(request: Request) -> dict[str, dict[str, str]]:
    """Every file that a request names, as it is named -> its whole path and a digest, as JSON values."""
    return {name: file_record(name) for name in _names(request.settings())}


def file_record(name: str | PathLike[str]) -> dict[str, str]:
    """The whole path of a file or a folder of images, and a digest of its content."""
    path = Path(name).resolve()
    return {"path": str(path), "identity": identity(_content(path))}


def found(name: str, record: Mapping[str, str], what: str) -> str:
    """Where a recorded file is now: as it was named, else at its whole path.

    ``what`` names its use in an error. Raises ValueError if it is gone or has changed.
    """
    places = [path for path in (Path(name), Path(record["path"])) if path.exists()]
    for path in places:
        if identity(_content(path)) == record["identity"]:
            return str(path)
    if places:
        raise ValueError(
            f"{places[0]} has changed since the file was made with it as its {what}: put the old one back, "
            "or name another one"
        )
    raise ValueError(
        f"{record['path']} is gone, and the file was made with it as its {what}: put it back, or name "
        "another one"
    )


def with_found_files(
    request: Mapping[str, Any], records: Mapping[str, Mapping[str, str]], *, replaced: Set[str]
) -> dict[str, Any]:
    """The JSON values of a request with its files where they are now.

    Options in ``replaced`` are left alone, and so are files without a record, of earlier versions. Raises
    ValueError for a file that is gone or has changed.
    """
    plain = dict(request)

    def now(source: Any, what: str) -> Any:
        record = records.get(source) if isinstance(source, str) else None
        return source if record is None else found(source, record, what)

    for name in _SINGLE:
        if name not in replaced and plain.get(name) is not None:
            plain[name] = now(plain[name], name)
    for name in _LISTS:
        if name not in replaced and plain.get(name):
            one = name.removesuffix("s")
            plain[name] = [{**entry, "source": now(entry["source"], one)} for entry in plain[name]]
    return plain


def _names(request: Mapping[str, Any]) -> Iterator[str]:
    """The names of all files in the JSON values of a request."""
    sources = [request[name] for name in _SINGLE]
    sources += [entry["source"] for name in _LISTS for entry in request[name]]
    # What was in memory is a note in angle brackets, which is no file.
    yield from dict.fromkeys(s for s in sources if isinstance(s, str) and Path(s).exists())


def _content(path: Path) -> list[Path]:
    """The file, or the files of a folder of images."""
    return sorted(one for one in path.iterdir() if one.is_file()) if path.is_dir() else [path]
