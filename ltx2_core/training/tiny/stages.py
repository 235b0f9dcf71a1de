"""The stages of ``ltx2 train tiny``, from new weights to a model set in ComfyUI's folders.

A stage whose output files exist is skipped; remove them to run it again. A stopped stage resumes from its
state.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

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
from ..latents import LatentCache
from ..loop import History, averaged_weights
from ..lora import LoraAdapters, save_lora
from ..network import FlowNetwork, official_names
from ..text import load_text
from .diffusion import LoraRecipe, load_averaged, train_distilled, train_edges, train_flow
from .gemma import GEMMA_LAYERS, GEMMA_WIDTH, write_world_gemma
from .latents import Encoders, write_latents
from .run import Run, Unfinished, prefixed, save_tensors, without_prefix

logger = logging.getLogger(__name__)

OnStage = Callable[[str, str], None]
"""Called with the name of a stage and "starts", "exists", "done" or "stopped"."""


def run_stages(run: Run, stages: Sequence[str] | None = None, *, on_stage: OnStage | None = None) -> None:
    """Run ``stages`` (default: all) in the order of ``STAGES``, skipping those whose output exists.

    Raises ValueError for an unknown stage or one whose inputs are missing, and Unfinished at the time limit.
    """
    selected = list(STAGES) if stages is None else list(stages)
    unknown = [stage for stage in selected if stage not in STAGES]
    if unknown:
        raise ValueError(f"unknown stages {', '.join(unknown)}; choose from {', '.join(STAGES)}")
    report = on_stage or (lambda stage, event: None)
    # In the order of the table, whatever the order of the selection: later stages read files of earlier ones.
    for stage in STAGES:
        if stage not in selected:
            continue
        if all(path.exists() for path in run.outputs(stage)):
            older = [need for need in NEEDS[stage] if _newer(run, need, stage)]
            # A warning only: the files may have been copied, which changes their times.
            if older:
                logger.warning(
                    "%s is older than %s: remove its files to run it again", stage, ", ".join(older)
                )
            report(stage, "exists")
            continue
        missing = [n for n in NEEDS[stage] if not all(p.exists() for p in run.outputs(n))]
        if missing:
            raise ValueError(f"stage {stage} needs {', '.join(missing)} first: run them in the same folder")
        report(stage, "starts")
        begin = time.monotonic()
        try:
            STAGES[stage](run)
        # Reaching the time limit is planned: the stage resumes from its state in the next run.
        except Unfinished:
            report(stage, "stopped")
            raise
        finally:
            # Counted for a failed stage too, because the time limit is one of the whole run.
            run.spend(stage, time.monotonic() - begin)
        report(stage, "done")


def _newer(run: Run, one: str, other: str) -> bool:
    """Whether an output of stage ``one`` was written after one of stage ``other``."""
    times = [path.stat().st_mtime for path in run.outputs(one) if path.exists()]
    # The newest input against the oldest output: any output may be out of date.
    return bool(times) and max(times) > min(path.stat().st_mtime for path in run.outputs(other))


def stage_text(run: Run) -> None:
    """Write the text encoder.

    It is not trained: random hidden states distinguish words, which the projection learns.
    """
    write_world_gemma(run.models.text_encoder, prompts=run.prompts, seed=run.seed)


def stage_video_code(run: Run) -> None:
    """Compute the principal components of the world's clips."""
    code = principal_code(VIDEO_CHANNELS, sizes=run.scale.code_sizes, seed=run.seed)
    save_tensors(run.part("video-code"), code.tensors())


def stage_video_encoder(run: Run) -> None:
    """Fit a linear encoder to the code, and train it further if the scale has steps for that."""

    def start(vae: VideoVAE, code: VideoCode) -> None:
        scale = run.scale
        start_linear_encoder(
            vae.encoder, code, sizes=scale.code_sizes, steps=scale.linear_steps, seed=run.seed
        )

    _train_half(run, "encoder", run.scale.video_encoder, start, train_video_encoder)


def stage_video_decoder(run: Run) -> None:
    """Fit the layers of the decoder in turn, and train it further if the scale has steps for that."""

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
    """Train ``half`` of the autoencoder: from start weights, from its state, or from what ``start`` fits."""
    stage = f"video-{half}"
    recipe, code = run.sized(stage, recipe), _code(run)
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
    statistics = prefixed("vae.per_channel_statistics.", vae.per_channel_statistics)
    save_tensors(run.part(stage), prefixed(f"vae.{half}.", network) | statistics)


def stage_audio_vae(run: Run) -> None:
    """Train the audio autoencoder and set its statistics."""
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
    """Train the vocoder on true mels and on those of the audio autoencoder."""
    recipe = run.sized("vocoder", run.scale.vocoder)
    state = run.state("vocoder")
    config = cfg.vocoder_config(run.scale.config)
    vocoder, _ = train_vocoder(
        config,
        cfg.audio_vae_config(run.scale.config),
        state,
        recipe=recipe,
        pair=_audio_pair(run).to(run.device),
        seed=run.seed,
        options=run.options(),
        device=run.device,
    )
    run.check_finished("vocoder", recipe.total_steps)
    tensors = prefixed("vocoder.", vocoder)
    if config.bwe is not None:
        tensors |= stored_transforms(config.bwe, "vocoder.mel_stft.")
    save_tensors(run.part("vocoder"), tensors)


def stage_latents(run: Run) -> None:
    """Encode the clips of all buckets and their captions."""
    folder = run.folder / "latents"

    def on_shard(done: int, count: int) -> None:
        logger.info("latents: %d of %d shards", done, count)
        if done < count:
            run.check_time()

    write_latents(
        folder,
        run.scale.buckets,
        partial(_encoders, run),
        shard_clips=run.scale.shard_clips,
        workers=run.workers,
        on_shard=on_shard,
    )
    # Shards of an unfinished run exist too, so a file of its own marks the end.
    (folder / "complete").touch()


def _encoders(run: Run) -> Encoders:
    gemma, tokenizer = load_text(run.models.text_encoder)
    return Encoders(video=_code(run), audio=_audio_pair(run).encoder, gemma=gemma, tokenizer=tokenizer)


def stage_transformer(run: Run) -> None:
    """Train transformer, connectors and text projection by flow matching."""
    recipe = run.sized("transformer", run.scale.transformer)
    state = run.state("transformer")
    network = _flow_network(run)
    if run.start("transformer").exists():
        _load_flow(network, run.start("transformer"))
    began = time.monotonic()
    train_flow(
        network,
        _cache(run),
        run.unconditional(),
        state,
        recipe=recipe,
        seed=run.seed,
        options=run.options(),
    )
    spent = time.monotonic() - began
    run.check_finished("transformer", recipe.total_steps, after=spent, seconds=recipe.seconds)
    save_tensors(run.part("transformer"), official_names(averaged_weights(state)))


def stage_upsampler(run: Run) -> None:
    """Train the spatial x2 upsampler of latents."""
    recipe = run.sized("upsampler", run.scale.upsampler)
    upsampler, _ = train_upsampler(
        cfg.upsampler_config(run.scale.upsampler_config),
        _code(run).to(run.device),
        run.state("upsampler"),
        recipe=recipe,
        seed=run.seed,
        options=run.options(),
        device=run.device,
    )
    run.check_finished("upsampler", recipe.total_steps)
    metadata = {"config": json.dumps(run.scale.upsampler_config)}
    save_tensors(run.models.upsampler, upsampler.state_dict(), dtype=torch.bfloat16, metadata=metadata)


def stage_distilled(run: Run) -> None:
    """Train the LoRA for eight steps without guidance."""
    _train_lora(run, "distilled", run.scale.distilled, train_distilled, run.distilled)


def stage_edges(run: Run) -> None:
    """Train the IC-LoRA that follows a control video of edges."""
    # Readers of IC-LoRAs recognise them by this key.
    metadata = {"reference_downscale_factor": "1"}
    _train_lora(run, "edges", run.scale.edges, train_edges, run.edges, metadata)


def _train_lora(
    run: Run,
    stage: str,
    recipe: LoraRecipe,
    train: Callable[..., History],
    path: Path,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Train a LoRA on the frozen model, and write it to ``path``."""
    network, adapters = _adapted(run, recipe)
    flow, state = run.sized(stage, recipe.flow), run.state(stage)
    train(
        network,
        adapters,
        _cache(run),
        run.unconditional(),
        state,
        recipe=flow,
        seed=run.seed,
        options=run.options(),
    )
    run.check_finished(stage, flow.total_steps)
    load_averaged(adapters, state)
    save_lora(path, adapters.tensors(), metadata=metadata)


def _flow_network(run: Run) -> FlowNetwork:
    network = FlowNetwork(
        run.scale.config, hidden_size=GEMMA_WIDTH, num_states=GEMMA_LAYERS + 1, seed=run.seed
    )
    return network.to(run.device)


def _load_flow(network: FlowNetwork, path: Path) -> None:
    tensors = load_file(path)
    # ``tensors()`` keeps the order of the state dict and changes names only.
    own = {name: tensors[full] for name, full in zip(network.state_dict(), network.tensors(), strict=True)}
    network.load_state_dict(own, strict=True)


def _adapted(run: Run, recipe: LoraRecipe) -> tuple[FlowNetwork, LoraAdapters]:
    """The trained network, frozen, and new LoRA adapters on its transformer."""
    network = _flow_network(run)
    _load_flow(network, run.part("transformer"))
    network.requires_grad_(False)
    return network, LoraAdapters(network.transformer, rank=recipe.rank, targets=recipe.targets, seed=run.seed)


def _code(run: Run) -> VideoCode | VideoVAE:
    """The video code, or, in a run that starts from an existing set, the encoder that has learnt it."""
    tensors = load_file(run.part("video-code"))
    # The file may also hold a whole encoder, which then stands in for the code.
    if "basis" in tensors:
        return VideoCode(**tensors)
    vae = VideoVAE(cfg.video_vae_config(run.scale.config)).requires_grad_(False)
    for name in ("encoder", "per_channel_statistics"):
        vae.get_submodule(name).load_state_dict(without_prefix(f"vae.{name}.", tensors))
    return vae


def _audio_pair(run: Run) -> AudioPair:
    pair = AudioPair(cfg.audio_vae_config(run.scale.config))
    for half in (pair.encoder, pair.decoder):
        run.load(half, run.part("audio-vae"), "audio_vae.")
    return pair


def _cache(run: Run) -> LatentCache:
    return LatentCache(run.folder / "latents", run.scale.buckets, run.device)


def stage_export(run: Run) -> None:
    """Write all parts into one file in the released layout."""
    tensors: dict[str, Tensor] = {}
    for name in PARTS:
        tensors |= load_file(run.part(name))
    metadata = {"config": json.dumps(run.scale.config), "model_version": "2.3.0-tiny"}
    # In bfloat16, as official checkpoints are stored.
    save_tensors(run.models.checkpoint, tensors, dtype=torch.bfloat16, metadata=metadata)


PARTS = ("video-encoder", "video-decoder", "audio-vae", "vocoder", "transformer")
"""The stages whose networks are in the checkpoint."""

STAGES: dict[str, Callable[[Run], None]] = {
    "text": stage_text,
    "video-code": stage_video_code,
    "video-encoder": stage_video_encoder,
    "video-decoder": stage_video_decoder,
    "audio-vae": stage_audio_vae,
    "vocoder": stage_vocoder,
    "latents": stage_latents,
    "transformer": stage_transformer,
    "upsampler": stage_upsampler,
    "distilled": stage_distilled,
    "edges": stage_edges,
    "export": stage_export,
}
"""All stages, in the order in which they run."""

NEEDS: dict[str, tuple[str, ...]] = {
    "text": (),
    "video-code": (),
    "video-encoder": ("video-code",),
    "video-decoder": ("video-code", "video-encoder"),
    "audio-vae": (),
    "vocoder": ("audio-vae",),
    "latents": ("text", "video-code", "audio-vae"),
    "transformer": ("text", "latents"),
    "upsampler": ("video-code",),
    "distilled": ("transformer",),
    "edges": ("transformer",),
    "export": PARTS,
}
"""The stages whose outputs a stage reads."""
