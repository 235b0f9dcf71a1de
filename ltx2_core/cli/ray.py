"""The options ``--ray`` of ``ltx2 serve`` and ``ltx2 batch``: replicas on a Ray cluster."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .options import Chosen

if TYPE_CHECKING:
    from ..serve.runner import JobRunner
    from ..serve.service import Settings


def ray_runners(chosen: Chosen, settings: Settings) -> Sequence[JobRunner] | None:
    """Runners on a Ray cluster, as many as --ray-workers allows; None without --ray.

    Raises ValueError for wrong values, and if Ray is missing.
    """
    if chosen["ray"] is None:
        for name in ("ray_workers", "ray_gpus"):
            if name in chosen.explicit:
                raise ValueError(f"--{name.replace('_', '-')} has no effect without --ray")
        return None
    try:
        import ray  # noqa: F401
    except ImportError:
        raise ValueError('--ray needs the package ray: pip install "comfyui-ltx2[ray]"') from None
    from ..serve.ray_runner import Scale, connect, runners

    low, high = _bounds(chosen["ray_workers"])
    gpus = chosen["ray_gpus"]
    if gpus is None:
        gpus = int(settings.execution.device.type == "cuda")
    connect(chosen["ray"])
    return runners(settings.replica(), Scale(least=low, most=high, gpus=gpus))


def _bounds(text: str) -> tuple[int, int]:
    """Parse ``4`` or ``1-8``. Raises ValueError for other text."""
    match = re.fullmatch(r"(\d+)(?:-(\d+))?", text.strip())
    low, high = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if high < 1 or low > high:
        raise ValueError(f"--ray-workers {text:.40} must be a number or MIN-MAX, such as 4 or 1-8")
    return low, high
