"""Reads what an IC-LoRA needs of its reference from the parameters that a loader passes on."""

from __future__ import annotations

from collections.abc import Mapping


def downscale_of(parameters: Mapping[str, object] | None) -> int:
    """How many times smaller than the clip the reference of an IC-LoRA is, from its ``parameters``."""
    return _factor(parameters, "reference_downscale_factor")


def every_of(parameters: Mapping[str, object] | None) -> int:
    """Every how many frames of its reference an IC-LoRA uses one, from its ``parameters``; 1 uses all."""
    return _factor(parameters, "reference_temporal_scale_factor")


def _factor(parameters: Mapping[str, object] | None, name: str) -> int:
    """Read the factor ``name`` from parameters, at least 1; 1 if it is missing or not a number."""
    value = (parameters or {}).get(name, 1)
    try:
        # Metadata of third parties may hold strings or zeros, which mean no scaling.
        return max(1, round(float(value)))  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return 1
