"""Trains a LoRA from an encoded dataset."""

from __future__ import annotations

from pathlib import Path

from .open_run import Opened
from .running import OnAlarm, OnSave, OnStep, Stop, Watch, run_training
from .trainees import LoraTrainee


def train_lora(
    opened: Opened,
    *,
    on_step: OnStep | None = None,
    on_save: OnSave | None = None,
    on_alarm: OnAlarm | None = None,
    stop: Stop | None = None,
    stop_at: int | None = None,
) -> Path:
    """Train a LoRA, as :func:`.running.run_training` says; returns the path of the file."""
    watch = Watch(on_step=on_step, on_save=on_save, on_alarm=on_alarm, stop=stop)
    return run_training(opened, LoraTrainee, watch, stop_at=stop_at)
