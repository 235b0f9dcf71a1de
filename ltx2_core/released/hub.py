"""Downloads released files by ``huggingface_hub``: resumable, complete or not there at all.

Its variables hold: ``HF_ENDPOINT`` is a mirror, ``HF_TOKEN`` the token, ``HF_HUB_OFFLINE`` forbids requests.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..storage.private import locked
from .folders import place_of
from .table import ReleasedFile

_LOST = {"TransportError", "ConnectionError", "ChunkedEncodingError", "Timeout"}
"""Names of the classes of such errors in httpx and requests."""
RESERVE = 2**30
"""Bytes of a disk that a download leaves free."""
_CHUNK = 2**24


@dataclass(frozen=True, kw_only=True)
class Published:
    """What the hub says of a file: its ``bytes``, and the ``tag`` of its content; None if it tells none."""

    bytes: int | None
    tag: str | None = None

    @property
    def sha256(self) -> str | None:
        """The hash of the file, which is the tag of large ones; None for other tags."""
        tag = self.tag or ""
        return tag if len(tag) == 64 and set(tag) <= set("0123456789abcdef") else None


def published(file: ReleasedFile) -> Published:
    """Ask the hub for the size and the hash of a file. Raises OSError that says what to do if it refuses."""
    from huggingface_hub import get_hf_file_metadata

    with _naming(file):
        about = get_hf_file_metadata(_url(file))
    return Published(bytes=about.size, tag=about.etag)


def in_table(file: ReleasedFile) -> Published:
    """What the table says of a file, for a machine that does not reach the hub."""
    return Published(bytes=file.bytes if file.exact else None, tag=file.sha256)


def check_room(files: Sequence[ReleasedFile], folder: Path, sizes: Sequence[int | None]) -> None:
    """Raise OSError if ``files`` of these sizes in bytes, as far as they are known, do not fit on the disk.

    What an interrupted download has written already counts as there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    needed = sum(size or file.bytes or 0 for file, size in zip(files, sizes, strict=True))
    present = sum(_size(_staging(file, folder)) for file in files)
    free = shutil.disk_usage(folder).free
    if needed - present + RESERVE > free:
        more = needed - present
        raise OSError(
            f"{folder} has {free / 1e9:.1f} GB free, and the download needs {more / 1e9:.1f} GB and leaves "
            f"{RESERVE / 1e9:.1f} GB: make room, or name another folder with --dir"
        )


def download(file: ReleasedFile, about: Published, folder: Path) -> Path:
    """Download a file to its place below ``folder`` and return its path; an interrupted download is resumed.

    ``about`` is what the hub says of it. Raises OSError that says what to do if the hub refuses or cannot be
    reached, or if what came has not the published hash, and ValueError if another process downloads it.
    """
    # Not hf_hub_download, which from version 2 on begins again after its process has ended.
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils._headers import build_hf_headers

    staging, target = _staging(file, folder), place_of(file, folder)
    staging.mkdir(parents=True, exist_ok=True)
    with locked(staging):
        # A file that was published again has another tag, and is not the rest of the old one.
        part = staging / f"{re.sub(r'[^0-9A-Za-z]', '', about.tag or 'untagged')}.part"
        with _naming(file), part.open("ab") as growing:
            size = growing.tell()
            if about.bytes is None or size != about.bytes:
                http_get(
                    _url(file),
                    growing,
                    resume_size=size,
                    headers=build_hf_headers(),
                    expected_size=about.bytes,
                    displayed_filename=file.name,
                )
        # As a whole, this once: a disk or a mirror may have damaged it. A mirror may also tell no hash.
        wanted = about.sha256 or in_table(file).sha256
        if wanted is not None and file_sha256(part) != wanted:
            part.unlink()
            raise OSError(
                f"{file.name} came with another sha256 than the published one, and is removed: the same "
                "command downloads it again, and HF_ENDPOINT names another mirror"
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        part.replace(target)
        shutil.rmtree(staging)
    return target


def file_sha256(path: Path) -> str:
    """The sha256 of a file in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _url(file: ReleasedFile) -> str:
    from huggingface_hub import hf_hub_url

    # Read when it is used, where the package reads it when it is imported.
    return hf_hub_url(file.repository, file.path, endpoint=os.environ.get("HF_ENDPOINT") or None)


@contextmanager
def _naming(file: ReleasedFile) -> Iterator[None]:
    """A context in which errors of the hub become an OSError that names ``file`` and says what to do."""
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError

    name = f"{file.repository}/{file.path}"
    try:
        yield
    except GatedRepoError as error:
        raise OSError(
            f"{name} needs an account that has accepted its licence: accept it on its page, and set HF_TOKEN"
        ) from error
    except HfHubHTTPError as error:
        # None for an answer that could not be read.
        status = getattr(error.response, "status_code", "nothing that can be read")
        raise OSError(f"{name} cannot be downloaded: the hub answers {status}") from error
    except Exception as error:
        if not _is_lost(error):
            raise
        raise OSError(
            f"{name} cannot be downloaded: the hub is not reached, or the connection was lost ({error}); the "
            "same command resumes the download, and HF_ENDPOINT names a mirror"
        ) from error


def _is_lost(error: Exception) -> bool:
    """Whether an error says that there is no connection, whichever HTTP client the hub's package uses."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    names = {kind.__name__ for kind in type(error).__mro__}
    return isinstance(error, LocalEntryNotFoundError) or not names.isdisjoint(_LOST)


def _staging(file: ReleasedFile, folder: Path) -> Path:
    """The folder in which a download of a file grows, on the disk of its target."""
    return folder / ".downloads" / file.id


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
