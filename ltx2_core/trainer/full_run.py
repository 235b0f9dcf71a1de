"""Trains the weights of the transformer themselves from an encoded dataset."""

from __future__ import annotations

from pathlib import Path

from .open_run import Opened
from .running import OnAlarm, OnSave, OnStep, Watch, run_training
from .trainees import FullTrainee


def train_full(
    opened: Opened,
    *,
    on_step: OnStep | None = None,
    on_save: OnSave | None = None,
    on_alarm: OnAlarm | None = None,
    stop_at: int | None = None,
) -> Path:
    """Train the transformer, as :func:`.running.run_training` says; returns the path of the model file."""
    watch = Watch(on_step=on_step, on_save=on_save, on_alarm=on_alarm)
    return run_training(opened, FullTrainee, watch, stop_at=stop_at)
