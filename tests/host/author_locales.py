"""Writes ``locales/source.json``: ``python tests/host/author_locales.py`` with ``COMFYUI_DIR`` set.

The English texts come from the nodes. Translations of texts that have changed are removed from all languages,
and what is left to translate is printed. Where only the wording has changed and not the meaning, edit
``source.json`` by hand instead.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
PACK = HERE.parents[1]
sys.path[:0] = [str(HERE), str(PACK)]

from host_server import Json, Server  # noqa: E402
from locale_texts import LANGUAGES, SOURCE, carried_over, english, file_of, read, write  # noqa: E402


def object_info() -> Json:
    """What a host that has this pack alone says of its nodes."""
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        (base / "custom_nodes").mkdir()
        (base / "custom_nodes" / "comfyui-ltx2").symlink_to(PACK, target_is_directory=True)
        server = Server(Path(os.environ["COMFYUI_DIR"]), base)
        try:
            server.wait_ready()
            return server.get("/object_info")
        finally:
            server.stop()


def main() -> None:
    before, now = read(SOURCE), english(object_info())
    for language in LANGUAGES:
        translated = carried_over(read(file_of(language)), before, now)
        write(file_of(language), translated)
        for path, text in now.items():
            if path not in translated:
                print(f"{language} {path}: {text}")
    write(SOURCE, now)


if __name__ == "__main__":
    main()
