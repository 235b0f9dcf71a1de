"""The page of the service at ``/``: plain HTML and JavaScript, sent as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from fastapi import APIRouter
from starlette.responses import FileResponse

_FOLDER: Final = Path(__file__).parent
_TYPES: Final = {
    "index.html": "text/html",
    "page.css": "text/css",
    "main.js": "text/javascript",
    "server.js": "text/javascript",
    "form.js": "text/javascript",
    "queue.js": "text/javascript",
    "texts.js": "text/javascript",
}
PAGE_PATHS: Final = frozenset({"/", *(f"/page/{name}" for name in _TYPES)})
"""What is sent without a token, because a browser asks for it before the user can name one."""
_HEADERS: Final = {
    # Prompts and errors are text of others; no script but those here can run.
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


async def _index() -> FileResponse:
    return _sent("index.html")


def _sent(name: str) -> FileResponse:
    return FileResponse(_FOLDER / name, media_type=_TYPES[name], headers=_HEADERS)


def page_router() -> APIRouter:
    """The routes of the page, which are no part of the API."""
    router = APIRouter(include_in_schema=False)
    router.add_api_route("/", _index, methods=["GET"])
    for name in _TYPES:
        router.add_api_route(f"/page/{name}", lambda name=name: _sent(name), methods=["GET"])
    return router
