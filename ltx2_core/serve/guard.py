"""Refuses requests without the token, by a wrong name of the server, and with bodies too large or slow."""

from __future__ import annotations

import asyncio
import hmac
import os
import stat
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .answers import ApiError
from .page import PAGE_PATHS

UPLOADS_PATH = "/v1/files"
"""The route of uploads, whose bodies may be larger than others."""
PIECES_PATH = "/v1/uploads/"
"""The routes of uploads in pieces, behind which their names stand."""
VIDEOS_PATH = "/v1/videos"
"""The route whose bodies may be forms with an image."""
FORM_TYPE = "multipart/form-data"
IMAGES_PATH = "/v1/inference"
"""The route whose bodies have images in base64 in them."""
JSON_BYTES = 2**20
"""The largest body of all other routes."""
OPEN_PATHS = frozenset({"/health"}) | PAGE_PATHS
"""Routes that need no token: the page, and what tells a supervisor whether the server lives."""


def read_tokens(path: Path) -> tuple[str, ...]:
    """The tokens in a file, one on each line, without blanks at their ends.

    Raises ValueError for a file that is empty or that other users may read, and for a token that a header
    cannot hold.
    """
    tokens = tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    if not tokens or any(not token.isascii() or any(map(str.isspace, token)) for token in tokens):
        raise ValueError(f"{path} must hold one token on each line, of ASCII signs without blanks")
    if hasattr(os, "getuid") and stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise ValueError(f"other users can read {path}: chmod 600 it")
    return tokens


def is_form(content_type: str) -> bool:
    """Whether a body of this content type is a form."""
    return content_type.partition(";")[0].strip().lower() == FORM_TYPE


class Guard:
    """An ASGI application around ``app`` that refuses requests before they are read.

    One of ``tokens`` must come with each request as ``Authorization: Bearer TOKEN``, and its number goes to
    the routes as "ltx2.token" of the scope; () needs none. ``hosts``
    are the names by which the server may be addressed, without a port; an empty tuple is any name. A page of
    another site that has its own name resolve to this machine is refused by that. Bodies with images may
    have ``body_bytes``, others at most ``JSON_BYTES`` of these, uploads ``upload_bytes``; all must arrive
    within ``body_s`` seconds.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        tokens: Sequence[str],
        hosts: Sequence[str],
        body_bytes: int,
        upload_bytes: int,
        body_s: float = 300.0,
    ) -> None:
        self._app, self._tokens, self._hosts = app, tuple(tokens), frozenset(hosts)
        self._body_bytes, self._upload_bytes, self._body_s = body_bytes, upload_bytes, body_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        most = self._most(scope["path"].rstrip("/"), headers.get("content-type", ""))
        token = self._token(headers)
        refusal = self._refusal(scope["path"], headers, token, most)
        if refusal is not None:
            await refusal.answer()(scope, receive, send)
            return
        scope["ltx2.token"] = token
        await _Bounded(most, self._body_s, receive, send).run(self._app, scope)

    def _most(self, path: str, kind: str) -> int:
        """The largest body of a route in bytes; ``kind`` is its content type."""
        form = path == VIDEOS_PATH and is_form(kind)
        if form or path == UPLOADS_PATH or path.startswith(PIECES_PATH):
            return self._upload_bytes
        return self._body_bytes if path == IMAGES_PATH else min(self._body_bytes, JSON_BYTES)

    def _token(self, headers: dict[str, str]) -> int | None:
        """The number of the token that was sent; None if it is none."""
        scheme, _, sent = headers.get("authorization", "").partition(" ")
        # All are compared, each in equal time, so that none can be guessed sign by sign.
        same = [hmac.compare_digest(sent.strip().encode(), token.encode()) for token in self._tokens]
        return same.index(True) if scheme.lower() == "bearer" and any(same) else None

    def _refusal(self, path: str, headers: dict[str, str], token: int | None, most: int) -> ApiError | None:
        if self._hosts and _host_of(headers.get("host", "")) not in self._hosts:
            return ApiError(
                403, "HOST_NOT_ALLOWED", "this server is not addressed by that name: see --allowed-host"
            )
        # A page of another site may send forms to this one, without reading the answers.
        origin = headers.get("origin")
        if self._hosts and origin is not None and _host_of(origin.partition("://")[2]) not in self._hosts:
            return ApiError(403, "ORIGIN_NOT_ALLOWED", "pages of other sites may not use this server")
        if self._tokens and token is None and path not in OPEN_PATHS:
            return ApiError(
                401,
                "UNAUTHORIZED",
                "the token is missing or wrong: send Authorization: Bearer TOKEN",
                headers={"WWW-Authenticate": "Bearer"},
            )
        length = headers.get("content-length", "0")
        return _too_large(most) if length.isdecimal() and int(length) > most else None


class _Bounded:
    """One request whose body is read up to ``most`` bytes and ``seconds`` seconds."""

    def __init__(self, most: int, seconds: float, receive: Receive, send: Send) -> None:
        self._left, self._most, self._receive, self._send = most, most, receive, send
        self._seconds = seconds
        self._whole = self._started = False
        self._refusal: ApiError | None = None

    async def run(self, app: ASGIApp, scope: Scope) -> None:
        self._deadline = asyncio.get_running_loop().time() + self._seconds
        with suppress(_Refused):
            await app(scope, self._next, self._answer)
        if self._refusal is not None and not self._started:
            await self._refusal.answer()(scope, self._receive, self._send)

    async def _next(self) -> Message:
        if self._whole:
            return await self._receive()
        left = self._deadline - asyncio.get_running_loop().time()
        try:
            message = await asyncio.wait_for(self._receive(), max(0.0, left))
        except (asyncio.TimeoutError, TimeoutError):
            self._refuse(ApiError(408, "BODY_TOO_SLOW", f"the body took over {self._seconds:g} seconds"))
        if message["type"] == "http.request":
            self._left -= len(message.get("body", b""))
            self._whole = not message.get("more_body", False)
            if self._left < 0:
                self._refuse(_too_large(self._most))
        return message

    def _refuse(self, error: ApiError) -> None:
        self._refusal = error
        raise _Refused

    async def _answer(self, message: Message) -> None:
        # What the application says about the broken body is replaced by the reason.
        if self._refusal is None:
            self._started = True
            await self._send(message)


class _Refused(Exception):
    """Ends the reading of a body."""


def _too_large(most: int) -> ApiError:
    return ApiError(413, "BODY_TOO_LARGE", f"the body has more than {most} bytes")


def _host_of(header: str) -> str:
    """The name in a Host header, without its port: "[::1]:8000" -> "[::1]"."""
    name, colon, port = header.rpartition(":")
    return (name if colon and port.isdecimal() else header).lower()
