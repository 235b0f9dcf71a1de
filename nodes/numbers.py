"""Widgets of real numbers: NaN is refused with the widget's name, and an INT may be connected to them."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io


class Least(float):
    """The least value of a float widget, compared so that NaN counts as below it.

    ComfyUI refuses a value below the least one with the widget's name before anything runs, but every plain
    comparison with NaN is false.
    """

    def __gt__(self, value: float) -> bool:
        return not float(value) >= float(self)


class _Number(str):
    """The type of an input that ComfyUI takes for a FLOAT widget; FLOAT and INT may be connected to it."""

    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        return other == io.Float.io_type or str(self) == other

    def __ne__(self, other: object) -> bool:
        return not self == other


class IntOrFloat(io.MultiType.Input):
    """A float widget to which the INT of another node can be connected too, such as ComfyUI's Int node."""

    def __init__(self, widget: io.Input) -> None:
        super().__init__(widget, [io.Int])

    def get_io_type(self) -> str:
        # Of a plain union the host would convert no value to a float, nor a text of a script.
        return _Number(super().get_io_type())


def real_input(name: str, *, default: float | None, low: float, high: float, **others: Any) -> io.Input:
    """A float widget ``name`` for values from ``low`` to ``high``, which refuses NaN.

    ``default`` is None for one without a value of its own, which has to be connected. ``others`` are passed
    to ComfyUI's class of the widget.
    """
    return io.Float.Input(name, default=default, min=Least(low), max=high, **others)
