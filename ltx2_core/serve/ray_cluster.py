"""The Ray cluster on which replicas run: one that is there, or one that ends with the server."""

from __future__ import annotations

import atexit
import json
import multiprocessing
import os
from multiprocessing.connection import Connection
from typing import Any, Final

_MODE: Final = "RAY_AUTH_MODE"
"""The variable that says whether clients of a cluster need its token, which Ray stores for this user."""
_END_S: Final = 20.0
"""Seconds that a cluster has to end by itself."""


def connect(address: str) -> None:
    """Connect to the cluster at ``address``: "auto" is the one of this machine, "local" starts one.

    One that is started ends with this process, however that ends. Raises ConnectionError if there is none,
    and OSError if none can be started.
    """
    if address == "local":
        address = _started()
    # Only now, since Ray reads its variables when it is imported.
    import ray

    ray.init(address=address, log_to_driver=False)


def _started() -> str:
    """Start a cluster on this machine; returns its address.

    The variables of this process say from then on how its clients prove who they are.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_hold, args=(theirs,), name="ltx2 ray", daemon=True)
    process.start()
    theirs.close()
    try:
        started = json.loads(ours.recv_bytes())
    except (EOFError, OSError):
        raise OSError("Ray cannot be started on this machine: see the lines above") from None
    atexit.register(_end, process, ours)
    if started["mode"] is not None:
        os.environ[_MODE] = started["mode"]
    return str(started["address"])


def _end(process: Any, connection: Connection[bytes, bytes]) -> None:
    import ray

    # Left before it ends, without a wait for machines that do not answer.
    ray.shutdown()
    connection.close()
    process.join(_END_S)


def _hold(connection: Connection[bytes, bytes]) -> None:
    """Start a cluster, send its address, and end it once ``connection`` is closed."""
    if hasattr(os, "setsid"):
        # A signal to the processes of the server, such as Ctrl+C, must not end replicas before their jobs.
        os.setsid()
    import ray

    ray.init(address="local", include_dashboard=False, log_to_driver=False)
    started = {"address": ray.get_runtime_context().gcs_address, "mode": os.environ.get(_MODE)}
    connection.send_bytes(json.dumps(started).encode())
    try:
        connection.recv_bytes()
    except (EOFError, OSError):
        ray.shutdown()
