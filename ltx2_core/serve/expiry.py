"""Removes results and uploads that have expired, in a thread that looks for them from time to time."""

from __future__ import annotations

import logging
import sqlite3
import threading
from dataclasses import dataclass

from .files import StateFolder, expire
from .store import JobStore

_log = logging.getLogger(__name__)

_EVERY_S = 60.0
"""Seconds between two looks for results that have expired."""


@dataclass(frozen=True, kw_only=True)
class Retention:
    """How long results stay: ``age_s`` seconds after the end of their job, and ``most_bytes`` in all.

    ``job_s`` is how many seconds one job may run.
    """

    age_s: float = 7 * 86400.0
    most_bytes: int = 50 * 2**30
    job_s: float = 3600.0


class Expiry(threading.Thread):
    """Removes what has expired by ``retention``, until :meth:`end` is called."""

    def __init__(self, store: JobStore, folder: StateFolder, retention: Retention) -> None:
        super().__init__(name="ltx2 expiry", daemon=True)
        self._store, self._folder, self._retention = store, folder, retention
        self._ended = threading.Event()

    def run(self) -> None:
        while not self._ended.is_set():
            try:
                self._expire()
            except (sqlite3.Error, OSError) as error:
                # A full disk must not end the thread, as nothing would make space on it.
                _log.error("expired results cannot be removed now: %s", error)
            self._ended.wait(_EVERY_S)

    def end(self) -> None:
        """End the thread, and wait for it."""
        self._ended.set()
        if self.is_alive():
            self.join()

    def _expire(self) -> None:
        age_s, most_bytes = self._retention.age_s, self._retention.most_bytes
        for job_id in expire(self._store, self._folder, age_s=age_s, most_bytes=most_bytes):
            _log.info("job %s has expired", job_id)
