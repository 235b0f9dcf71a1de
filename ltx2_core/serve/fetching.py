"""Fetches files that clients name by URL: by https alone, from allowed hosts, bounded in size and time."""

from __future__ import annotations

import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from http.client import HTTPException, HTTPResponse, HTTPSConnection
from ipaddress import IPv6Address, IPv6Network, ip_address
from time import monotonic
from typing import BinaryIO, Final, TypeAlias
from urllib.parse import SplitResult, urljoin, urlsplit

Connect: TypeAlias = Callable[[str, float], socket.socket]
"""(host, seconds) -> an encrypted connection to it."""
SECONDS: Final = 30.0
_REDIRECTS: Final = 5
_PORT: Final = 443
_CHUNK: Final = 2**16
_NAT64: Final = IPv6Network("64:ff9b::/96")
"""IPv6 addresses that stand for IPv4 ones, which may be private."""


class NotFetched(ValueError):
    """Raised for a URL that may not be fetched, or that cannot be; the message says why, for the client."""


class Fetcher:
    """Fetches files from ``hosts``: names, "*.example.com" for all below one, "*" for any; () fetches none.

    A file has at most ``most_bytes`` and must arrive within ``seconds``, redirections included, each of which
    is checked as the URL is. ``connect`` makes connections; None makes them to public addresses alone.
    """

    def __init__(
        self,
        hosts: Sequence[str],
        most_bytes: int,
        *,
        seconds: float = SECONDS,
        connect: Connect | None = None,
    ) -> None:
        self._hosts = tuple(host.lower() for host in hosts)
        self._most_bytes, self._seconds = most_bytes, seconds
        self._connect = connect or _connected

    def __bool__(self) -> bool:
        return bool(self._hosts)

    def fetch(self, url: str, file: BinaryIO) -> str:
        """Write what is at ``url`` into ``file``; returns the last part of its path. Raises NotFetched."""
        end = monotonic() + self._seconds
        for _ in range(1 + _REDIRECTS):
            parts = self._checked(url)
            with self._answer(parts, end) as answer:
                if answer.status == 200:
                    self._copy(answer, file, end)
                    return parts.path.rpartition("/")[2]
                target = answer.headers.get("Location")
                if answer.status not in (301, 302, 303, 307, 308) or target is None:
                    raise NotFetched(f"{parts.hostname} answers {answer.status}")
            url = urljoin(url, target)
        raise NotFetched(f"{parts.hostname} redirects more than {_REDIRECTS} times")

    def _checked(self, url: str) -> SplitResult:
        """The parts of a URL that may be fetched."""
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:
            raise NotFetched("this is no URL") from None
        if re.search(r"[\x00-\x20\x7f-\U0010ffff]", url):
            raise NotFetched("the URL has signs that must be written as %XX")
        if parts.scheme != "https" or not host or port not in (None, _PORT) or parts.username is not None:
            raise NotFetched("only https URLs without a port and a user are fetched")
        if not any(_matches(host, pattern) for pattern in self._hosts):
            raise NotFetched(f"this server fetches nothing from {host}: send the file itself")
        return parts

    @contextmanager
    def _answer(self, parts: SplitResult, end: float) -> Iterator[HTTPResponse]:
        host = parts.hostname or ""
        connection = HTTPSConnection(host)
        late = threading.Event()
        try:
            connection.sock = raw = self._connect(host, max(0.1, end - monotonic()))

            def cut() -> None:
                late.set()
                with suppress(OSError):
                    raw.shutdown(socket.SHUT_RDWR)

            # A server that sends a byte now and then passes every other limit of time.
            timer = threading.Timer(max(0.0, end - monotonic()), cut)
            timer.daemon = True
            timer.start()
            try:
                target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
                connection.request("GET", target, headers={"Accept-Encoding": "identity"})
                yield connection.getresponse()
            finally:
                timer.cancel()
        except (OSError, HTTPException, EOFError) as error:
            if late.is_set() or monotonic() >= end or isinstance(error, TimeoutError):
                raise NotFetched(f"{host} takes over {self._seconds:g} seconds") from None
            raise NotFetched(f"{host} cannot be read: {type(error).__name__}") from None
        finally:
            connection.close()

    def _copy(self, answer: HTTPResponse, file: BinaryIO, end: float) -> None:
        stated = answer.headers.get("Content-Length", "")
        left = self._most_bytes
        if stated.isdecimal() and int(stated) > left:
            raise NotFetched(f"the file has more than {self._most_bytes} bytes")
        while chunk := answer.read1(_CHUNK):
            left -= len(chunk)
            if left < 0:
                raise NotFetched(f"the file has more than {self._most_bytes} bytes")
            file.write(chunk)
        if monotonic() >= end or (stated.isdecimal() and self._most_bytes - left != int(stated)):
            raise TimeoutError if monotonic() >= end else EOFError


def _matches(host: str, pattern: str) -> bool:
    if pattern.startswith("*."):
        return host.endswith(pattern[1:])
    return pattern in ("*", host)


def _connected(host: str, seconds: float) -> socket.socket:
    """An encrypted connection to a public address of ``host``. Raises NotFetched for any other address."""
    found = socket.getaddrinfo(host, _PORT, type=socket.SOCK_STREAM)
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    # One that is not public may be that of this machine or its network, which no client may reach by us.
    if not addresses or not all(map(is_public, addresses)):
        raise NotFetched(f"this server fetches nothing from the address of {host}")
    # The address that was checked: asked again, a name may have another one.
    raw = socket.create_connection((addresses[0], _PORT), timeout=seconds)
    try:
        return ssl.create_default_context().wrap_socket(raw, server_hostname=host)
    except BaseException:
        raw.close()
        raise


def is_public(address: str) -> bool:
    """Whether an IP address is one of the public internet, and none that stands for another one."""
    ip = ip_address(address.partition("%")[0])
    if isinstance(ip, IPv6Address) and (ip.ipv4_mapped or ip.sixtofour or ip.teredo or ip in _NAT64):
        return False
    return ip.is_global and not ip.is_multicast and not ip.is_reserved
