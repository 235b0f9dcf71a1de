"""Runs the service under uvicorn, and drains it when the process is told to end."""

from __future__ import annotations

import asyncio
import logging
import re
import socket
import sys
import threading
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from ipaddress import ip_address
from types import FrameType

import uvicorn

from ..storage.private import locked, private_folder
from .app import application
from .events import Streams
from .garbage import spare_present_objects
from .process_runner import ProcessRunner
from .runner import JobRunner
from .service import Service, Settings

_log = logging.getLogger(__name__)

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")
MOST_CONNECTIONS = 256
"""Connections and requests at the same time, of which 64 may follow jobs."""
_CLOSE_S = 5
"""Seconds that connections have to end after the last job."""
_IDLE_S = 30
"""Seconds that a connection may be idle. Clients that ask every five seconds, and those of Python, which keep
theirs for five, must not send on one that is being closed."""
_TICK_S = 0.5
"""Seconds between two looks whether the server is to end."""
_SWITCH_S = 0.0005
"""Seconds that a thread which checks a request may compute while the thread that answers waits for it."""


@dataclass(frozen=True, kw_only=True)
class Address:
    """Where the server listens, and which clients it answers.

    One of ``tokens`` must come with each request; () needs none. ``hosts`` are further names by which clients
    address the server. ``base_url`` is what URLs in answers begin with, such as that of a proxy; None is the
    URL by which a request came. ``drain_s`` is how many seconds a running job has to end after SIGTERM.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    tokens: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    base_url: str | None = None
    drain_s: float = 600.0

    def __post_init__(self) -> None:
        """Raise ValueError for an address that other machines reach, without a token, and no base URL."""
        if self.base_url is not None and not re.match(r"https?://[^\s?#]+$", self.base_url):
            raise ValueError(
                f"base_url={self.base_url} must be a URL without a query, such as https://gpu.example"
            )
        if not self.tokens and not _is_loopback(self.host):
            raise ValueError(
                f"host={self.host} is reached by other machines: name a --token-file, or listen on 127.0.0.1 "
                "behind a proxy"
            )

    def names(self) -> tuple[str, ...]:
        """The names that a client may address the server by; an empty tuple is any name."""
        # With a token a page of another site has nothing to gain from a name of its own.
        return () if self.tokens else (*LOOPBACK_NAMES, self.host.lower(), *self.hosts)


class DrainingServer(uvicorn.Server):
    """A server that at SIGTERM or Ctrl+C takes no new jobs, and ends when the running one has ended.

    Status and results are answered until then. A second signal puts the running job back to the queue.
    """

    def __init__(self, config: uvicorn.Config, service: Service, streams: Streams, *, drain_s: float) -> None:
        super().__init__(config)
        self._service, self._streams, self._drain_s = service, streams, drain_s
        self._drain: threading.Thread | None = None
        self.workers_failed = False
        """Whether the workers ended while the server was not told to."""

    async def main_loop(self) -> None:
        """Wait until the server is to end. uvicorn itself looks ten times a second, which costs 0.15 %."""
        # With 0 the time in the headers of answers is brought up to date.
        while not await self.on_tick(0):
            await asyncio.sleep(_TICK_S)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 what a handler is called with
        if self._drain is not None:
            self._service.halt()
            return
        self._drain = threading.Thread(target=self._drained, name="ltx2 drain", daemon=True)
        self._drain.start()

    def end_with_workers(self) -> None:
        """Wait for the end of all workers; if the server was not told to end, end it too."""
        self._service.wait()
        if not self._service.draining.is_set():
            self.workers_failed = True
            self._service.draining.set()
            self._end()

    def _drained(self) -> None:
        self._service.drain(self._drain_s)
        self._end()

    def _end(self) -> None:
        self._streams.closing = True
        self.should_exit = True


def serve(settings: Settings, address: Address, runners: Sequence[JobRunner] | None = None) -> bool:
    """Serve until the process is told to end. The main thread must call it.

    ``runners`` make the jobs; None is one process of this machine.

    Returns False if it ended by itself because no job can run any more, so that another process should be
    started. Raises ValueError if another server uses the same state folder, and OSError if the port is taken.
    """
    with (
        # Before the worker begins with a job.
        _listening(address) as listener,
        locked(private_folder(settings.state.resolve())),
        closing(Service(settings, runners or (ProcessRunner(settings.replica()),))) as service,
    ):
        # Wrong files are told now, and not to the first client.
        service.checkers.open_all()
        for model in settings.models.values():
            _log.info("model %s: %s, %s", model.id, model.base_model, ", ".join(map(str, model.checkpoints)))
        app = application(service, tokens=address.tokens, hosts=address.names(), base_url=address.base_url)
        # The default is 5 ms, for each of the several times that an answer lets go of the interpreter.
        sys.setswitchinterval(_SWITCH_S)
        spare_present_objects()
        config = uvicorn.Config(
            app,
            # The root logger writes on stderr; stdout holds nothing but results, here as in other commands.
            log_config=None,
            log_level="info",
            # The application has its own.
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=_CLOSE_S,
            timeout_keep_alive=_IDLE_S,
            # More connections are answered 503, so that clients that send nothing take no memory without end.
            limit_concurrency=MOST_CONNECTIONS,
            # A proxy may set these headers, and so may any client.
            proxy_headers=False,
        )
        server = DrainingServer(config, service, app.state.streams, drain_s=address.drain_s)
        service.start()
        threading.Thread(target=server.end_with_workers, name="ltx2 watch", daemon=True).start()
        host, port = listener.getsockname()[:2]
        try:
            _log.info("listening on http://%s:%d", f"[{host}]" if ":" in host else host, port)
            server.run(sockets=[listener])
        finally:
            service.drain(0)
        return not server.workers_failed


def _listening(address: Address) -> socket.socket:
    """A socket that listens at ``address``. Raises OSError that says so if the port is taken."""
    host = address.host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, address.port), family=family)
    except OSError as error:
        raise OSError(f"cannot listen on {address.host}:{address.port}: {error.strerror}") from error


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
