"""The Ray cluster on which replicas run: one that is there, or one that ends with the server."""

from __future__ import annotations

import atexit
import multiprocessing
import os
from multiprocessing.connection import Connection
from typing import Any, Final

import ray

_END_S: Final = 20.0
"""Seconds that a cluster has to end by itself."""


def connect(address: str) -> None:
    """Connect to the cluster at ``address``: "auto" is the one of this machine, "local" starts one.

    One that is started ends with this process, however that ends. Raises ConnectionError if there is none,
    and OSError if none can be started.
    """
    ray.init(address=_started() if address == "local" else address, log_to_driver=False)


def _started() -> str:
    """Start a cluster on this machine; returns its address."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_hold, args=(theirs,), name="ltx2 ray", daemon=True)
    process.start()
    theirs.close()
    try:
        address: Any = ours.recv_bytes().decode()
    except (EOFError, OSError):
        raise OSError("Ray cannot be started on this machine: see the lines above") from None
    atexit.register(_end, process, ours)
    return str(address)


def _end(process: Any, connection: Connection[bytes, bytes]) -> None:
    # Left before it ends, without a wait for machines that do not answer.
    ray.shutdown()
    connection.close()
    process.join(_END_S)


def _hold(connection: Connection[bytes, bytes]) -> None:
    """Start a cluster, send its address, and end it once ``connection`` is closed."""
    if hasattr(os, "setsid"):
        # A signal to the processes of the server, such as Ctrl+C, must not end replicas before their jobs.
        os.setsid()
    ray.init(address="local", include_dashboard=False, log_to_driver=False)
    connection.send_bytes(ray.get_runtime_context().gcs_address.encode())
    try:
        connection.recv_bytes()
    except (EOFError, OSError):
        ray.shutdown()
