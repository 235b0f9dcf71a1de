"""The options ``--ray`` of ``ltx2 serve`` and ``ltx2 batch``: replicas on a Ray cluster."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

from .options import Chosen

if TYPE_CHECKING:
    from ..run.distributed import Processes
    from ..serve.runner import JobRunner
    from ..serve.service import Settings


def ray_runners(chosen: Chosen, settings: Settings) -> Sequence[JobRunner] | None:
    """Runners on a Ray cluster, as many as --ray-workers allows; None without --ray.

    Raises ValueError for wrong values, and if Ray is missing.
    """
    if chosen["ray"] is None:
        return None
    # Not imported yet: Ray reads its variables then, which a cluster that is started here decides.
    if find_spec("ray") is None:
        raise ValueError('--ray needs the package ray: pip install "comfyui-ltx2[ray]"')
    from ..serve.ray_cluster import connect

    low, high = _bounds(chosen["ray_workers"])
    gpus = chosen["ray_gpus"]
    if gpus is None:
        gpus = int(settings.execution.device.type == "cuda")
    _check_models(settings)
    connect(chosen["ray"])
    from ..serve.ray_runner import Scale, runners

    return runners(settings.replica(), Scale(least=low, most=high, gpus=gpus))


def group_of(chosen: Chosen) -> Processes:
    """The processes that make one clip together, of which this one is none. Raises ValueError."""
    from ..run.distributed import Processes
    from .values import naming

    for name in ("ray_workers", "ray_gpus", "ray_group"):
        if chosen["ray"] is None and name in chosen.explicit:
            raise ValueError(f"--{name.replace('_', '-')} has no effect without --ray")
    count, groups = chosen["ray_group"], chosen["guidance_parallel"]
    if count == 1 and "guidance_parallel" in chosen.explicit:
        raise ValueError("--guidance-parallel has no effect without --ray-group")
    with naming("--guidance-parallel"):
        return Processes(count=count, groups=groups)


def _check_models(settings: Settings) -> None:
    """Raise ValueError, which names the model, if a group of processes cannot divide one of them."""
    if settings.execution.processes.count > 1:
        for model in settings.models.values():
            try:
                model.open(settings.execution).check_processes()
            except ValueError as error:
                raise ValueError(f"--ray-group: model {model.id!r}: {error}") from error


def _bounds(text: str) -> tuple[int, int]:
    """Parse ``4`` or ``1-8``. Raises ValueError for other text."""
    match = re.fullmatch(r"(\d+)(?:-(\d+))?", text.strip())
    low, high = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if high < 1 or low > high:
        raise ValueError(f"--ray-workers {text:.40} must be a number or MIN-MAX, such as 4 or 1-8")
    return low, high
