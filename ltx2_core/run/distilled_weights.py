"""Whether the weights of a run are distilled, as far as the names of its files say: nothing in them does."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from ..loading import Lora
from ..loading.lora import is_distilled
from .request import Request

_FULL: Final = re.compile(r"(?<![a-z0-9])dev(?![a-z0-9])")
"""What the names of files with full weights contain, such as ltx-2.5-22b-dev-transformer."""

_RELEASED: Final = re.compile(r"ltxv?[-_][-_.0-9b]*dev(?![a-z0-9])")
"""How names of released files with full weights begin; a merge with "dev" in its name may be distilled."""

_REMEDY: Final = "name a distilled checkpoint, or the distilled LoRA with --lora (loras in Python)"


def check_distilled(
    request: Request, transformer: Path, loras: Sequence[Lora], *, remedy: str = _REMEDY
) -> str | None:
    """Check that a ``request`` for distilled weights has them, by the names of its files.

    ``transformer`` is the file of the transformer, ``loras`` are those of every stage. Raises ValueError for
    the DFR pipeline if the file is a released one of full (dev) weights and there is no LoRA that could
    distil them. Returns a warning where a DFR run names nothing distilled, and for a plain run of full
    weights, else None. ``remedy`` says what the user can do about it.
    """
    # A folder above the file may have any name.
    named = is_distilled(transformer) or any(is_distilled(lora.path) for lora in loras if lora.strength)
    if named or not request.sampling.distilled:
        return None
    name, dfr = transformer.name.lower(), request.staging.pipeline == "dfr"
    if _RELEASED.match(name) and dfr and not loras:
        raise ValueError(
            f"the DFR pipeline samples every stage with distilled weights, and those of {transformer.name} "
            f"are full: {remedy}"
        )
    if _FULL.search(name):
        return f"{transformer.name} has full weights, which burn in the few steps of distilled ones: {remedy}"
    if dfr:
        return (
            "the DFR pipeline needs distilled weights, and no name of a file says that it has them: if those "
            f"of {transformer.name} are full (dev), {remedy}"
        )
    return None
