"""Counts of what the service has done since its start, for ``/metrics``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from threading import Lock

from .progress import ClipMeter


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Finished clips, seconds of work by part such as "sampling", and latent tokens times steps.

    ``stages`` are the seconds of sampling by stage, ``tokens_per_s`` the tokens of the last clip in a second
    of its sampling, and ``device_bytes`` the most device memory that a process has reserved.
    """

    clips: int = 0
    tokens: int = 0
    tokens_per_s: float = 0.0
    device_bytes: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    stages: dict[str, float] = field(default_factory=dict)


class Meters:
    """Adds up what finished clips took. Any thread may use it."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._counts = Counts()

    def add(self, meter: ClipMeter) -> None:
        """Add a finished clip."""
        with self._lock:
            before = self._counts
            sampling_s = meter.seconds.get("sampling", 0.0)
            self._counts = replace(
                before,
                clips=before.clips + 1,
                tokens=before.tokens + meter.tokens,
                # A clip whose latents were read, and not sampled, says nothing of it.
                tokens_per_s=meter.tokens / sampling_s if sampling_s else before.tokens_per_s,
                device_bytes=max(before.device_bytes, meter.device_bytes),
                seconds=_sum(before.seconds, meter.seconds),
                stages=_sum(before.stages, meter.stages),
            )

    def read(self) -> Counts:
        """The counts so far."""
        with self._lock:
            return self._counts


def _sum(before: Mapping[str, float], more: Mapping[str, float]) -> dict[str, float]:
    """Seconds by name, of both."""
    return {name: before.get(name, 0.0) + more.get(name, 0.0) for name in dict.fromkeys((*before, *more))}
