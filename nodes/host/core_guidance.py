"""Spatio-temporal, modality and normalised attention guidance on ComfyUI's own LTX-2 network.

Not every ComfyUI version has options for these guidances. So attentions of its blocks are replaced by object
patches, as other packs do it; the replacements read what to do from the options of each call.

Letters: B batch, N tokens, S text tokens, W stream width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import comfy.conds
import comfy.model_base
import torch
from torch import Tensor, nn

from ...ltx2_core.sampling.guidance import Nag
from ...ltx2_core.transformer.nag import NegativeText
from ...ltx2_core.transformer.perturbations import Perturbation, sample_mask
from .call import NAG
from .perturbing import perturbations_of

Options = Mapping[str, Any]
Forward = Callable[..., Tensor]


def with_core_guidance(model: Any, *, stg: bool, apart: bool, nag: Nag | None) -> Any:
    """Clone a MODEL that has ComfyUI's own network, and replace its attentions for the guidances in use.

    ``stg`` is spatio-temporal guidance, ``apart`` modality guidance, and ``nag`` the settings of normalised
    attention guidance, None if it is off. Returns ``model`` itself if all are off. Raises ValueError if the
    network is not LTX-2.
    """
    if not (stg or apart or nag):
        return model
    if not isinstance(model.model, comfy.model_base.LTXAV):
        raise ValueError(
            "stg, modality guidance and nag need an LTX-2 model: connect that of LTX-2 Load Checkpoint or "
            "LTX-2 Load All, or set stg 0, modality 1 and nag_scale 1"
        )
    clone = model.clone()
    for number in range(len(model.model.diffusion_model.transformer_blocks)):
        for audio in (False, True):
            prefix = "audio_" if audio else ""
            if stg:
                _replace(clone, number, f"{prefix}attn1", _perturbed(number, audio=audio))
            if nag is not None:
                _replace(clone, number, f"{prefix}attn2", _guided())
    return clone


def core_switches(perturbation: Perturbation) -> dict[str, bool]:
    """The options of ComfyUI's network for a pass in which attention between video and audio is skipped.

    The keys are "a2v_cross_attn" (the video attends to the audio) and "v2a_cross_attn" (the reverse). The
    value is False if ``perturbation`` skips that attention in all blocks; if not, the key is left out.
    Whatever else ``perturbation`` skips is ignored.
    """
    # ComfyUI has one switch for each direction in all blocks, and none by block.
    found = {"a2v_cross_attn": perturbation.a2v, "v2a_cross_attn": perturbation.v2a}
    # Only those that are off: another node may have turned a direction off for the whole run.
    return {name: False for name, blocks in found.items() if blocks == "all"}


def with_negative_text(conds: Any, negative: Tensor) -> Any:
    """A copy of processed conditioning ``conds`` whose texts are followed by the ``negative`` text.

    ``negative`` is (B, text tokens, width); both texts are joined along the axis of tokens.
    """
    return [_followed(entry, negative) for entry in conds]


def _followed(entry: dict[str, Any], negative: Tensor) -> dict[str, Any]:
    # Both texts pass the projections and modulations of the network as one, which treat tokens alike.
    text = entry["model_conds"]["c_crossattn"].cond
    both = torch.cat((text, negative.to(text).expand(len(text), -1, -1)), dim=1)
    # A copy at both levels, since the entries belong to the run and are read again at the next step.
    return {**entry, "model_conds": {**entry["model_conds"], "c_crossattn": comfy.conds.CONDRegular(both)}}


def _replace(model: Any, number: int, name: str, wrap: Callable[[nn.Module, Forward], Forward]) -> None:
    part = f"diffusion_model.transformer_blocks.{number}.{name}"
    # The forward that another pack may have set is called by ours.
    underlying = model.get_model_object(f"{part}.forward")
    model.add_object_patch(f"{part}.forward", wrap(model.get_model_object(part), underlying))


def _perturbed(number: int, *, audio: bool) -> Callable[[nn.Module, Forward], Forward]:
    """Make the replacement of the self-attention of block ``number`` for spatio-temporal guidance.

    ``audio`` says whether it is the attention of the audio or of the video. For the samples of a batch that a
    call perturbs, each token gets its own projected value instead of the attended one.
    """

    def wrap(attention: Any, underlying: Forward) -> Forward:
        def forward(x: Tensor, *args: Any, transformer_options: Options, **more: Any) -> Tensor:
            perturbations = perturbations_of(transformer_options, len(x))
            switches = None if perturbations is None else perturbations.at(number)
            own = None if switches is None else (switches.audio if audio else switches.video).self_attention
            if own is None:
                return underlying(x, *args, transformer_options=transformer_options, **more)
            # Samples of one call may differ, so that both results are computed and chosen from by sample.
            passed = _passed_through(attention, x)
            if not any(own):
                return passed
            attended = underlying(x, *args, transformer_options=transformer_options, **more)
            return torch.where(sample_mask(own, torch.bool, x.device), attended, passed)

        return forward

    return wrap


def _passed_through(attention: Any, x: Tensor) -> Tensor:
    values: Tensor = attention.to_v(x)
    if attention.to_gate_logits is not None:
        gates = 2 * torch.sigmoid(attention.to_gate_logits(x))
        values = (values.unflatten(-1, (attention.heads, -1)) * gates.unsqueeze(-1)).flatten(-2)
    result: Tensor = attention.to_out(values)
    return result


def _guided() -> Callable[[nn.Module, Forward], Forward]:
    """Make the replacement of a text attention for normalised attention guidance.

    The replacement expects the positive text followed by the negative one in its context, attends to each of
    them, and combines both results.
    """

    def wrap(_attention: nn.Module, underlying: Forward) -> Forward:
        def forward(
            x: Tensor,
            context: Tensor,
            mask: Tensor | None = None,
            *,
            transformer_options: Options,
            **more: Any,
        ) -> Tensor:
            more["transformer_options"] = transformer_options
            if NAG not in transformer_options:
                return underlying(x, context=context, mask=mask, **more)
            nag, text = transformer_options[NAG]
            positive, negative = context.split((context.shape[1] - text.shape[1], text.shape[1]), dim=1)
            guidance = NegativeText(context=negative, scale=nag.scale, alpha=nag.alpha, tau=nag.tau)
            # The mask belongs to the positive text; the negative one has no padding, as its connectors
            # replaced it by registers.
            update = underlying(x, context=positive, mask=mask, **more)
            return guidance.guide(update, underlying(x, context=negative, mask=None, **more))

        return forward

    return wrap
