"""A node that trains a LoRA on a folder of clips with captions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import comfy.model_management
import folder_paths
from comfy_api.latest import io, ui

from ...ltx2_core.memory import PRESETS
from ...ltx2_core.trainer.buckets import parse_buckets
from ...ltx2_core.trainer.dataset import DatasetOptions
from ...ltx2_core.trainer.folder_run import FolderRun
from ...ltx2_core.trainer.settings_file import toml_values
from ..host.free_memory import free_budget
from ..host.lora import apply_lora
from ..host.training import LORAS_FOLDER, train_in_host
from ..host.values import Model
from ..loading import file_lists
from ..loading.file_inputs import model_input, part_inputs, text_encoder_input
from ..loading.file_lists import FIXED, SAME
from ..numbers import real_input
from .datasets import NO_DATASET, dataset_path, datasets, fingerprint

FREE = "what is free now"
KEPT = ("dataset", "output_dir", "checkpoints", "text_encoder", "device")
"""Settings that widgets decide."""


class LTX2AVTrainLora(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2AVTrainLora",
            is_output_node=True,
            display_name="LTX-2 Train LoRA",
            search_aliases=["train", "training", "lora trainer", "finetune", "fine-tune", "dreambooth"],
            category="LTX-2/training",
            description="Trains a LoRA on a folder of clips with captions: encodes them once, trains, shows "
            "previews. An interrupted run continues when it is queued again.",
            inputs=[
                model_input(),
                text_encoder_input(),
                io.Combo.Input(
                    "dataset",
                    options=datasets() or [NO_DATASET],
                    tooltip="Folder in ComfyUI's input folder with clips and a caption for each, clip.mp4 "
                    "and clip.txt; or a csv or jsonl file there with the columns video and caption.",
                ),
                io.String.Input(
                    "name",
                    default="my_lora",
                    tooltip="Name of the LoRA in models/loras/trained, and of the run in the output folder "
                    "training. A run of the same name and settings is continued.",
                ),
                io.String.Input(
                    "trigger", default="", tooltip="Word that is put in front of captions without it."
                ),
                io.String.Input(
                    "buckets",
                    default="768x512x49",
                    tooltip="Width x height x frames of the clips in training, several separated by "
                    "semicolons. Frames are 8k + 1.",
                ),
                io.Combo.Input(
                    "preset",
                    options=[FREE, *PRESETS],
                    default=FREE,
                    tooltip="Memory of the GPU: chooses rank, optimizer, and how much waits in system "
                    "memory.",
                ),
                io.Int.Input("steps", default=1000, min=1, max=1_000_000, tooltip="Optimizer steps."),
                real_input(
                    "learning_rate",
                    default=1e-4,
                    low=1e-7,
                    high=1.0,
                    step=1e-5,
                    round=1e-7,
                    tooltip="Highest learning rate.",
                ),
                io.Int.Input("seed", default=42, min=0, max=2**63 - 1, tooltip="Seed of the whole run."),
                io.String.Input(
                    "preview_prompt",
                    default="",
                    multiline=True,
                    tooltip="Prompt of the clip that is generated before training and during it; empty makes "
                    "none.",
                ),
                io.Int.Input(
                    "preview_every", default=250, min=1, max=1_000_000, tooltip="Steps between previews."
                ),
                io.String.Input(
                    "settings",
                    default="",
                    multiline=True,
                    optional=True,
                    tooltip="Other settings of ltx2 train lora, one a line, such as rank = 16 or "
                    'task = "i2v".',
                ),
                io.Model.Input("model", optional=True, tooltip="A model that gets the trained LoRA."),
                *part_inputs(),
            ],
            outputs=[
                io.Model.Output(
                    display_name="model", tooltip="The connected model with the LoRA at strength 1."
                ),
                io.String.Output(display_name="lora", tooltip="Name of the LoRA below models/loras."),
                io.String.Output(display_name="report", tooltip="What was trained, and the last losses."),
            ],
        )

    @classmethod
    def validate_inputs(
        cls, ckpt_name: str | None = None, text_encoder: str | None = None, dataset: str | None = None
    ) -> bool:
        if dataset is not None:
            dataset_path(dataset)
        return file_lists.check((file_lists.MODELS, ckpt_name), (file_lists.ENCODERS, text_encoder))

    @classmethod
    def fingerprint_inputs(cls, dataset: str | None = None, **_others: Any) -> str:
        return "" if dataset is None else fingerprint(dataset)

    @classmethod
    def execute(
        cls,
        ckpt_name: str,
        text_encoder: str,
        dataset: str,
        name: str,
        trigger: str,
        buckets: str,
        preset: str,
        steps: int,
        learning_rate: float,
        seed: int,
        preview_prompt: str,
        preview_every: int,
        settings: str = "",
        model: Model | None = None,
        video_vae: str = SAME,
        audio_vae: str = SAME,
        text_parts: str = SAME,
    ) -> io.NodeOutput:
        parts = (
            (file_lists.MODELS, ckpt_name),
            (file_lists.VIDEO_VAES, video_vae),
            (file_lists.AUDIO_VAES, audio_vae),
            (file_lists.TEXT_PARTS, text_parts),
        )
        written = {
            "steps": steps,
            "learning_rate": learning_rate,
            "seed": seed,
            "preview_every": preview_every,
            "preview_prompts": [preview_prompt] if preview_prompt.strip() else [],
            **_settings(settings),
        }
        sizes = parse_buckets(buckets)
        if "preview_options" not in written:
            written["preview_options"] = [
                f"{key}={value}"
                for key, value in zip(("width", "height", "num_frames"), sizes[0], strict=True)
            ]
        run = FolderRun(
            source=dataset_path(dataset),
            folder=Path(folder_paths.get_output_directory()) / "training" / _checked(name),
            options=DatasetOptions(buckets=sizes, trigger=trigger.strip() or None),
            checkpoints=tuple(files.path(choice) for files, choice in parts if choice not in FIXED),
            text_encoder=file_lists.ENCODERS.path(text_encoder),
            device=str(comfy.model_management.get_torch_device()),
            budget=_budget(preset),
            settings=written,
        )
        path, report, curves = train_in_host(run, name)
        changed = None if model is None else apply_lora(model, path, 1.0).model
        shown: dict[str, Any] = ui.PreviewText(report).as_dict()
        if curves is not None:
            shown |= ui.PreviewImage(curves, cls=cls).as_dict()
        return io.NodeOutput(changed, f"{LORAS_FOLDER}/{name}.safetensors", report, ui=shown)


def _checked(name: str) -> str:
    """The name of a run, which becomes that of a folder and of a file; raises ValueError for others."""
    if not name or not all(c.isalnum() or c in "-_. " for c in name) or name != name.strip(". "):
        raise ValueError(f"name={name!r} must be of letters, digits, spaces, - and _")
    return name


def _settings(text: str) -> dict[str, Any]:
    """The further settings in a text field, in toml; raises ValueError for those that widgets decide."""
    try:
        values = dict(toml_values(text)) if text.strip() else {}
    except ValueError as error:
        raise ValueError(f"settings: {error}; write one a line, such as rank = 16") from error
    for name in KEPT:
        if name in values:
            raise ValueError(f"settings: {name} is decided by this node: leave it out")
    return values


def _budget(preset: str) -> int:
    """Bytes of memory that training may use."""
    if preset in PRESETS:
        return PRESETS[preset]
    # Models that ComfyUI holds are unloaded before training, so that their memory counts as free.
    return int(free_budget() * 0.9)
