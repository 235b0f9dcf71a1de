"""The models that the service offers by id, and the pipelines by which requests for them are checked."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from threading import RLock
from typing import Final

import torch
from pydantic import BaseModel, Field, ValidationError

from ..released.table import model_of
from ..run.execution import Execution
from ..run.pipeline import LTX2Pipeline
from ..tiny import embedded_set
from .allowance import Allowance, allowance_of
from .released import found_models, released_model
from .served_model import ServedModel, shared

TINY: Final = "ltx2-tiny"
"""The id of the tiny model set that comes with the package."""

_IDS_FOR_TRIAL: Final = ("ltx2", "ltx2.3", "ltx2.5", TINY)
"""Ids that the tiny set answers to if there is no other model, so that a client can be tried unchanged."""


class _Files(BaseModel, extra="forbid"):
    checkpoints: list[str] = Field(min_length=1)
    text_encoder: str | None = None
    upscaler: str | None = None
    video_decoder: str | None = None
    distilled_lora: str | None = None
    base_model: str | None = None


def read_models(path: Path | None) -> dict[str, ServedModel]:
    """Read the models of the service from a JSON file: id -> names of its files, or name of a released model.

    Names of files are relative to the folder of the JSON file. The tiny set is always added as "ltx2-tiny".
    With ``path`` None the models are those that ``ltx2 models get`` has downloaded, and without any the tiny
    set answers to "ltx2", "ltx2.3" and "ltx2.5" too. Raises ValueError for other JSON, and FileNotFoundError
    if one of the files is missing.
    """
    if path is None:
        found = found_models()
        return {**found, TINY: _tiny(TINY)} if found else {name: _tiny(name) for name in _IDS_FOR_TRIAL}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError("it must hold an object of ids")
        files = {
            str(name): model_of(value) if isinstance(value, str) else _Files.model_validate(value)
            for name, value in values.items()
        }
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ValueError(f"{path}: {error.title}: {where}: {first['msg']}") from None
    except ValueError as error:
        raise ValueError(f"{path} is no list of models: {error}") from error
    models = {
        name: _named(name, one, path.parent) if isinstance(one, _Files) else released_model(name, one)
        for name, one in files.items()
    }
    return {**models, TINY: _tiny(TINY)}


def _named(name: str, files: _Files, folder: Path) -> ServedModel:
    def at(text: str) -> Path:
        file = folder / text
        if not file.exists():
            raise FileNotFoundError(f"{file} of model {name!r} is missing")
        return file

    return ServedModel(
        id=name,
        base_model=files.base_model or Path(files.checkpoints[0]).name,
        checkpoints=tuple(at(text) for text in files.checkpoints),
        text_encoder=None if files.text_encoder is None else at(files.text_encoder),
        upscaler=None if files.upscaler is None else at(files.upscaler),
        video_decoder=None if files.video_decoder is None else at(files.video_decoder),
        distilled_lora=None if files.distilled_lora is None else at(files.distilled_lora),
    )


def _tiny(name: str) -> ServedModel:
    files = embedded_set()
    return ServedModel(
        id=name,
        base_model="the embedded tiny set",
        checkpoints=(files.checkpoint,),
        text_encoder=files.text_encoder,
        upscaler=files.upsampler,
        # In ai-toolkit-inference LTX-2.0 has no high resolution.
        distilled_lora=None if name == "ltx2" else files.distilled,
        embedded=True,
    )


class Checkers:
    """Pipelines by which requests are checked: they read headers of files, and load no weights.

    ``execution`` is that of the service; the memory of its device is the budget that a request must fit.
    ``work`` is the largest width x height x frames x steps of a job, None for what that memory allows.
    """

    def __init__(
        self, models: Mapping[str, ServedModel], execution: Execution, work: float | None = None
    ) -> None:
        self.models = models
        budget = execution.max_memory or device_memory(execution.device)
        self._execution = replace(execution, max_memory=budget)
        self._work = work
        self._open: dict[ServedModel, LTX2Pipeline] = {}
        self._allowed: dict[ServedModel, Allowance] = {}
        self.lock = RLock()
        """Held while a pipeline is used, because its LoRAs are exchanged for each request."""

    def open_all(self) -> None:
        """Open the files of all models. Raises ValueError or OSError that names the model for wrong ones."""
        with self.lock:
            for name in self.models:
                try:
                    self.pipeline(name).networks.check_text_encoder()
                except (ValueError, OSError) as error:
                    raise ValueError(f"model {name!r}: {error}") from error

    def pipeline(self, model: str) -> LTX2Pipeline:
        """The pipeline that checks requests for a model. The caller must hold ``lock``."""
        files = shared(self.models[model])
        if files not in self._open:
            self._open[files] = files.open(self._execution)
        return self._open[files]

    def allowance(self, model: str) -> Allowance:
        """How much work a job of a model may be. The caller must hold ``lock``."""
        if self._work is not None:
            return Allowance(work=self._work)
        files = shared(self.models[model])
        if files not in self._allowed:
            # Opened again, as the other one has the LoRAs of the last request.
            self._allowed[files] = allowance_of(files.open(self._execution))
        return self._allowed[files]


def device_memory(device: torch.device) -> int | None:
    """Bytes of memory of a device, of which a CPU has those of the machine; None if it is unknown."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    if device.type == "cpu" and hasattr(os, "sysconf"):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return None
