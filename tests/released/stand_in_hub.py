"""A stand-in for the Hugging Face hub on 127.0.0.1: files of repositories by HEAD and GET, with ranges."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@dataclass
class Hub:
    """``files`` are "OWNER/NAME/PATH" -> content. ``requests`` records each as (method, path, range)."""

    files: dict[str, bytes]
    url: str = ""
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)
    cut_at: int | None = None
    """At this byte of a file the connection is closed; None sends all."""
    token: str | None = None
    """The token without which files are gated."""
    tags: bool = True
    """Whether answers have the hash of the file as their tag; some mirrors tell none."""
    damaged: bool = False
    """Whether the last byte of each file is changed on its way."""


@contextmanager
def stand_in_hub(files: dict[str, Path | bytes]) -> Iterator[Hub]:
    hub = Hub({name: one if isinstance(one, bytes) else one.read_bytes() for name, one in files.items()})

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, *, body: bool) -> None:
            wanted = self.headers.get("Range")
            hub.requests.append((self.command, self.path, wanted))
            match = re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", self.path.partition("?")[0])
            content = hub.files.get(f"{match[1]}/{match[2]}") if match else None
            refused = hub.token is not None and self.headers.get("Authorization") != f"Bearer {hub.token}"
            if content is None or refused:
                self.send_response(404 if content is None else 401)
                self.send_header("X-Error-Code", "EntryNotFound" if content is None else "GatedRepo")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            begin = int(wanted.removeprefix("bytes=").split("-")[0]) if wanted else 0
            self.send_response(206 if wanted else 200)
            if wanted:
                self.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
            tag = hashlib.sha256(content).hexdigest() if hub.tags else "0-1"
            self.send_header("ETag", f'"{tag}"')
            self.send_header("X-Repo-Commit", "1" * 40)
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("Content-Length", str(len(content) - begin))
            self.end_headers()
            if not body:
                return
            if hub.damaged:
                content = content[:-1] + bytes([content[-1] ^ 1])
            if hub.cut_at is not None:
                self.wfile.write(content[begin : hub.cut_at])
                self.close_connection = True
                self.connection.close()
            else:
                self.wfile.write(content[begin:])

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
