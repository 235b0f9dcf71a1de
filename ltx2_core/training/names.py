"""Names of training tasks, apart from what they mean, so that the help of commands needs no torch."""

from __future__ import annotations

TASK_NAMES = ("t2v", "i2v", "a2v", "v2a", "t2a", "v2v", "a2a", "av2av", "extend", "inpaint", "outpaint")
"""What is generated from what: t text, i image, v video, a audio. ``v2v`` is an IC-LoRA."""
