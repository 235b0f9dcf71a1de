"""A route of the host that writes a graph as a command and as Python, for the page's menu."""

from __future__ import annotations

import json
from dataclasses import asdict

from aiohttp import web

from .as_command import written_as

ROUTE = "/ltx2av/command"


def add_route() -> None:
    """Let the host answer ``ROUTE``, to which a graph in API format is posted."""
    from server import PromptServer

    @PromptServer.instance.routes.post(ROUTE)  # type: ignore[untyped-decorator]
    async def answer(request: web.Request) -> web.Response:
        try:
            return web.json_response(asdict(written_as(json.loads(await request.text()))))
        except (ValueError, RecursionError) as error:
            return web.json_response({"error": str(error)}, status=400)
