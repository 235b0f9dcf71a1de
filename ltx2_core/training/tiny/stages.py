"""The stages of ``ltx2 train tiny``, from new weights to a model set in ComfyUI's folders.

A stage whose output files exist is skipped; remove them to run it again. A stopped stage resumes from its
state file.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence

import torch
from safetensors.torch import load_file
from torch import Tensor

from .autoencoder_stages import (
    stage_audio_vae,
    stage_upsampler,
    stage_video_code,
    stage_video_decoder,
    stage_video_encoder,
    stage_vocoder,
)
from .continued_stages import CONTINUED_NEEDS, CONTINUED_STAGES
from .flow_stages import stage_distilled, stage_edges, stage_latents, stage_transformer
from .gemma import write_world_gemma
from .run import Run, Unfinished, save_tensors

logger = logging.getLogger(__name__)

Stage = Callable[[Run], None]
"""Trains and writes one network, or writes the dataset or the checkpoint."""

OnStage = Callable[[str, str], None]
"""Called with the name of a stage and "starts", "exists", "done" or "stopped"."""


def run_stages(run: Run, stages: Sequence[str] | None = None, *, on_stage: OnStage | None = None) -> None:
    """Run ``stages`` (None: all) in the order of :func:`tables`, skipping those whose output files exist.

    A stage trains and writes one network or LoRA, or writes the dataset or the checkpoint. ``on_stage`` is
    called with its name and "starts", "exists", "done" or "stopped". Raises ValueError for an unknown stage
    or one whose inputs are missing, and Unfinished at the time limit.
    """
    table, needs = tables(run)
    selected = list(table) if stages is None else list(stages)
    unknown = [stage for stage in selected if stage not in table]
    if unknown:
        raise ValueError(f"unknown stages {', '.join(unknown)}; choose from {', '.join(table)}")
    report = on_stage or (lambda stage, event: None)
    # In the order of the table, whatever the order of the selection: later stages read files of earlier ones.
    for stage in table:
        if stage not in selected:
            continue
        if all(path.exists() for path in run.outputs(stage)):
            older = [need for need in needs[stage] if _newer(run, need, stage)]
            # A warning only: the files may have been copied, which changes their times.
            if older:
                logger.warning(
                    "%s is older than %s: remove its files to run it again", stage, ", ".join(older)
                )
            report(stage, "exists")
            continue
        missing = [n for n in needs[stage] if not all(p.exists() for p in run.outputs(n))]
        if missing:
            raise ValueError(f"stage {stage} needs {', '.join(missing)} first: run them in the same folder")
        report(stage, "starts")
        begin = time.monotonic()
        try:
            table[stage](run)
        # Reaching the time limit is planned: the stage resumes from its state in the next run.
        except Unfinished:
            report(stage, "stopped")
            raise
        finally:
            # Counted for a failed stage too, because the time limit is one of the whole run.
            run.spend(stage, time.monotonic() - begin)
        report(stage, "done")


def tables(run: Run) -> tuple[Mapping[str, Stage], Mapping[str, tuple[str, ...]]]:
    """The stages of ``run`` in their order, and for each the stages whose outputs it reads."""
    return (STAGES, NEEDS) if run.base is None else (CONTINUED_STAGES, CONTINUED_NEEDS)


def _newer(run: Run, one: str, other: str) -> bool:
    """Whether training stage ``one`` has an output file that is newer than the oldest of stage ``other``."""
    times = [path.stat().st_mtime for path in run.outputs(one) if path.exists()]
    # The newest input against the oldest output: any output may be out of date.
    return bool(times) and max(times) > min(path.stat().st_mtime for path in run.outputs(other))


def stage_text(run: Run) -> None:
    """Write a text encoder with random weights.

    It is not trained: its random hidden states distinguish words, and the text projection learns their
    meaning.
    """
    write_world_gemma(run.models.text_encoder, prompts=run.prompts, seed=run.seed)


def stage_export(run: Run) -> None:
    """Write all trained networks into one checkpoint in the released layout, in bfloat16."""
    tensors: dict[str, Tensor] = {}
    # Prefixes are part of the names in each file, so that parts are joined without renaming.
    for name in PARTS:
        tensors |= load_file(run.part(name))
    metadata = {"config": json.dumps(run.scale.config), "model_version": "2.3.0-tiny"}
    # In bfloat16, as official checkpoints are stored.
    save_tensors(run.models.checkpoint, tensors, dtype=torch.bfloat16, metadata=metadata)


PARTS = ("video-encoder", "video-decoder", "audio-vae", "vocoder", "transformer")
"""The stages whose networks are in the checkpoint."""

STAGES: dict[str, Stage] = {
    "text": stage_text,
    "video-code": stage_video_code,
    "video-encoder": stage_video_encoder,
    "video-decoder": stage_video_decoder,
    "audio-vae": stage_audio_vae,
    "vocoder": stage_vocoder,
    "latents": stage_latents,
    "transformer": stage_transformer,
    "upsampler": stage_upsampler,
    "distilled": stage_distilled,
    "edges": stage_edges,
    "export": stage_export,
}
"""All stages, in the order in which they run."""

NEEDS: dict[str, tuple[str, ...]] = {
    "text": (),
    "video-code": (),
    "video-encoder": ("video-code",),
    "video-decoder": ("video-code", "video-encoder"),
    "audio-vae": (),
    "vocoder": ("audio-vae",),
    "latents": ("text", "video-code", "audio-vae"),
    "transformer": ("text", "latents"),
    "upsampler": ("video-code",),
    "distilled": ("transformer",),
    "edges": ("transformer",),
    "export": PARTS,
}
"""The stages whose outputs a stage reads."""
