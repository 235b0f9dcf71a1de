"""The released models that are on this machine, by their own names and by the ids of clients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from ..released.folders import found, model_folders, paths_of
from ..released.table import ReleasedModel, released_files, released_models
from .served_model import ServedModel

_IDS: Final[Mapping[str, tuple[str, ...]]] = {
    # Clients send 25 steps and guidance 4, which distilled weights are not for; of 2.5 there are no others.
    "ltx2": ("ltx-2.0", "ltx-2.0-fp8"),
    "ltx2.3": ("ltx-2.3", "ltx-2.3-fp8"),
    "ltx2.5": ("ltx-2.5-distilled",),
}
"""Id of clients -> the released models that may answer to it, the first that is here."""
_DISTILLED: Final[Mapping[str, tuple[str, ...]]] = {
    "ltx2.3": ("ltx-2.3-22b-distilled-lora-384-1.1", "ltx-2.3-22b-distilled-lora-384"),
}
"""Id -> the LoRAs that may make its resolution "High", which LTX-2.0 has not in ai-toolkit-inference."""


def found_models() -> dict[str, ServedModel]:
    """Id -> model of all released models whose files are here, where ``ltx2 models get`` puts them.

    Each answers to its own name, and the best one of a generation to the id of clients, such as "ltx2.3".
    """
    here = {name: model for name, one in released_models().items() if (model := _found(name, one))}
    ids = {
        model_id: replace(here[name], id=model_id, distilled_lora=_distilled(model_id))
        for model_id, names in _IDS.items()
        if (name := next((one for one in names if one in here), None))
    }
    return {**ids, **here}


def released_model(model_id: str, model: ReleasedModel) -> ServedModel:
    """The model that answers to ``model_id``. Raises FileNotFoundError that tells how to download it."""
    paths = paths_of(model)
    return ServedModel(
        id=model_id,
        base_model=model.name,
        checkpoints=tuple(paths[file] for file in model.checkpoints),
        text_encoder=paths[model.text_encoder],
        upscaler=paths.get(model.upscaler),
        distilled_lora=_distilled(model_id),
    )


def _found(name: str, model: ReleasedModel) -> ServedModel | None:
    try:
        return released_model(name, model)
    except FileNotFoundError:
        return None


def _distilled(model_id: str) -> Path | None:
    files, folders = released_files(), model_folders()
    paths = (found(files[name], folders) for name in _DISTILLED.get(model_id, ()))
    return next((path for path in paths if path is not None), None)
