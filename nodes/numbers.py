"""Widgets of real numbers: NaN is refused by name, and a link may bring an INT."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io


class Least(float):
    """The least value of a float widget: one that NaN does not reach.

    The host refuses a value below it by name before anything runs, and every comparison with NaN is false.
    """

    def __gt__(self, value: float) -> bool:
        return not float(value) >= float(self)


class _Number(str):
    """Types of an input whose widget the host reads as FLOAT, and which takes links of both types."""

    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        return other == io.Float.io_type or str(self) == other

    def __ne__(self, other: object) -> bool:
        return not self == other


class IntOrFloat(io.MultiType.Input):
    """A float widget that also takes the INT of another node, such as ComfyUI's own Int node."""

    def __init__(self, widget: io.Input) -> None:
        super().__init__(widget, [io.Int])

    def get_io_type(self) -> str:
        # Of a plain union the host would convert no value to a float, nor a text of a script.
        return _Number(super().get_io_type())


def real_input(name: str, *, default: float, low: float, high: float, **others: Any) -> io.Input:
    """A float widget."""
    return io.Float.Input(name, default=default, min=Least(low), max=high, **others)
