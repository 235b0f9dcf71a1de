"""Holds the models that were used last, as many as fit in memory together with the job at hand."""

from __future__ import annotations

import gc
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from ..memory import usable
from ..run.execution import Execution
from ..run.pipeline import LTX2Pipeline
from ..run.stages import Stage
from ..sampling.previews import Previews
from .models import device_memory
from .previews import fitted_to
from .served_model import ServedModel, shared


@dataclass(frozen=True, kw_only=True)
class Holding:
    """Which models stay loaded: at most ``most``, whose weights take at most ``memory`` bytes together.

    None for ``most`` is any number. None for ``memory`` is what the device has, or the machine if networks
    are offloaded to its memory, less what the job at hand needs to compute.
    """

    most: int | None = None
    memory: int | None = None


@dataclass(frozen=True)
class OpenModel:
    """A model that is held: its pipeline, and the colours of its previews, None for false colours.

    ``bytes`` is what its weights take once all of its networks are loaded.
    """

    pipeline: LTX2Pipeline
    previews: Previews | None
    bytes: int


class ModelPool:
    """Holds the networks of the models that were used last, as ``holding`` allows.

    ``execution`` says how they run. Models of the same files share their networks. The worker alone uses it.
    """

    def __init__(
        self, models: Mapping[str, ServedModel], execution: Execution, holding: Holding | None = None
    ) -> None:
        self._models = models
        self._execution = replace(execution, keep_loaded=True)
        self._holding = holding or Holding()
        self._open: OrderedDict[ServedModel, OpenModel] = OrderedDict()

    @property
    def device(self) -> torch.device:
        return self._execution.device

    def open(self, model: str) -> OpenModel:
        """The pipeline of a model, whose networks are loaded by their first use and then held.

        Raises ValueError if the service no longer has this model.
        """
        if model not in self._models:
            raise ValueError(f"this server no longer has the model {model!r}")
        files = shared(self._models[model])
        if files not in self._open:
            # Opening reads headers alone.
            pipeline = files.open(self._execution)
            self._open[files] = OpenModel(pipeline, fitted_to(pipeline), weights_of(pipeline))
        self._open.move_to_end(files)
        return self._open[files]

    def make_room(self, model: str, stages: Sequence[Stage]) -> None:
        """Free models that were not used for longest, until an open one fits that is to run ``stages``."""
        files = shared(self._models[model])
        budget = self._budget(self._working(self._open[files].pipeline, stages))
        # The first one was not used for longest.
        others = [one for one in self._open if one != files]
        most = len(others) if self._holding.most is None else self._holding.most - 1
        taken = sum(one.bytes for one in self._open.values())
        freed = False
        while others and (len(others) > most or budget is None or taken > budget):
            taken -= self._open.pop(others.pop(0)).bytes
            freed = True
        if freed:
            self._release()

    def keep_only(self, model: str) -> bool:
        """Free all models but this one; returns whether there were others."""
        files = shared(self._models[model])
        others = [one for one in self._open if one != files]
        for one in others:
            del self._open[one]
        self._release()
        return bool(others)

    def close(self) -> None:
        """Free all models."""
        self._open.clear()
        self._release()

    def _budget(self, working: int) -> int | None:
        """The bytes that the weights of all models may take; None if it is unknown: one model then."""
        if self._holding.memory is not None:
            return self._holding.memory
        memory = device_memory(torch.device("cpu") if self._offloads else self.device)
        return None if memory is None else usable(memory) - working

    @property
    def _offloads(self) -> bool:
        """Whether networks are in the memory of the machine while they are not used."""
        return self._execution.max_memory is not None

    def _working(self, pipeline: LTX2Pipeline, stages: Sequence[Stage]) -> int:
        """Bytes that the stages need in the memory in which weights are held, beside the weights."""
        memory = device_memory(self.device)
        # What offloaded networks compute in is the memory of the device.
        if memory is None or (self._offloads and self.device.type != "cpu"):
            return 0
        plan = pipeline.plan(stages, self._execution.max_memory or memory)
        return max(stage.activations for stage in plan.stages)

    def _release(self) -> None:
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def weights_of(pipeline: LTX2Pipeline) -> int:
    """Bytes of all networks of a pipeline once they are loaded, from the headers of their files."""
    networks = pipeline.networks
    parts = {part for file in networks.checkpoints for part in file.components}
    return networks.component_bytes(*parts) + networks.text_encoder_bytes()
