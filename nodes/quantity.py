"""Number widgets for options of the command line, with the bounds and the help of the table of options."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from comfy_api.latest import io

from ..ltx2_core.run.options import by_name
from .numbers import real_input

_FLAG = re.compile(r"--([a-z][a-z-]*)")


def quantity(
    option: str,
    default: float,
    *,
    name: str | None = None,
    low: float | None = None,
    high: float | None = None,
    step: float | None = None,
    more: str = "",
    text: str | None = None,
    flags: Mapping[str, str] = MappingProxyType({}),
    **others: Any,
) -> io.Input:
    """A number widget with the bounds and help that the table of command line options has for ``option``.

    The tooltip is the first sentence of the help. ``name`` is the widget's name; None takes that of the
    option. ``low`` and ``high`` replace the table's bounds, where it has none or a saved workflow may hold a
    value outside them; None leaves the table's. ``step`` is by how much the widget's arrows change the value.
    ``text`` replaces the help in the tooltip, unless it is None, and ``more`` is appended to the tooltip.
    ``flags`` maps command line flags that the help mentions to words for the node's inputs. ``others`` are
    passed to the widget.
    """
    declared = by_name(option)
    bounds = [own if own is not None else of for own, of in zip((low, high), declared.range, strict=True)]
    # ComfyUI has no widgets without bounds, unlike the options of the command line.
    assert None not in bounds, f"{option} has no bound in the table: state it"
    # The first sentence says what the option is; later ones are about the command line.
    sentence = declared.help.partition(". ")[0].rstrip(".")
    named = _FLAG.sub(lambda flag: flags.get(flag[1], flag[1].replace("-", "_")), sentence)
    tooltip = f"{text or named}. {more}".rstrip()
    if declared.kind == "int":
        whole = int(bounds[0] or 0), int(bounds[1] or 0)
        return io.Int.Input(
            name or option,
            default=int(default),
            min=whole[0],
            max=whole[1],
            step=None if step is None else int(step),
            tooltip=tooltip,
            **others,
        )
    return real_input(
        name or option,
        default=default,
        low=float(bounds[0] or 0),
        high=float(bounds[1] or 0),
        step=step,
        tooltip=tooltip,
        **others,
    )
