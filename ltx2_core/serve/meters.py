"""Counts of what the service has done since its start, for ``/metrics``."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from threading import Lock

from .progress import ClipMeter


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Finished clips, seconds of work by part such as "sampling", and latent tokens times steps.

    ``device_bytes`` is the most device memory that a process has reserved.
    """

    clips: int = 0
    tokens: int = 0
    device_bytes: int = 0
    seconds: dict[str, float] = field(default_factory=dict)


class Meters:
    """Adds up what finished clips took. Any thread may use it."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._counts = Counts()

    def add(self, meter: ClipMeter) -> None:
        """Add a finished clip."""
        with self._lock:
            before = self._counts
            seconds = dict(before.seconds)
            for part, value in meter.seconds.items():
                seconds[part] = seconds.get(part, 0.0) + value
            self._counts = replace(
                before,
                clips=before.clips + 1,
                tokens=before.tokens + meter.tokens,
                device_bytes=max(before.device_bytes, meter.device_bytes),
                seconds=seconds,
            )

    def read(self) -> Counts:
        """The counts so far."""
        with self._lock:
            return self._counts
