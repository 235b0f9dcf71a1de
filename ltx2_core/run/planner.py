"""Plans and checks the runs of a pipeline from the headers of its model files, before a weight is read."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from functools import partial

import torch

from ..config import transformer_config
from ..loading import Component, Lora, LoraReport
from ..loading.file_set import stage_factor
from ..memory import MemoryPlan
from ..sampling.guidance import stg_blocks_of
from ..storage.files import JsonObject
from ..types import Numerics
from .codecs import Codecs
from .components import Components
from .dfr_plan import OpenedDfrFiles, check_pipeline, detail_scale, plan_dfr
from .distilled_weights import check_distilled
from .execution import Execution
from .file_recipe import recipe_of_file
from .input_check import (
    check_components,
    check_inputs,
    check_processes,
    check_run_size,
    check_silent,
    check_stages,
)
from .lora_files import LoraFile, open_loras, warn_of_stacked
from .prompt_embeds import TEXT_PARTS, check_embeds
from .recipes import Recipe, of_kind
from .request import Request
from .stages import Stage, plan_stages

_log = logging.getLogger(__name__)

_LTXV_LAYERS = {False: 28, True: 48}
"""Blocks of the 2B and of the 13B of LTX-Video."""


class Planner(Codecs):
    """The model files, LoRAs and settings of a pipeline, with which runs are planned and checked.

    ``networks`` loads the models. ``loras`` are merged in every stage, ``stage2_loras`` in addition to them
    in the second one. ``numerics`` says whose results are reproduced, those of the official pipelines or of
    ComfyUI; ``execution`` says how networks are run. ``dfr`` are the files that the DFR pipeline alone uses.
    """

    def __init__(
        self,
        networks: Components,
        loras: tuple[Lora, ...],
        stage2_loras: tuple[Lora, ...],
        *,
        numerics: Numerics,
        execution: Execution,
        dfr: OpenedDfrFiles,
    ) -> None:
        super().__init__(networks, loras)
        self.stage2_loras = stage2_loras
        self.detail_lora = dfr.detail_lora
        self.temporal_upscaler = dfr.temporal_upscaler
        warn_of_stacked((*self.loras, *self.stage2_loras))
        self.numerics = numerics
        self.execution = execution
        self.speed = execution.speed()
        self._warned: set[str] = set()

    @property
    def recipe(self) -> Recipe:
        """The recipe (default settings) of this checkpoint for full, not distilled, weights."""
        file, recipe = self.networks.file(Component.TRANSFORMER), table_recipe(self.networks)
        if not recipe.stg:
            return recipe
        layers = transformer_config(file.config).num_layers
        if file.generation == "0.9":
            # A smaller model has its block at the same depth.
            whole = _LTXV_LAYERS[bool(recipe.by_step)]

            def scaled(blocks: tuple[int, ...]) -> tuple[int, ...]:
                return tuple(block * layers // whole for block in blocks)

            return replace(
                recipe,
                stg_blocks=scaled(recipe.stg_blocks),
                stage2_stg_blocks=scaled(recipe.stage2_stg_blocks),
                by_step=layers if recipe.by_step else 0,
            )
        return replace(recipe, stg_blocks=stg_blocks_of(layers, recipe.generation))

    @property
    def tone_map(self) -> float:
        return 0.0 if self.numerics.is_comfy else self.recipe.tone_map

    def resolve(self, request: Request) -> Request:
        """Return a copy of ``request`` in which the recipe of the checkpoint fills in all open values.

        The recipe is the table of default settings for this generation; open values are None.
        """
        return request.with_recipe(self.recipe)[0]

    def stages(self, request: Request) -> tuple[Stage, ...]:
        """Plan the sampling runs for ``request``: size, sigmas and guidance of each stage.

        The recipe (default settings) of the checkpoint, numerics and upscaler decide what the request leaves
        open. Raises ValueError if two stages are asked for and the upscaler cannot be used between them.
        """
        factor = Fraction(2)
        if request.staging.count == 2:
            factor = stage_factor(self.networks.file(Component.UPSAMPLER))
        if request.staging.pipeline is None:
            return plan_stages(request, self.numerics, self.recipe, enlargement=factor)
        detail = detail_scale(self.detail_lora)
        return plan_dfr(request, self.numerics, self.recipe, enlargement=factor, detail=detail)

    def settings(self) -> JsonObject:
        """JSON values that describe this pipeline: its files, its LoRAs and its numerics."""
        return {
            "checkpoints": [file.path.name for file in self.networks.checkpoints],
            "loras": [lora.settings for lora in self.loras],
            "stage2_loras": [lora.settings for lora in self.stage2_loras],
            "numerics": self.numerics.value,
            "dtype": str(self.networks.dtype).removeprefix("torch."),
        }

    def lora_reports(self) -> tuple[LoraReport, ...]:
        """Report for each LoRA of this pipeline which layers it changes; only headers are read.

        They are those of every stage, then those of the second stage, then the detail LoRA. Raises ValueError
        if a LoRA fits no layer.
        """
        detail = () if self.detail_lora is None else (self.detail_lora,)
        return tuple(self.networks.lora_report(lora) for lora in (*self.loras, *self.stage2_loras, *detail))

    def set_loras(
        self, loras: Sequence[LoraFile] = (), *, stage2_loras: Sequence[LoraFile] | None = None
    ) -> None:
        """Replace the LoRAs, or change their strengths, for later calls.

        ``loras`` replace those of every stage. ``stage2_loras`` replace those added in the second stage; None
        leaves them as they are. In networks that are loaded, only the layers concerned are changed. Results
        equal those of a new pipeline. Raises ValueError, and changes nothing, if a LoRA fits no layer.
        """
        recipe = partial(table_recipe, self.networks)
        first = open_loras(loras, recipe)
        second = self.stage2_loras if stage2_loras is None else open_loras(stage2_loras, recipe)
        for lora in (*first, *second):
            # All are checked before one is replaced, so that a wrong LoRA leaves the pipeline as it is.
            self.networks.lora_report(lora)
        warn_of_stacked((*first, *second))
        self.loras, self.stage2_loras = first, second

    def stage_loras(self, index: int) -> tuple[Lora, ...]:
        """All LoRAs that are merged in stage number ``index``; 0 is the first stage.

        Stage 1 also has those for the second stage and the detail LoRA.
        """
        if index != 1:
            return self.loras
        detail = () if self.detail_lora is None else (self.detail_lora,)
        return self.loras + self.stage2_loras + detail

    @property
    def second_text(self) -> bool:
        """Whether the second stage encodes the prompts again, because its LoRAs change the text networks."""
        return any(TEXT_PARTS & lora.components for lora in self.stage2_loras)

    def plan(
        self,
        stages: Sequence[Stage],
        budget: int,
        *,
        source: tuple[int, int] | None = None,
        decode_dtype: torch.dtype | None = None,
        propose: bool = True,
    ) -> MemoryPlan:
        """Plan how ``stages`` run within ``budget`` bytes of device memory, from headers of files alone.

        ``source`` is the (width, height) in pixels of an edit's source video, whose frames are encoded too;
        None without one. ``decode_dtype`` is the number format in which the video is decoded, None for that
        of the run; see :func:`decode_dtype_of`. With ``propose`` a plan that does not fit
        has a smaller clip that does.
        """
        return self.networks.plan(
            [stage.sampled for stage in stages],
            finished=stages[-1].finished,
            budget=budget,
            batch=self.speed.batch(stages),
            text_keys=self.text_keys_bytes(stages),
            source=source,
            decode_dtype=decode_dtype,
            changed=bool(self.loras or self.stage2_loras or self.detail_lora),
            propose=propose,
            parts=self.speed.processes.token_parts,
        )

    def text_keys_bytes(self, stages: Sequence[Stage]) -> int:
        """Bytes that the cached keys and values of the text need in ``stages``; 0 without ``keep_text_keys``.

        The result is 0 too for models whose keys depend on the noise level, which are not cached.
        """
        config = transformer_config(self.networks.file(Component.TRANSFORMER).config)
        return self.speed.text_keys_bytes(stages, config, self.networks.dtype)

    def check(
        self, request: Request, *, further: bool = False, source: tuple[int, int] | None = None
    ) -> tuple[Stage, ...]:
        """Check all that can be checked before a network is loaded; returns the stages of ``request``.

        All inputs are read, and the headers of all model files; LoRAs, encoded prompts and the memory budget
        are checked too. ``further`` says that the call has conditioning items in addition to its request;
        ``source`` is the (width, height) in pixels of an edit's source video, None without one. Raises
        ValueError or FileNotFoundError for what cannot be sampled, TypeError for what is no request.
        """
        if not isinstance(request, Request):
            raise TypeError(
                f"check takes a Request, such as Request(prompt={str(request)!r}); got "
                f"{type(request).__name__}"
            )
        request = self.resolve(request)
        stages = self.stages(request)
        if request.staging.tiles > 1 and not further:
            raise ValueError(
                "stage2_tiles samples video alone, as HDR clips do: leave it out of a run with audio"
            )
        request.text.by_time(None if request.size.auto else stages[0].clip.seconds)
        if request.text.at is not None and request.text.method != "separate" and not self.networks.has_audio:
            raise ValueError(
                f"--prompt-method {request.text.method} (prompt_method={request.text.method!r}) is for "
                "LTX-2: use separate with LTX-Video"
            )
        # From cheap to costly: inputs and headers are read only for a request that is possible in itself.
        for stage in stages:
            check_run_size(stage.sampled)
        if not self.networks.has_audio:
            check_silent(request)
        check_pipeline(request, self.temporal_upscaler, self.detail_lora)
        self._warn(check_distilled(request, self.networks.file(Component.TRANSFORMER).path, self.loras))
        check_inputs(request, stages, self.loras, audio=self.networks.has_audio)
        check_stages(request, stages, transformer_config(self.networks.file(Component.TRANSFORMER).config))
        self.check_processes(stages)
        check_components(self.networks, request, stages, further=further)
        self.lora_reports()
        if request.text.embeds is not None:
            check_embeds(self, request.text.embeds)
        if request.sampling.cache is not None and self.speed.processes.count > 1:
            raise ValueError(
                "a step cache decides from the tensors of one process: use it without several processes"
            )
        plan = self._memory_plan(request, stages, source)
        if plan is not None and not plan.fits:
            raise ValueError(plan.shortage)
        return stages

    def check_processes(self, stages: Sequence[Stage] = ()) -> None:
        """Raise ValueError if the processes of the execution cannot divide the model or ``stages``."""
        config = transformer_config(self.networks.file(Component.TRANSFORMER).config)
        check_processes(self.speed.processes, config, stages)

    def _warn(self, doubt: str | None) -> None:
        """Write ``doubt`` to the log, unless it is None or this pipeline has written it before."""
        # A command checks a request before it opens the networks, and the run checks it again.
        if doubt is not None and doubt not in self._warned:
            self._warned.add(doubt)
            _log.warning(doubt)

    def _memory_plan(
        self, request: Request, stages: Sequence[Stage], source: tuple[int, int] | None
    ) -> MemoryPlan | None:
        """Plan how ``stages`` of ``request`` run within ``max_memory``; None if the run has no such budget.

        ``source`` is the (width, height) in pixels of an edit's source video; None without one.
        """
        budget = self.networks.max_memory
        if budget is None:
            return None
        return self.plan(stages, budget, source=source, decode_dtype=decode_dtype_of(request))

    def _recipe_of(self, request: Request) -> Recipe:
        return of_kind(self.recipe, distilled=request.sampling.distilled)


def decode_dtype_of(request: Request) -> torch.dtype | None:
    """The number format in which the video of ``request`` is decoded: float32 for an HDR clip.

    None is the number format of the run.
    """
    return None if request.inputs.hdr is None else torch.float32


def table_recipe(networks: Components) -> Recipe:
    """The entry of the table of recipes for the checkpoint in ``networks``, for full weights."""
    return recipe_of_file(networks.file(Component.TRANSFORMER))
