"""Whether a MODEL has the distilled weights that a node needs, as far as the names of its files say."""

from __future__ import annotations

import logging

from ...ltx2_core.loading.detect import Component
from ...ltx2_core.run.distilled_weights import check_distilled
from ...ltx2_core.run.request import Request
from .identity import files_of
from .values import Model
from .weights import read_weights

log = logging.getLogger(__name__)

_REMEDY = "load a distilled checkpoint, or put the distilled LoRA between model and node with LTX-2 Load LoRA"


def check_distilled_model(model: Model, request: Request) -> None:
    """Check that ``model`` has the distilled weights that ``request`` is for, by the names of its files.

    A MODEL that does not say which file it is from is taken as it is, and so is one with a LoRA, which does
    not say its name. Raises ValueError for the file of full (dev) weights.
    """
    files = files_of(model)
    changed = model.patches or getattr(model, "injections", {}).get("bypass_lora")
    if changed or not files:
        return
    # Only this pack's loaders read a model from several files, whose headers say which has the transformer.
    transformer = files[0] if len(files) == 1 else read_weights(*files).source(Component.TRANSFORMER).path
    doubt = check_distilled(request, transformer, (), remedy=_REMEDY)
    if doubt is not None:
        log.warning(doubt)
