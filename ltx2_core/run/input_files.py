"""Records the files that a request names, each with a digest, and finds them again for a repeated run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from os import PathLike
from pathlib import Path
from typing import Any

from ..storage.files import JsonObject, ParsedJson
from ..storage.identity import identity
from .request import Request

_SINGLE = ("image", "audio", "reference_audio")
_LISTS = ("images", "references")


def file_records(request: Request) -> dict[str, dict[str, str]]:
    """Return a dict of all input files of ``request``: path as written in the request -> record.

    The record is what :func:`file_record` returns.
    """
    return {name: file_record(name) for name in _names(request.settings())}


def file_record(name: str | PathLike[str]) -> dict[str, str]:
    """Return {"path": absolute path, "identity": digest of the content} of a file or a folder of images."""
    path = Path(name).resolve()
    return {"path": str(path), "identity": identity(content_files(path))}


def found(name: str, record: Mapping[str, str], what: str) -> str:
    """Return the path where a recorded file is now: ``name`` or the absolute path in ``record``.

    ``record`` is what :func:`file_record` returned. The result is the first of the two paths whose content
    has the recorded digest. ``what`` says in errors what the file was used as, such as "image". Raises
    ValueError if the file is gone or its content has changed.
    """
    # The name comes first, so that a project that was moved as a whole finds its own files.
    places = [path for path in (Path(name), Path(record["path"])) if path.exists()]
    for path in places:
        if identity(content_files(path)) == record["identity"]:
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
    request: ParsedJson, records: Mapping[str, Mapping[str, str]], *, replaced: Set[str]
) -> JsonObject:
    """Return a copy of a request's JSON values with the current path of each file.

    ``records`` are those of :func:`file_records`. Fields named in ``replaced`` are not looked up, because the
    caller replaces them; neither are files without a record, which earlier versions did not write. Raises
    ValueError for a file that is gone or has changed.
    """
    plain: JsonObject = dict(request)

    def now(source: Any, what: str) -> Any:
        record = records.get(source) if isinstance(source, str) else None
        return source if record is None else found(source, record, what)

    for name in _SINGLE:
        if name not in replaced and request.get(name) is not None:
            plain[name] = now(request[name], name)
    for name in _LISTS:
        if name not in replaced and request.get(name):
            one = name.removesuffix("s")
            plain[name] = [{**entry, "source": now(entry["source"], one)} for entry in request[name]]
    return plain


def _names(request: ParsedJson) -> Iterator[str]:
    """Yield the path of every existing file that the JSON values of a request name, each once."""
    sources = [request[name] for name in _SINGLE]
    sources += [entry["source"] for name in _LISTS for entry in request[name]]
    # What was in memory is a note in angle brackets, which is no file.
    yield from dict.fromkeys(s for s in sources if isinstance(s, str) and Path(s).exists())


def content_files(path: Path) -> list[Path]:
    """The files that a digest of ``path`` covers: the file itself, or all files of a folder of images."""
    return sorted(one for one in path.iterdir() if one.is_file()) if path.is_dir() else [path]
