"""A checkpoint's transformer as a ComfyUI MODEL: its conditioning, masks and memory."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypedDict

import comfy.conds
import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.sd
import comfy.supported_models
import comfy.utils
import torch
from torch import Tensor

from ...ltx2_core.conditioning.patchify import patchify_audio, patchify_video
from ...ltx2_core.config import TextConfig, TransformerConfig, text_config, transformer_config
from ...ltx2_core.loading.components import COMFY_QK_NORM_EPS, as_comfy
from ...ltx2_core.loading.detect import Component
from ...ltx2_core.storage.dequantize import COMPANIONS
from ...ltx2_core.types import Numerics
from .foreign import refuse_changes_without_effect
from .gguf_layers import GgufPatcher, GgufWeights, count_decoding
from .known_clip import KNOWN, KnownClip, at_level, with_groups
from .known_conds import AUDIO_MASK, VIDEO_MASK, KnownConds
from .ltx_video import is_ltx_video
from .network import HostTransformer
from .patcher import forget_tables_when_idle, is_dynamic, make_patcher
from .previews import add_av_previews
from .prompt_parts import PARTS, PromptParts
from .recipe import remember_recipe
from .values import Model, Options
from .weights import Config, Tensors, load_exactly, read_weights

PREFIX = "model.diffusion_model."
DTYPES = [torch.bfloat16, torch.float32]


def load_model(
    *paths: str | Path, disable_dynamic: bool = False, numerics: Numerics = Numerics.COMFY
) -> Model:
    """Load the transformer of a checkpoint, or of files that hold its parts, as a ModelPatcher.

    The network is this pack's, and computes what the version of ComfyUI in ``numerics`` does; that of
    LTX-Video is ComfyUI's own. Weights of a GGUF file stay in blocks, which no patcher streams. Raises
    ValueError if the files hold no LTX-2 transformer with its text connectors, or if weights do not fit.
    """
    weights = read_weights(*paths)
    if is_ltx_video(weights.checkpoints):
        # Its graphs then give what they give with ComfyUI's own loader, to the bit.
        return load_host_model(*paths, disable_dynamic=disable_dynamic)
    parts = (Component.TRANSFORMER, Component.TEXT_CONNECTORS)
    tensors, gguf = weights.take_quantised(*parts), weights.take_gguf(*parts)
    config = LTX2Config(_network_arguments(weights.config, numerics))
    # The host reads its dtypes from the configuration when it builds the network.
    _choose_dtypes(config, tensors, gguf)
    load_device = comfy.model_management.get_torch_device()
    offload_device = comfy.model_management.unet_offload_device()
    # Built where it is offloaded to: the host moves it to the GPU when it runs, as far as there is room.
    model = LTX2Model(config, device=offload_device)
    remember_recipe(model, weights.source(Component.TRANSFORMER))
    if gguf.layers:
        patcher = GgufPatcher(model, load_device, offload_device)
    else:
        patcher = make_patcher(model, load_device, offload_device, dynamic=not disable_dynamic)
    # A dynamic patcher streams weights from the file's memory map, which copying into parameters would load
    # whole.
    load_exactly(model.diffusion_model, tensors, f"transformer of {weights.name}", assign=is_dynamic(patcher))
    gguf.check_taken(weights.name)
    if gguf.layers:
        count_decoding(model)
    # The host calls this again where it needs a second, independent copy of the model, such as one that is
    # not dynamic.
    again = load_model if numerics is Numerics.COMFY else load_model_as_host
    patcher.cached_patcher_init = (again, tuple(map(str, paths)))
    forget_tables_when_idle(patcher)
    add_av_previews(patcher, *paths)
    refuse_changes_without_effect(patcher)
    return patcher


def load_model_as_host(*paths: str | Path, disable_dynamic: bool = False) -> Model:
    """Load the transformer as :func:`load_model` does, to compute what the ComfyUI that runs would.

    Versions of ComfyUI differ in the formulas of a block; :func:`numerics_of_host` chooses among them.
    """
    return load_model(*paths, disable_dynamic=disable_dynamic, numerics=numerics_of_host())


def numerics_of_host() -> Numerics:
    """Which version of ComfyUI this pack's network must reproduce to agree with the ComfyUI that runs.

    Since ComfyUI 0.31 the audio of a block attends to the video after this block has updated the video by the
    audio, and not before. All later versions are taken to do the same.
    """
    # The host's own file, which every version since 0.3 has.
    from comfyui_version import __version__

    numbers = [int(number) for number in re.findall(r"\d+", __version__)[:2]]
    return Numerics.COMFY_033 if numbers >= [0, 31] else Numerics.COMFY


def load_host_model(*paths: str | Path, disable_dynamic: bool = False) -> Model:
    """Load the same files as :func:`load_model`, into ComfyUI's own network in place of this pack's.

    Its results are those of the installed ComfyUI version, and every pack that changes ComfyUI's LTX-2
    network works. With ``disable_dynamic`` weights are loaded and not streamed from the file. Raises
    ValueError if the files hold no transformer, or one that this ComfyUI version does not support.
    """
    weights = read_weights(*paths)
    # LTX-Video has no networks between text encoder and transformer.
    text = () if is_ltx_video(weights.checkpoints) else (Component.TEXT_CONNECTORS,)
    parts = (Component.TRANSFORMER, *text)
    tensors, gguf = weights.take_quantised(*parts), weights.take_gguf(*parts)
    # The host takes its configuration from the metadata of a file, in which it is JSON text.
    patcher = comfy.sd.load_diffusion_model_state_dict(
        {f"{PREFIX}{name}": tensor for name, tensor in tensors.items()},
        metadata={"config": json.dumps(weights.config)},
        model_options=_gguf_options(tensors, gguf) if gguf.layers else {},
        disable_dynamic=disable_dynamic or bool(gguf.layers),
    )
    # The host only logs tensors that its network has no place for, such as those of a later generation.
    known = {} if patcher is None else patcher.model.diffusion_model.state_dict()
    left = [n for n in tensors if n not in known and n.rpartition(".")[2] not in COMPANIONS]
    if left:
        raise ValueError(
            f"{weights.name}: the network of this ComfyUI does not have {left[0]} and {len(left) - 1} more "
            "of its tensors. Set network to LTX-2, or update ComfyUI"
        )
    if gguf.layers:
        gguf.check_taken(weights.name)
        count_decoding(patcher.model)
        patcher = GgufPatcher(patcher.model, patcher.load_device, patcher.offload_device)
    remember_recipe(patcher.model, weights.source(Component.TRANSFORMER))
    patcher.cached_patcher_init = (load_host_model, tuple(map(str, paths)))
    return patcher


class LatentFormatAV(comfy.latent_formats.LTXAV):
    """ComfyUI's latent format without its own previews.

    Since 0.30 ComfyUI draws a preview of the video alone at every step, next to this pack's preview of both
    streams.
    """

    taesd_decoder_name = None

    def __init__(self) -> None:
        super().__init__()
        # The factors and the decoder name are how the host finds out that it can preview a format.
        self.latent_rgb_factors = self.latent_rgb_factors_bias = None


class LTX2Config(comfy.supported_models.LTXAV):
    """ComfyUI's description of its LTX-2 models, by which packs detect them, for this pack's network."""

    latent_format = LatentFormatAV

    def process_clip_state_dict_for_saving(self, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        """Rename the tensors of a text encoder as a saved checkpoint has them.

        All but those of the text projection get the prefix of the text encoder.
        """
        (prefix,) = self.text_encoder_key_prefix
        return {
            name if name.startswith("text_embedding_projection.") else prefix + name: tensor
            for name, tensor in state_dict.items()
        }


class LTX2Model(comfy.model_base.LTXAV):
    """The model around this pack's network, as a subclass of ComfyUI's own LTX-2 model.

    So ComfyUI's type checks, names of LoRA layers and context windows work with it.
    """

    def __init__(self, config: LTX2Config, device: torch.device | None = None) -> None:
        # The parent's constructor would build the host's own network, so the grandparent's is called.
        comfy.model_base.BaseModel.__init__(
            self, config, comfy.model_base.ModelType.FLUX, device=device, unet_model=HostTransformer
        )
        # Other packs read here which family a model is of. It is no argument of this pack's network.
        config.unet_config |= comfy.supported_models.LTXAV.unet_config

    def extra_conds(self, **kwargs: Any) -> Options:
        """Convert the options of a conditioning to arguments of the network, once for each sampling run.

        The text connectors run here.
        """
        # The host's own method finds whatever this host passes to its network. Text is encoded below, once.
        out: Options = super().extra_conds(**{**kwargs, "cross_attn": None})
        text = kwargs.get("cross_attn")
        if text is not None:
            text = text.to(device=kwargs["device"], dtype=self.get_dtype_inference())
            unprocessed = kwargs.get("unprocessed_ltxav_embeds", False)
            out["c_crossattn"] = _regular(self.diffusion_model.preprocess_text_embeds(text, unprocessed))
            parts: PromptParts | None = kwargs.get(PARTS)
            if parts is not None:
                out[PARTS] = _constant(parts.encoded(partial(self._encoded, text)))
        shapes, mask = kwargs.get("latent_shapes"), kwargs.get("concat_mask", kwargs.get("denoise_mask"))
        # The host packs the masks of both streams like the latents; the network needs them apart.
        if mask is not None:
            masks = [mask] if shapes is None else comfy.utils.unpack_latents(mask, shapes)
            out.update(zip((VIDEO_MASK, AUDIO_MASK), map(_regular, masks), strict=False))
        keyframes = kwargs.get("keyframe_idxs")
        if mask is not None or keyframes is not None:
            found = {name: out[name] for name in (VIDEO_MASK, AUDIO_MASK) if name in out}
            out[KNOWN] = KnownConds(found, keyframes)
        # The host's own network assumes 25 frames a second where no node states a rate.
        out["frame_rate"] = _constant(kwargs.get("frame_rate", 25))
        for name, wrap in (
            ("attention_mask", _regular),
            ("keyframe_idxs", _regular),
            ("latent_shapes", _constant),
            ("guide_attention_entries", _constant),
            ("ref_audio", _constant),
            ("generated_keyframes", _constant),
        ):
            if kwargs.get(name) is not None:
                out[name] = wrap(kwargs[name])
        return out

    def _encoded(self, like: Tensor, text: Tensor, unprocessed: bool) -> Tensor:
        """Run the text connectors on ``text``, in the dtype and on the device of ``like``."""
        context: Tensor = self.diffusion_model.preprocess_text_embeds(text.to(like), unprocessed)
        return context

    def process_timestep(
        self,
        timestep: Tensor,
        x: Tensor | None = None,
        denoise_mask: Tensor | None = None,
        audio_denoise_mask: Tensor | None = None,
        **conds: Any,
    ) -> tuple[Tensor, Tensor]:
        """Return the noise levels of video and audio, from ``timestep`` (B,), the noise level of the step.

        Each is (B,), or (B, tokens) if the mask of the stream is not 1 everywhere: the mask multiplies the
        noise level.
        """
        known = conds.get(KNOWN) or KnownClip()
        known = known.fitting(denoise_mask, audio_denoise_mask)
        video = audio = timestep
        if denoise_mask is not None:
            video = _masked(timestep, patchify_video(denoise_mask[:, :1]), "video", known)
        if audio_denoise_mask is not None:
            audio = _masked(timestep, patchify_audio(audio_denoise_mask[:, :1, :, :1]), "audio", known)
        return video, audio

    def scale_latent_inpaint(self, sigma: Tensor, noise: Tensor, latent_image: Tensor, **more: Any) -> Tensor:
        """Return ``latent_image``, the preserved content of a masked latent, without noise at any ``sigma``.

        ComfyUI's other models add noise here. This one gives preserved tokens the timestep 0 instead.
        """
        return latent_image


def _masked(timestep: Tensor, mask: Tensor, stream: str, known: KnownClip) -> Tensor:
    """Multiply timesteps (B,) by a mask of tokens (B, tokens, 1), to timesteps (B, tokens).

    If the mask is 1 everywhere, as ``known`` says of ``stream``, the timesteps (B,) are returned unchanged.
    """
    levels = known.levels(stream, len(mask), mask.dtype, timestep.device)
    # One value for all tokens lets the modulation be computed once a sample instead of once a token.
    if levels is None:
        return timestep
    return with_groups(mask[..., 0] * timestep[:, None], at_level(levels, timestep))


class NetworkArguments(TypedDict):
    """The keyword arguments with which ComfyUI constructs this pack's network ``HostTransformer``.

    They are the configurations of the transformer and of the text connectors.
    """

    config: TransformerConfig
    text: TextConfig


def _network_arguments(config: Config, numerics: Numerics) -> NetworkArguments:
    """Read the configuration of the network from ``config``, the configuration in a checkpoint.

    ``numerics`` says which version of ComfyUI the network must reproduce where versions differ.
    """
    text = text_config(config)
    return {
        # 1e-5, where the header says 1e-6: with it the results of both networks can be compared in ComfyUI.
        "config": as_comfy(transformer_config(config), numerics),
        "text": replace(
            text,
            video=replace(text.video, qk_norm_eps=COMFY_QK_NORM_EPS),
            audio=replace(text.audio, qk_norm_eps=COMFY_QK_NORM_EPS),
        ),
    }


def _gguf_options(tensors: Tensors, gguf: GgufWeights) -> Options:
    """Options with which ComfyUI builds its network for weights in blocks."""
    host = comfy.model_management
    parameters = comfy.utils.calculate_parameters(tensors)
    dtype = host.unet_dtype(model_params=parameters, supported_dtypes=DTYPES)
    return {"dtype": dtype, "custom_operations": gguf.operations(dtype, host.get_torch_device())}


def _choose_dtypes(config: LTX2Config, tensors: Tensors, gguf: GgufWeights) -> None:
    """Set in ``config`` the dtypes of storage and computation that ComfyUI would choose for its own models.

    ``tensors`` are the weights, whose number, dtype and quantisation decide. With weights in blocks in
    ``gguf`` the classes of layers that take them are set too.
    """
    host = comfy.model_management
    if gguf.layers:
        options = _gguf_options(tensors, gguf)
        config.custom_operations = options["custom_operations"]
        dtype, device = options["dtype"], host.get_torch_device()
        config.set_inference_dtype(dtype, host.unet_manual_cast(dtype, device, DTYPES))
        return
    quantised = comfy.utils.detect_layer_quantization(tensors, "")
    if quantised:
        config.quant_config = quantised
    stored = None if quantised else comfy.utils.weight_dtype(tensors)
    parameters = comfy.utils.calculate_parameters(tensors)
    dtype = host.unet_dtype(model_params=parameters, supported_dtypes=DTYPES, weight_dtype=stored)
    device = host.get_torch_device()
    # Quantised layers cast for themselves, so no manual cast is chosen for them from a storage dtype.
    config.set_inference_dtype(dtype, host.unet_manual_cast(None if quantised else dtype, device, DTYPES))


def _regular(value: Tensor) -> Any:
    return comfy.conds.CONDRegular(value)


def _constant(value: Any) -> Any:
    return comfy.conds.CONDConstant(value)
