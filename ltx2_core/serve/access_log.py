"""The log of requests: a line for each, but for those of which there are too many to be read."""

from __future__ import annotations

import logging
from typing import Final
from urllib.parse import quote

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_log = logging.getLogger(__name__)

_UNLOGGED: Final = "ltx2.unlogged"


def unlogged(scope: Scope) -> None:
    """Leave the request with this scope out of the log."""
    scope[_UNLOGGED] = True


class AccessLog:
    """An ASGI application around ``app`` that logs the client, the request and the status of each answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        begun = False

        async def logged(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                _write(scope, message["status"])
            await send(message)

        try:
            await self._app(scope, receive, logged)
        except Exception:
            # An answer that has begun has its line.
            if not begun:
                _write(scope, 500)
            raise


def _write(scope: Scope, status: int) -> None:
    if _UNLOGGED in scope:
        return
    client, query = scope.get("client"), scope["query_string"].decode("ascii", "replace")
    # Quoted again: a line of the log is one request, whatever its path has in it.
    path = quote(scope["path"]) + (f"?{query}" if query else "")
    host = f"{client[0]}:{client[1]}" if client else "-"
    _log.info('%s "%s %s" %d', host, scope["method"], path, status)
