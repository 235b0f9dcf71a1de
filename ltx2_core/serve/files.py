"""The private folder of the service: the results of jobs, and the files of jobs that are not finished."""

from __future__ import annotations

import json
import os
import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from ..storage.files import JsonObject, ParsedJson
from ..storage.private import private_folder
from .store import JobStore


class StateFolder:
    """The folder ``path``, readable by this user only, in which the service stores all its files.

    It has the file ``jobs.sqlite``, a folder ``results`` with the files that jobs have made, a folder
    ``work`` with what unfinished jobs need, and a folder ``uploads`` with what clients have sent. Uploads
    that arrive in pieces are in ``unfinished`` until they are whole.
    """

    def __init__(self, path: Path) -> None:
        self.path = private_folder(path.resolve())
        self.results = private_folder(self.path / "results")
        self.uploads = private_folder(self.path / "uploads")
        self.unfinished = private_folder(self.path / "unfinished")
        self._work = private_folder(self.path / "work")

    @property
    def database(self) -> Path:
        return self.path / "jobs.sqlite"

    def result(self, job_id: str, index: int, suffix: str) -> Path:
        """The file of clip ``index`` of a job; ``suffix`` is the kind of file, such as "mp4"."""
        return self.results / f"{job_id}_output_{index}.{suffix}"

    def work(self, job_id: str) -> Path:
        """The folder for inputs, saved latents and windows of a job; it is created if it is missing."""
        return private_folder(self._work / job_id)

    def record_clip(self, job_id: str, index: int, outcome: JsonObject) -> None:
        """Store what clip ``index`` of a job became, after its file is written.

        From here on the clip is not made again, also if the process is killed before the job has ended.
        """
        path = self.work(job_id) / f"clip_{index}.json"
        temporary = path.with_suffix(".part")
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(outcome, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)

    def recorded_clip(self, job_id: str, index: int) -> ParsedJson | None:
        """What :meth:`record_clip` has stored; None if the clip is not finished."""
        try:
            text = (self.work(job_id) / f"clip_{index}.json").read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        outcome: ParsedJson = json.loads(text)
        return outcome

    def finish(self, job_id: str) -> None:
        """Remove what only an unfinished job needs."""
        shutil.rmtree(self._work / job_id, ignore_errors=True)

    def remove(self, job_id: str) -> None:
        """Remove all files of a job."""
        self.finish(job_id)
        for path in self.results.glob(f"{job_id}_output_*"):
            _discard(path)

    def clear(self, job_id: str, index: int) -> None:
        """Remove the results of clip ``index`` that a run has written without recording the clip."""
        stem = f"{job_id}_output_{index}"
        for path in self.results.glob(f"{stem}[._]*"):
            _discard(path)

    def sizes(self) -> dict[str, int]:
        """Id of each job with results -> their bytes."""
        found: dict[str, int] = {}
        for path in self.results.iterdir():
            job_id = path.name.split("_output_")[0]
            found[job_id] = found.get(job_id, 0) + size_of(path)
        return found

    def remove_orphans(self, *, unfinished: set[str], succeeded: set[str]) -> None:
        """Remove what a process that was killed has left behind; called before a worker starts.

        ``unfinished`` are the ids of queued jobs, whose work is preserved, and ``succeeded`` those of jobs
        whose results are. Unfinished ``.part`` files and folders are removed, also those of uploads.
        """
        for path in list(self._work.iterdir()):
            if path.name not in unfinished:
                _discard(path)
        for path in [*self.results.iterdir(), *self.uploads.iterdir()]:
            if path.name.endswith(".part"):
                _discard(path)
        for path in list(self.results.iterdir()):
            if (job_id := path.name.split("_output_")[0]) not in unfinished | succeeded:
                self.remove(job_id)


UNFINISHED_S: Final = 86400.0
"""Seconds after the last byte after which an upload that is not whole is removed."""


def expire(store: JobStore, folder: StateFolder, *, age_s: float, most_bytes: int) -> list[str]:
    """Remove jobs that ended more than ``age_s`` seconds ago, and the oldest while results are too large.

    ``most_bytes`` is what all results together may take. Uploads that were sent more than ``age_s`` seconds
    ago, and that no unfinished job needs, are removed too, and parts of uploads after at most a day. Returns
    the ids of the jobs that were removed.
    """
    oldest = time.time() - age_s
    sizes = folder.sizes()
    total, removed = sum(sizes.values()), list[str]()
    for job_id, finished in store.ended():
        # A job without files gives no room.
        if finished >= oldest and (total <= most_bytes or job_id not in sizes):
            continue
        # The files first: a job without files is removed the next time, files without a job never.
        folder.remove(job_id)
        store.delete(job_id)
        total -= sizes.get(job_id, 0)
        removed.append(job_id)
    for path in folder.uploads.iterdir():
        # A ``.part`` file is renamed when its upload is complete.
        with suppress(FileNotFoundError):
            if path.lstat().st_mtime < oldest and not store.is_needed(path.name):
                path.unlink()
    _remove_older(folder.unfinished, time.time() - min(age_s, UNFINISHED_S))
    return removed


def _remove_older(folder: Path, oldest: float) -> None:
    for path in folder.iterdir():
        # One that becomes whole is moved away.
        with suppress(FileNotFoundError):
            if path.lstat().st_mtime < oldest:
                path.unlink()


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder; 0 for what has been removed in the meantime."""
    size = 0
    for file in path.rglob("*") if path.is_dir() else (path,):
        with suppress(FileNotFoundError):
            size += 0 if file.is_dir() else file.stat().st_size
    return size


def _discard(path: Path) -> None:
    """Remove a file, a link, or a folder with what is in it, such as the EXR images of an HDR clip."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
