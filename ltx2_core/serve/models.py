"""The models that the service offers by id, and the pipelines that are open for them."""

from __future__ import annotations

import gc
import json
import os
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from threading import RLock
from typing import Final

import torch
from pydantic import BaseModel, Field, ValidationError

from ..run.execution import Execution
from ..run.pipeline import LTX2Pipeline
from ..sampling.previews import Previews
from ..tiny import embedded_set
from .previews import fitted_to

TINY: Final = "ltx2-tiny"
"""The id of the tiny model set that comes with the package."""

_IDS_FOR_TRIAL: Final = ("ltx2", "ltx2.3", TINY)
"""Ids that the tiny set answers to if no models are named, so that a client can be tried unchanged."""


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """A model of the service: its id, the name of its weights, and its files.

    ``distilled_lora`` is used in the second stage of videos of the resolution "High", which need an
    ``upscaler`` too. ``embedded`` says that it is the tiny set of the package, whatever its id.
    """

    id: str
    base_model: str
    checkpoints: tuple[Path, ...]
    text_encoder: Path | None = None
    upscaler: Path | None = None
    video_decoder: Path | None = None
    distilled_lora: Path | None = None
    embedded: bool = False

    def open(self, execution: Execution) -> LTX2Pipeline:
        """Open a pipeline, which reads headers only. Raises what the class of pipelines raises."""
        return LTX2Pipeline(
            *self.checkpoints,
            text_encoder=self.text_encoder,
            upscaler=self.upscaler,
            video_decoder=self.video_decoder,
            execution=execution,
        )


class _Files(BaseModel, extra="forbid"):
    checkpoints: list[str] = Field(min_length=1)
    text_encoder: str | None = None
    upscaler: str | None = None
    video_decoder: str | None = None
    distilled_lora: str | None = None
    base_model: str | None = None


def read_models(path: Path | None) -> dict[str, ServedModel]:
    """Read the models of the service from a JSON file: id -> names of its files.

    Names are relative to the folder of the file. The tiny set is always added as "ltx2-tiny". With ``path``
    None it also answers to the ids "ltx2" and "ltx2.3". Raises ValueError for other JSON, and
    FileNotFoundError if one of the files is missing.
    """
    if path is None:
        return {name: _tiny(name) for name in _IDS_FOR_TRIAL}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError("it must hold an object of ids")
        files = {str(name): _Files.model_validate(value) for name, value in values.items()}
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ValueError(f"{path}: {error.title}: {where}: {first['msg']}") from None
    except ValueError as error:
        raise ValueError(f"{path} is no list of models: {error}") from error
    models = {name: _named(name, one, path.parent) for name, one in files.items()}
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


@dataclass(frozen=True)
class OpenModel:
    """A model that is held: its pipeline, and the colours of its previews, None for false colours."""

    pipeline: LTX2Pipeline
    previews: Previews | None


class ModelPool:
    """Holds the networks of the models that were used last, at most ``most`` models at a time.

    ``execution`` says how they run. Models of the same files share their networks. The worker alone uses it.
    """

    def __init__(self, models: Mapping[str, ServedModel], execution: Execution, *, most: int = 1) -> None:
        self._models = models
        self._execution = replace(execution, keep_loaded=True)
        self._most = most
        self._open: OrderedDict[ServedModel, OpenModel] = OrderedDict()

    @property
    def device(self) -> torch.device:
        return self._execution.device

    def open(self, model: str) -> OpenModel:
        """The pipeline of a model, whose networks are loaded by their first use and then held.

        If too many models are held, that which has not been used for longest is freed first. Raises
        ValueError if the service no longer has this model.
        """
        if model not in self._models:
            raise ValueError(f"this server no longer has the model {model!r}")
        files = _shared(self._models[model])
        if files not in self._open:
            # Before the new one is loaded, because both may not fit.
            self._keep(self._most - 1)
            pipeline = files.open(self._execution)
            self._open[files] = OpenModel(pipeline, fitted_to(pipeline))
        self._open.move_to_end(files)
        return self._open[files]

    def close(self) -> None:
        """Free all models."""
        self._keep(0)

    def _keep(self, most: int) -> None:
        """Free the models that have not been used for longest, until at most ``most`` are left."""
        if len(self._open) <= most:
            return
        while len(self._open) > most:
            self._open.popitem(last=False)
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


class Checkers:
    """Pipelines by which requests are checked: they read headers of files, and load no weights.

    ``execution`` is that of the service; the memory of its device is the budget that a request must fit.
    """

    def __init__(self, models: Mapping[str, ServedModel], execution: Execution) -> None:
        self.models = models
        budget = execution.max_memory or device_memory(execution.device)
        self._execution = replace(execution, max_memory=budget)
        self._open: dict[ServedModel, LTX2Pipeline] = {}
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
        files = _shared(self.models[model])
        if files not in self._open:
            self._open[files] = files.open(self._execution)
        return self._open[files]


def _shared(model: ServedModel) -> ServedModel:
    """What the pipeline of a model depends on; ids and LoRAs of jobs are no part of it."""
    return replace(model, id="", base_model="", distilled_lora=None)


def device_memory(device: torch.device) -> int | None:
    """Bytes of memory of a device, of which a CPU has those of the machine; None if it is unknown."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    if device.type == "cpu" and hasattr(os, "sysconf"):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return None
