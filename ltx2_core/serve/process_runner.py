"""Runs jobs in a process of its own, so that the server answers at once while networks compute."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Final

from ..storage.files import JsonObject, ParsedJson
from .garbage import spare_present_objects
from .lost import CannotStart, ReplicaLost
from .progress import Reports
from .replica import ReplicaPlan, SentReports, received, run_job
from .runner import JobRunner
from .stored_job import ClaimedJob

_LOOK_S: Final = 1.0
"""Seconds between two looks whether a job has had its time; that it must stop for another reason is told."""
_END_S: Final = 10.0
"""Seconds that a process has to end by itself."""


class ProcessRunner(JobRunner):
    """Runs jobs in a process that is started for the first of them, and again after it has ended.

    One job at a time; ``plan`` says what the process does. The process ends with the server, however that
    ends. ``pid`` is its number while it lives, else None.
    """

    def __init__(self, plan: ReplicaPlan) -> None:
        self._plan = plan
        # A fork of a server with threads may wait for their locks for ever, and CUDA allows none.
        self._context = multiprocessing.get_context("spawn")
        self._process: BaseProcess | None = None
        self._connection: Connection[bytes, bytes] | None = None
        self._looks, self._look = self._context.Pipe(duplex=False)
        self._looking = threading.Event()

    @property
    def pid(self) -> int | None:
        process = self._process
        return process.pid if process is not None and process.is_alive() else None

    def start(self) -> None:
        """Start the process if it does not live. Raises :class:`CannotStart` if it ends at once."""
        if self._process is not None and self._process.is_alive():
            return
        self.close()
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_main, args=(theirs, self._plan), name="ltx2 jobs")
        process.start()
        theirs.close()
        self._process, self._connection = process, ours
        try:
            ready = json.loads(ours.recv_bytes())
        except (EOFError, OSError):
            ready = {}
        if not ready.get("ready"):
            self.close()
            raise CannotStart(ready.get("failed") or f"it ended with exit code {process.exitcode}")

    def run(self, job: ClaimedJob, reports: Reports) -> JsonObject:
        self.start()
        assert self._connection is not None
        try:
            self._send({"id": job.id, "spec": job.spec})
            return self._followed(self._connection, reports)
        except (EOFError, OSError) as error:
            process = self._process
            self.close()
            code = None if process is None else process.exitcode
            raise ReplicaLost(f"the process of the job ended with exit code {code}") from error

    def look(self) -> None:
        # One message is enough, and nobody reads them between two jobs.
        if not self._looking.is_set():
            self._looking.set()
            self._look.send_bytes(b"look")

    def close(self) -> None:
        """End the process, if it lives."""
        process, connection = self._process, self._connection
        self._process = self._connection = None
        if connection is not None:
            # The process ends when it is closed.
            connection.close()
        if process is not None:
            process.join(_END_S)
            process.kill()
            process.join()

    def _followed(self, connection: Connection[bytes, bytes], reports: Reports) -> JsonObject:
        told = False
        while True:
            if not told and reports.stop():
                told = True
                self._send({"stop": True})
            ready = wait([connection, self._looks], _LOOK_S)
            if self._looks in ready:
                self._looks.recv_bytes()
                self._looking.clear()
            if connection in ready:
                outcome = received(json.loads(connection.recv_bytes()), reports)
                if outcome is not None:
                    return outcome

    def _send(self, message: ParsedJson) -> None:
        assert self._connection is not None
        self._connection.send_bytes(json.dumps(message).encode())


def _main(connection: Connection[bytes, bytes], plan: ReplicaPlan) -> None:
    """Run jobs until the server closes ``connection``."""
    # Ctrl+C reaches all processes of a terminal; the server decides what its jobs do then.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    lock = threading.Lock()

    def send(message: JsonObject) -> None:
        with lock:
            connection.send_bytes(json.dumps(message).encode())

    # A server that is gone needs no answer.
    with suppress(OSError):
        try:
            runner = plan.runner()
        except Exception as error:  # noqa: BLE001 the server tells it
            send({"failed": f"{type(error).__name__}: {error}"})
            return
        spare_present_objects()
        jobs = _Incoming(connection)
        send({"ready": True})
        usable = True
        while usable and (job := jobs.next()) is not None:
            usable = run_job(runner, job["id"], job["spec"], SentReports(send, jobs.stop.is_set))


class _Incoming:
    """Reads what the server sends in a thread: jobs, and that the running one must stop.

    Once the server is gone the process ends at once, so that no other server finds it at work on its files.
    """

    def __init__(self, connection: Connection[bytes, bytes]) -> None:
        self.stop = threading.Event()
        self._connection = connection
        self._job: ParsedJson | None = None
        self._arrived = threading.Event()
        threading.Thread(target=self._read, name="ltx2 incoming", daemon=True).start()

    def next(self) -> ParsedJson | None:
        """The next job, once there is one."""
        self._arrived.wait()
        self._arrived.clear()
        return self._job

    def _read(self) -> None:
        while True:
            try:
                message = json.loads(self._connection.recv_bytes())
            except (EOFError, OSError):
                os._exit(0)
            if "stop" in message:
                self.stop.set()
            else:
                self.stop.clear()
                self._job = message
                self._arrived.set()
