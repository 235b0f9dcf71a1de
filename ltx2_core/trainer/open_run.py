"""Opens a run: settings, dataset and model files are checked against each other, nothing is loaded."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ..loading import Component
from ..run.components import Components
from ..storage.identity import identity
from ..training.objective import SigmaSampling
from ..training.objective.objective import Objective, objective_of
from ..training.optimizer_choice import check_optimizer
from .cache import Index
from .fitting import check_clips, check_init_lora, check_parameters, target_layers
from .loggers import check_loggers
from .models import open_networks
from .preset_loras import preset_loras
from .run_files import RunFiles
from .samples import Samples
from .settings import FullSettings, LoraSettings, TrainSettings
from .texts import check_stage
from .warnings import warnings_of


@dataclass(frozen=True)
class Opened:
    """What a run works on: its settings, networks, clips, held-out clips, objective and layers."""

    settings: TrainSettings
    networks: Components
    samples: Samples
    held_out: Samples
    objective: Objective
    layers: tuple[str, ...]
    files: RunFiles
    notes: tuple[str, ...]


def open_run(settings: TrainSettings) -> Opened:
    """Open the files of a run and check that they fit; no network is loaded.

    Raises ValueError if the dataset was encoded by other networks, if a source changed since, if clips lack
    what the task needs, or if the targets are none of the layers.
    """
    folder = Path(settings.dataset)
    networks = open_networks(
        [Path(path) for path in settings.checkpoints],
        Path(settings.text_encoder) if settings.text_encoder else None,
        device=_device(settings.device),
    )
    objective = check_settings(settings, networks)
    index = Index.load(folder)
    _check_index(index, networks, folder)
    samples = Samples(
        folder,
        index,
        objective,
        batch_size=settings.batch_size,
        seed=settings.seed,
        caption_dropout=settings.caption_dropout,
        stream_dropout=(settings.caption_dropout_video, settings.caption_dropout_audio),
        device=networks.device,
    )
    held_out, held_index = samples, None
    if settings.validation_dataset:
        other = Path(settings.validation_dataset)
        held_index = Index.load(other)
        _check_index(held_index, networks, other)
        held_out = Samples(other, held_index, objective, device=networks.device)
        if held_index.text != index.text:
            raise ValueError(
                f"validation_dataset {other} was encoded with --text {held_index.text}, the dataset with "
                f"--text {index.text}: run ltx2 dataset again for one of them"
            )
        check_clips(held_out)
    check_clips(samples)
    layers, files = _trained(settings, networks, samples)
    base = networks.file(Component.TRANSFORMER).path
    if settings.epochs:
        steps = math.ceil(settings.epochs * samples.per_epoch / settings.gradient_accumulation)
        settings = replace(settings, steps=steps)
    if settings.save_every_epochs:
        passes = settings.save_every_epochs * samples.per_epoch
        settings = replace(settings, save_every=math.ceil(passes / settings.gradient_accumulation))
    notes = [share_text(samples), *warnings_of(base, index, held_index)]
    if samples.left_out:
        notes.append(f"{len(samples.left_out)} clips lack a stream that task {settings.task} needs: left out")
    return Opened(settings, networks, samples, held_out, objective, layers, files, tuple(notes))


def check_settings(settings: TrainSettings, networks: Components) -> Objective:
    """Check what needs no encoded dataset, and return the objective of a run; no network is loaded.

    Raises ValueError for a logger or an optimizer that is unknown or not installed, for an objective that
    makes no sense, for targets that are no layers, and for preset LoRAs that fit none.
    """
    check_loggers(settings.log)
    check_optimizer(settings.optimizer, groups=2 if settings.audio_learning_rate else 1)
    base = networks.file(Component.TRANSFORMER)
    if isinstance(settings, LoraSettings) and settings.targets:
        target_layers(networks, settings.targets, video=True, audio=True)
    preset_loras(settings, base)
    return objective_of(
        settings.task,
        settings.conditions,
        sigmas=SigmaSampling(
            kind=settings.sigma_sampling,  # type: ignore[arg-type]  # checked there
            shift=_shift(settings.sigma_shift),
            std=settings.sigma_std,
            eps=settings.sigma_eps,
            uniform_prob=settings.uniform_prob,
            low=settings.sigma_min,
            high=settings.sigma_max,
        ),
        shared_sigma=settings.shared_sigma,
        video_weight=settings.video_loss_weight,
        audio_weight=settings.audio_loss_weight,
        official=settings.official,
    )


def _shift(written: str) -> float | None:
    """The mean of the logit of noise levels that is written; None if it is by the tokens of clips."""
    if written == "tokens":
        return None
    try:
        return float(written)
    except ValueError:
        raise ValueError(f"sigma_shift={written!r} must be tokens, or a number such as 1.5") from None


def _trained(
    settings: TrainSettings, networks: Components, samples: Samples
) -> tuple[tuple[str, ...], RunFiles]:
    """The layers that adapters are for, none in a full run, and the files of the run."""
    folder = Path(settings.output_dir)
    base = networks.file(Component.TRANSFORMER)
    if isinstance(settings, FullSettings):
        check_parameters(base, settings)
        streams = {(o.video is None, o.audio is None) for o, _ in samples.by_objective()}
        if settings.sharding == "fsdp" and len(streams) > 1:
            raise ValueError(
                "sharding=fsdp: some clips have audio and some have none, and every process must compute the "
                "same streams: use sharding=ddp, or encode with --missing-audio skip or --audio off"
            )
        return (), RunFiles(folder, "model")
    assert isinstance(settings, LoraSettings)
    video, audio = samples.trains
    layers = target_layers(networks, settings.targets, video=video, audio=audio)
    check_stage(settings.targets, layers, samples.index.text, samples.folder)
    files = RunFiles(folder)
    # The state of a run that is resumed has all of it, so that the file may be gone by then.
    if settings.init_lora and not files.state.is_file():
        check_init_lora(Path(settings.init_lora), layers, settings)
    return layers, files


def _device(name: str) -> str | None:
    """The device of this process; of those that torchrun started, each has a GPU of its own."""
    number = os.environ.get("LOCAL_RANK")
    if number is not None and name in ("", "cuda") and torch.cuda.is_available():
        return f"cuda:{number}"
    return name or None


def share_text(samples: Samples) -> str:
    """A sentence on how many of the clips train the audio."""
    count = sum(map(len, samples.groups.values()))
    return (
        f"{count} clips, {samples.per_epoch} batches an epoch; {samples.audio_share:.0%} of them train audio"
    )


def base_digest(networks: Components) -> str:
    """A digest of the files of the transformer that is trained."""
    base = networks.file(Component.TRANSFORMER)
    return identity(info.path for info in base.infos(Component.TRANSFORMER).values())


def metadata(opened: Opened, step: int, layers: int) -> dict[str, str]:
    """The header of saved weights: what they were trained on and how, as strings."""
    settings, index = opened.settings, opened.samples.index
    base = opened.networks.file(Component.TRANSFORMER)
    facts: dict[str, Any] = {
        "base_model": base.path.name,
        "base_model_digest": base_digest(opened.networks),
        "model_version": base.generation or "",
        "layers": layers,
        **_specific(settings),
        "trigger": index.trigger,
        "task": settings.task,
        "conditions": ", ".join(settings.conditions),
        "steps": step,
        "seed": settings.seed,
        "buckets": ", ".join(sorted({entry.bucket or "audio" for entry in index.entries})),
        "fps": ", ".join(sorted({f"{entry.fps:g}" for entry in index.entries if entry.fps})),
        "audio": "yes" if opened.samples.trains[1] else "no",
        "keyframe_mark": "no" if settings.official else "yes",
        "dataset_fingerprint": index.fingerprint,
    }
    video = opened.objective.video
    if video is not None and video.references:
        space, time = index.reference
        # Always written for an IC-LoRA: without them inference would scale its reference otherwise.
        facts |= {
            "reference_downscale_factor": space,
            "reference_spatial_scale_factor": space,
            "reference_temporal_scale_factor": time,
        }
    return {name: str(value) for name, value in facts.items()}


def _specific(settings: TrainSettings) -> dict[str, Any]:
    if not isinstance(settings, LoraSettings):
        return {"trained_with": "ltx2 train full"}
    facts: dict[str, Any] = {
        "rank": settings.rank,
        "alpha": f"{settings.lora_alpha:g}",
        "targets": ", ".join(settings.targets) or "by task",
        "trained_with": "ltx2 train lora",
    }
    if settings.preset_loras:
        facts["preset_loras"] = ", ".join(Path(text).name for text in settings.preset_loras)
    return facts


def _check_index(index: Index, networks: Components, folder: Path) -> None:
    """Raise ValueError if a dataset was encoded by other networks, or a source changed since."""
    digests = networks.weight_digests()
    for name, made in index.models.items():
        # The text encoder is needed for previews only, so it may be missing here.
        if name in digests and digests[name] != made:
            raise ValueError(
                f"{folder} was encoded by another {name} than that of these model files: run ltx2 dataset "
                "again with the same --checkpoint"
            )
    changed = index.changed()
    if changed:
        raise ValueError(f"{'; '.join(changed[:5])}: run ltx2 dataset again")
