"""The stages of ``ltx2 train tiny`` that train the autoencoders, the vocoder and the upsampler."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import partial

import torch
from safetensors.torch import load_file

from ... import config as cfg
from ...shapes import VIDEO_CHANNELS
from ...tiny.weights import stored_transforms
from ...video_vae import VideoVAE
from ..autoencoders.audio_vae import AudioPair, finish_audio_vae, train_audio_vae
from ..autoencoders.layerwise import fit_decoder
from ..autoencoders.linear_decoder import start_linear_decoder
from ..autoencoders.linear_encoder import start_linear_encoder
from ..autoencoders.upsampler import train_upsampler
from ..autoencoders.video_code import VideoCode, principal_code
from ..autoencoders.video_vae import (
    LATENT_NOISE,
    VideoVAERecipe,
    new_video_vae,
    train_video_decoder,
    train_video_encoder,
)
from ..autoencoders.vocoder import train_vocoder
from ..loop import History
from .run import Run, prefixed, save_tensors, without_prefix


def stage_video_code(run: Run) -> None:
    """Compute the video code, the principal components of clips of the synthetic world, and write them."""
    code = principal_code(VIDEO_CHANNELS, sizes=run.scale.code_sizes, seed=run.seed)
    save_tensors(run.part("video-code"), code.tensors())


def stage_video_encoder(run: Run) -> None:
    """Fit a linear video encoder, train it further if the recipe has steps, and write it.

    Its target is the video code, a fixed linear encoder of principal components.
    """

    def start(vae: VideoVAE, code: VideoCode) -> None:
        scale = run.scale
        start_linear_encoder(
            vae.encoder, code, sizes=scale.code_sizes, steps=scale.linear_steps, seed=run.seed
        )

    _train_half(run, "encoder", run.scale.video_encoder, start, train_video_encoder)


def stage_video_decoder(run: Run) -> None:
    """Fit the video decoder layer by layer, train it further if the recipe has steps, and write it."""

    def start(vae: VideoVAE, code: VideoCode) -> None:
        scale = run.scale
        levels = start_linear_decoder(vae.decoder, code, sizes=scale.code_sizes, seed=run.seed)
        codes = vae, code
        fit_decoder(vae.decoder, levels, codes, sizes=scale.fit_sizes, noise=LATENT_NOISE, seed=run.seed)

    _train_half(run, "decoder", run.scale.video_decoder, start, partial(train_video_decoder, encoded=True))


def _train_half(
    run: Run,
    half: str,
    recipe: VideoVAERecipe,
    start: Callable[[VideoVAE, VideoCode], None],
    train: Callable[..., History],
) -> None:
    """Train and write one half of the video autoencoder; ``half`` is "encoder" or "decoder".

    The half begins with the weights of trained models, if ``run`` continues from such, with the state of a
    stopped run, or else with what ``start`` computes. ``train`` then does the gradient steps of ``recipe``,
    if it has any.
    """
    stage = f"video-{half}"
    recipe, code = run.sized(stage, recipe), code_of(run)
    vae = new_video_vae(cfg.video_vae_config(run.scale.config), code, run.seed)
    network = vae.get_submodule(half)
    if half == "decoder":
        # The decoder is trained on latents of the finished encoder, not on those of the code that it was
        # fitted to.
        run.load(vae.encoder, run.part("video-encoder"), "vae.encoder.")
    if run.start(stage).exists():
        network.load_state_dict(without_prefix(f"vae.{half}.", load_file(run.start(stage))))
    # A state to resume from replaces the initial weights, so fitting them would be wasted minutes.
    elif isinstance(code, VideoCode) and not run.state(stage).exists():
        start(vae, code)
    # Channels-last is the faster layout of these convolutions.
    vae.to(device=run.device, memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    if recipe.total_steps:
        began = time.monotonic()
        code = code.to(run.device)
        train(vae, code, run.state(stage), recipe=recipe, seed=run.seed, options=run.options())
        spent = time.monotonic() - began
        run.check_finished(stage, recipe.total_steps, after=spent, seconds=recipe.seconds)
    # Written with either half, as released files of one half have them, too.
    statistics = prefixed("vae.per_channel_statistics.", vae.per_channel_statistics)
    save_tensors(run.part(stage), prefixed(f"vae.{half}.", network) | statistics)


def stage_audio_vae(run: Run) -> None:
    """Train the audio autoencoder, set its latent statistics, and write it."""
    recipe = run.sized("audio-vae", run.scale.audio_vae)
    state = run.state("audio-vae")
    config = cfg.audio_vae_config(run.scale.config)
    pair, _ = train_audio_vae(
        config, state, recipe=recipe, seed=run.seed, options=run.options(), device=run.device
    )
    run.check_finished("audio-vae", recipe.total_steps)
    finish_audio_vae(pair, recipe, clips=run.scale.statistics_clips, seed=run.seed)
    save_tensors(
        run.part("audio-vae"), prefixed("audio_vae.", pair.encoder) | prefixed("audio_vae.", pair.decoder)
    )


def stage_vocoder(run: Run) -> None:
    """Train the vocoder, on true mels and on those that the audio autoencoder decodes, and write it."""
    recipe = run.sized("vocoder", run.scale.vocoder)
    state = run.state("vocoder")
    config = cfg.vocoder_config(run.scale.config)
    vocoder, _ = train_vocoder(
        config,
        cfg.audio_vae_config(run.scale.config),
        state,
        recipe=recipe,
        pair=audio_pair(run).to(run.device),
        seed=run.seed,
        options=run.options(),
        device=run.device,
    )
    run.check_finished("vocoder", recipe.total_steps)
    tensors = prefixed("vocoder.", vocoder)
    if config.bwe is not None:
        tensors |= stored_transforms(config.bwe, "vocoder.mel_stft.")
    save_tensors(run.part("vocoder"), tensors)


def stage_upsampler(run: Run) -> None:
    """Train the spatial x2 upsampler of latents, and write it."""
    recipe = run.sized("upsampler", run.scale.upsampler)
    upsampler, _ = train_upsampler(
        cfg.upsampler_config(run.scale.upsampler_config),
        code_of(run).to(run.device),
        run.state("upsampler"),
        recipe=recipe,
        seed=run.seed,
        options=run.options(),
        device=run.device,
    )
    run.check_finished("upsampler", recipe.total_steps)
    metadata = {"config": json.dumps(run.scale.upsampler_config)}
    save_tensors(run.models.upsampler, upsampler.state_dict(), dtype=torch.bfloat16, metadata=metadata)


def code_of(run: Run) -> VideoCode | VideoVAE:
    """Load the video code, the fixed linear encoder that the video encoder is trained to compute.

    If ``run`` starts from the weights of trained models, return their video encoder instead, which has learnt
    the code.
    """
    tensors = load_file(run.part("video-code"))
    # The file may also hold a whole encoder, which then stands in for the code.
    if "basis" in tensors:
        return VideoCode(**tensors)
    vae = VideoVAE(cfg.video_vae_config(run.scale.config)).requires_grad_(False)
    for name in ("encoder", "per_channel_statistics"):
        vae.get_submodule(name).load_state_dict(without_prefix(f"vae.{name}.", tensors))
    return vae


def audio_pair(run: Run) -> AudioPair:
    pair = AudioPair(cfg.audio_vae_config(run.scale.config))
    for half in (pair.encoder, pair.decoder):
        run.load(half, run.part("audio-vae"), "audio_vae.")
    return pair
