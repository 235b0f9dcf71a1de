"""Write the constants of the latent grid for the page: ``python docs/page_table.py``.

``web/grid_table.js`` is generated, so that the page and the library cannot disagree.
"""

from __future__ import annotations

import json
from pathlib import Path

from ltx2_core import shapes

TABLE = Path(__file__).resolve().parents[1] / "web" / "grid_table.js"
NAMES = ("TEMPORAL_SCALE", "SPATIAL_SCALE", "AUDIO_LATENTS_PER_SECOND")


def table() -> str:
    """The text of ``web/grid_table.js``."""
    values = {name: getattr(shapes, name) for name in NAMES}
    lines = (f"export const {name} = {json.dumps(value)};" for name, value in values.items())
    return "\n".join(
        ("// @ts-check", "/** Generated from ltx2_core/shapes.py by docs/page_table.py. */", *lines, "")
    )


if __name__ == "__main__":
    TABLE.write_text(table(), encoding="utf-8")
