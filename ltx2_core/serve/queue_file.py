"""The SQLite file of the queue: its schema, its versions, connections and transactions."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_VERSION = 3
_SCHEMA = """
CREATE TABLE jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    kind TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('queued', 'running', 'succeeded', 'failed', 'canceled')),
    created REAL NOT NULL,
    started REAL,
    finished REAL,
    attempts INTEGER NOT NULL DEFAULT 0,
    cancel INTEGER NOT NULL DEFAULT 0,
    spec TEXT NOT NULL,
    outcome TEXT,
    error TEXT,
    client TEXT NOT NULL DEFAULT '',
    model TEXT NOT NULL DEFAULT ''
);
CREATE INDEX jobs_by_state ON jobs (state, number);
"""
_ADDED = ("client", "model")
"""The columns that versions 2 and 3 have added."""


def open_queue(path: Path) -> sqlite3.Connection:
    """A connection to the queue at ``path``, which is created if it is missing, or brought up to date.

    Raises ValueError if the file is no queue or is that of a newer version, and OSError if it cannot be
    opened.
    """
    connection = connected(path)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        # A request that was answered must survive a power cut.
        connection.execute("PRAGMA synchronous=FULL")
        with transaction(connection):
            _create(connection, path)
    except sqlite3.OperationalError as error:
        # The file may be whole: the disk is full, it may not be written, or another program locks it.
        connection.close()
        raise OSError(f"{path} cannot be opened: {error}") from error
    except sqlite3.DatabaseError as error:
        connection.close()
        raise ValueError(
            f"{path} is no table of jobs ({error}): move it away, or use another state folder"
        ) from error
    return connection


def connected(path: Path, *, wait_s: float = 30.0) -> sqlite3.Connection:
    """A connection to the file ``path`` that several threads may use. Raises OSError if there is none.

    While another program locks the file, each statement waits ``wait_s`` seconds and then raises
    sqlite3.OperationalError.
    """
    try:
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=wait_s)
    except sqlite3.OperationalError as error:
        raise OSError(f"{path} cannot be opened: {error}") from error
    connection.row_factory = sqlite3.Row
    return connection


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """A context whose changes are stored all, at its end, or if it raises not at all."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        # A full disk makes this fail, after which the next transaction could not begin.
        connection.execute("COMMIT")
    except BaseException:
        # Some errors of SQLite have ended the transaction already.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _create(connection: sqlite3.Connection, path: Path) -> None:
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version == _VERSION:
        return
    if version > _VERSION:
        raise ValueError(f"{path} was written by a newer version: use that, or another state folder")
    if version:
        for name in _ADDED[version - 1 :]:
            connection.execute(f"ALTER TABLE jobs ADD COLUMN {name} TEXT NOT NULL DEFAULT ''")
        connection.execute("UPDATE jobs SET model = COALESCE(json_extract(spec, '$.model'), '')")
    else:
        # Not executescript, which would commit before the version is set.
        for statement in filter(str.strip, _SCHEMA.split(";")):
            connection.execute(statement)
    connection.execute(f"PRAGMA user_version={_VERSION}")
