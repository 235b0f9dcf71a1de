"""Training inside ComfyUI: its models make room, its bar and stop button serve the run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.utils
import folder_paths
import latent_preview
import torch
from PIL import Image
from torch import Tensor

from ...ltx2_core.media import load_image, read_video
from ...ltx2_core.trainer.folder_run import FolderRun, Told, train_folder
from ...ltx2_core.trainer.run_files import RunFiles
from ..convert import image_from_frames
from .folders import LORAS
from .progress import ProgressText, check_interrupted, show_text

LORAS_FOLDER = "trained"
_LOSSES = ("loss", "video_loss", "audio_loss", "validation_loss", "validation_audio_loss")


def train_in_host(run: FolderRun, name: str) -> tuple[Path, str, Tensor | None]:
    """Train ``run`` and copy its LoRA to models/loras/trained; returns (file, report, image of the curves).

    Raises ComfyUI's interrupt if the user pressed stop: at once while the dataset is encoded, afterwards once
    the run is saved. Raises ValueError for clips, settings and files that do not fit, and what
    :func:`.train_folder` raises else. There are no curves before the first save.
    """
    comfy.model_management.unload_all_models()
    comfy.model_management.soft_empty_cache()
    files, shown = RunFiles(run.folder), _Shown(RunFiles(run.folder))
    told = Told(
        on_item=shown.item,
        on_step=shown.step,
        on_clip=shown.clip,
        on_alarm=shown.alarm,
        stop=shown.is_stopped,
    )
    # The host computes nodes without gradients.
    with torch.inference_mode(mode=False), torch.enable_grad():
        path, lines = train_folder(run, told)
    if shown.is_stopped():
        raise comfy.model_management.InterruptProcessingException
    target = Path(folder_paths.get_folder_paths(LORAS)[0]) / LORAS_FOLDER / f"{name}.safetensors"
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, target)
    # The host lists a folder again when it has changed, and this one may be new.
    folder_paths.filename_list_cache.pop(LORAS, None)
    curves = image_from_frames(load_image(files.curves)) if files.curves.is_file() else None
    return target, "\n".join([*lines, *shown.alarms, *_last_losses(files)]), curves


class _Shown:
    """What the node shows of a run: progress, losses, and previews beside the clip of the untrained model."""

    def __init__(self, files: RunFiles) -> None:
        self.files = files
        self.alarms: list[str] = []
        self._bar: comfy.utils.ProgressBar | None = None
        self._text: ProgressText | None = None
        self._last = (0, 1)
        self._stopped = False

    def is_stopped(self) -> bool:
        """Whether the user pressed stop."""
        return self._stopped or comfy.model_management.processing_interrupted()

    def item(self, what: str, done: int, total: int) -> None:
        """Show which file of the dataset is read or encoded; raises ComfyUI's interrupt."""
        check_interrupted()
        show_text(f"dataset, {what}: {done + 1} of {total}")

    def step(self, step: int, steps: int, values: dict[str, float]) -> None:
        if self._bar is None or self._text is None:
            self._bar, self._text = comfy.utils.ProgressBar(steps), ProgressText(steps, "training step")
        self._last = (step, steps)
        self._update(self._bar)
        self._text(step)

    def clip(self, step: int, path: Path) -> None:
        """Show the middle frame of a preview, right of that of the model without the LoRA."""
        found = [one for one in (self.files.preview(0, 1), path) if one.is_file()]
        image = _side_by_side([_middle(one) for one in dict.fromkeys(found)])
        preview = ("JPEG", image, latent_preview.MAX_PREVIEW_RESOLUTION)
        self._update(comfy.utils.ProgressBar(self._last[1]), preview)

    def _update(self, bar: comfy.utils.ProgressBar, preview: Any = None) -> None:
        """Move a bar; the host interrupts there, which must wait until the run is saved."""
        try:
            bar.update_absolute(*self._last, preview)
        except comfy.model_management.InterruptProcessingException:
            self._stopped = True

    def alarm(self, text: str) -> None:
        self.alarms.append(text)
        show_text(text)


def _middle(path: Path) -> Image.Image:
    clip = read_video(path)
    frame = clip.read(clip.frame_count // 2, 1)[0]
    return Image.fromarray((frame.movedim(0, -1) * 255).round().byte().contiguous().numpy())


def _side_by_side(images: Sequence[Image.Image]) -> Image.Image:
    whole = Image.new("RGB", (sum(i.width for i in images), max(i.height for i in images)))
    left = 0
    for image in images:
        whole.paste(image, (left, 0))
        left += image.width
    return whole


def _last_losses(files: RunFiles) -> list[str]:
    """A line with the losses of the last step in the log."""
    log = files.folder / "log.jsonl"
    lines = log.read_text(encoding="utf-8").splitlines() if log.is_file() else []
    if not lines:
        return []
    values = json.loads(lines[-1])
    told = ", ".join(f"{name} {values[name]:.4g}" for name in _LOSSES if name in values)
    return [f"step {values['step']}: {told}"]
