"""Reads how an IC-LoRA needs its reference video from the parameters that a LoRA loader passes on."""

from __future__ import annotations

from collections.abc import Mapping


def downscale_of(parameters: Mapping[str, object] | None) -> int:
    """How many times smaller than the clip the reference of an IC-LoRA is, from its ``parameters``.

    The result is 1 if they are None or do not say it.
    """
    return _factor(parameters, "reference_downscale_factor")


def every_of(parameters: Mapping[str, object] | None) -> int:
    """The n of an IC-LoRA that uses every n-th frame of its reference, from its ``parameters``.

    The result is 1, for all frames, if they are None or do not say it.
    """
    return _factor(parameters, "reference_temporal_scale_factor")


def _factor(parameters: Mapping[str, object] | None, name: str) -> int:
    """Read the factor ``name``, at least 1, from the parameters of an IC-LoRA.

    The result is 1 if the factor is missing or no number.
    """
    value = (parameters or {}).get(name, 1)
    try:
        # Metadata of third parties may hold strings or zeros, which mean no scaling.
        return max(1, round(float(value)))  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return 1
