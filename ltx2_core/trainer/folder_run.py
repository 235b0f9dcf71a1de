"""From a folder of clips and captions to a LoRA in one call: what ltx2 dataset and ltx2 train lora do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..run.codecs import Codecs
from .dataset import DatasetOptions, OnItem, encode_dataset, plan_dataset
from .fitting import target_layers
from .lora_run import train_lora
from .memory_choice import DECIDING, choose_for_files
from .models import open_networks
from .open_run import check_settings, open_run
from .previews import OnClip, Previews, requests_of
from .report import report
from .rows import read_rows
from .running import OnAlarm, OnStep
from .settings import LoraSettings
from .settings_file import setting_values
from .texts import TextStage, needed_stage
from .within_memory import TRAINED


@dataclass(frozen=True, kw_only=True)
class FolderRun:
    """What is trained on what.

    ``source`` is a folder of clips or a csv, json or jsonl file; ``folder`` gets the encoded dataset and the
    run, and resumes both. ``checkpoints`` are model files, none for the embedded set. ``budget`` in bytes
    chooses the settings that decide the memory; ``settings`` have keys of :class:`LoraSettings` except
    ``max_memory``, which is what ``budget`` is, and replace what was chosen.
    """

    source: Path
    folder: Path
    options: DatasetOptions
    checkpoints: tuple[Path, ...] = ()
    text_encoder: Path | None = None
    device: str | None = None
    budget: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Told:
    """Who is told of a run: of files that are read and encoded, of steps, of previews, of alarms.

    ``stop`` is asked after each step, and while previews are made.
    """

    on_item: OnItem | None = None
    on_step: OnStep | None = None
    on_clip: OnClip | None = None
    on_alarm: OnAlarm | None = None
    stop: Callable[[], bool] | None = None


def settings_of(run: FolderRun) -> tuple[LoraSettings, list[str]]:
    """The settings of ``run``, and sentences on what was chosen.

    Raises ValueError for all settings that cannot be used whatever the clips are, so that no network is
    loaded in vain, and if the budget is too small.
    """
    if "max_memory" in run.settings:
        raise ValueError("settings: max_memory is decided by the preset of memory: leave it out")
    written = setting_values(run.settings, LoraSettings)
    fixed = {
        "dataset": str(run.folder / "dataset"),
        "output_dir": str(run.folder),
        "checkpoints": tuple(map(str, run.checkpoints)),
        "text_encoder": "" if run.text_encoder is None else str(run.text_encoder),
        "device": run.device or "",
    }
    settings = LoraSettings(**{**written, **fixed})
    notes: list[str] = []
    networks = open_networks(run.checkpoints, run.text_encoder, device=run.device)
    if run.budget is not None:
        stage: TextStage = "context"
        if settings.targets:
            stage = needed_stage(target_layers(networks, settings.targets, video=True, audio=True))
        buckets = run.options.buckets
        chosen, memory, fits = choose_for_files(networks, run.budget, buckets, TRAINED[stage], written)
        if not fits:
            raise ValueError(
                f"training needs at least {memory}: use smaller or shorter clips (buckets)"
                + "".join(f", or leave {name} out of the settings" for name in DECIDING if name in written)
            )
        settings = replace(settings, **chosen)
        notes = [str(memory), ", ".join(f"{name} {value}" for name, value in chosen.items())]
    check_settings(settings, networks)
    requests_of(settings)
    return settings, notes


def train_folder(run: FolderRun, told: Told) -> tuple[Path, Sequence[str]]:
    """Encode what is not encoded yet, then train; returns the LoRA and the lines of a report.

    Captions are encoded as far as the targets of the run allow.
    The same call resumes a run that was stopped: a LoRA whose name does not end in ``lora.safetensors`` is
    that of a run which is not finished. Raises ValueError for clips, settings and files that do not fit.
    """
    settings, notes = settings_of(run)
    plan = plan_dataset(read_rows(run.source), run.options, told.on_item)
    lines = [*report(plan, run.options), *notes]
    networks = open_networks(run.checkpoints, run.text_encoder, device=run.device)
    options = run.options
    if settings.targets:
        layers = target_layers(networks, settings.targets, video=True, audio=True)
        options = replace(options, text=needed_stage(layers))
    encode_dataset(Codecs(networks), plan, options, run.folder / "dataset", told.on_item)
    opened = open_run(settings)
    previews = None
    if settings.preview_prompts:
        previews = Previews(opened, stop=told.stop, on_clip=told.on_clip)
    path = train_lora(opened, on_step=told.on_step, on_save=previews, on_alarm=told.on_alarm, stop=told.stop)
    return path, [*lines, *opened.notes]
