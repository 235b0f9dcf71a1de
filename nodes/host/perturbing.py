"""Which attentions a call of the network skips, as this pack's guider and ComfyUI's options demand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Literal

from ...ltx2_core.transformer import Perturbation, Perturbations
from ...ltx2_core.transformer.perturbations import Blocks

Options = Mapping[str, Any]
ALL_BLOCKS: Literal["all"] = "all"
PERTURBATIONS = "ltx2_perturbations"
"""Key in the options of a call: the perturbation of each conditioning, in the order of the guider."""


def perturbations_of(options: Options, batch: int) -> Perturbations | None:
    """Return which attentions of which blocks each of the ``batch`` samples in a call skips; None for none.

    ``options`` are the ``transformer_options``: they hold what this pack's guider has set to be skipped and
    ComfyUI's own switches, which are combined.
    """
    off = _switched_off(options)
    if PERTURBATIONS in options:
        each = [_both(own, off) for own in options[PERTURBATIONS]]
        # The host decides which passes share a call and in which order, so that its list is read and not the
        # guider's.
        order = options["cond_or_uncond"]
        # One call of the host holds all samples of a pass, then those of the next one.
        return Perturbations(tuple(each[number] for number in order for _ in range(batch // len(order))))
    return None if off == Perturbation() else Perturbations((off,) * batch)


def _switched_off(options: Options) -> Perturbation:
    """The attentions that ComfyUI's own switches in ``options``, the ``transformer_options``, turn off.

    They are the same in every sample of the batch.
    """
    passing = tuple(options.get("stg_self_attn_blocks", ()))
    return Perturbation(
        video_self_attention=passing,
        audio_self_attention=passing,
        a2v=() if options.get("a2v_cross_attn", True) else ALL_BLOCKS,
        v2a=() if options.get("v2a_cross_attn", True) else ALL_BLOCKS,
    )


def _both(first: Perturbation, second: Perturbation) -> Perturbation:
    def joined(name: str) -> Blocks:
        parts: tuple[Blocks, Blocks] = getattr(first, name), getattr(second, name)
        return ALL_BLOCKS if ALL_BLOCKS in parts else (*parts[0], *parts[1])

    return Perturbation(**{field.name: joined(field.name) for field in fields(Perturbation)})
