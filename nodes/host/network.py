"""The transformer with the host's signature: latents, timesteps and conditioning in, velocities out.

Letters: B batch, C channels, F latent frames, H W latent rows and columns, T audio latent frames, N tokens,
S text tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import comfy.patcher_extension
import torch
from comfy.ldm.lightricks.symmetric_patchifier import AudioPatchifier, SymmetricPatchifier
from torch import Tensor

from ...ltx2_core.conditioning.patchify import (
    audio_positions,
    patchify_audio,
    patchify_video,
    unpatchify_audio,
    unpatchify_video,
    video_positions,
)
from ...ltx2_core.conditioning.reference import reference_audio_positions
from ...ltx2_core.config import TextConfig, TransformerConfig
from ...ltx2_core.out_of_memory import attempt
from ...ltx2_core.shapes import SPATIAL_SCALE, TEMPORAL_SCALE
from ...ltx2_core.text.connectors import TextConnectors
from ...ltx2_core.transformer import Modality, Perturbation, Perturbations, RopeMemory, Runner, Transformer
from ...ltx2_core.transformer.chunks import Chunks
from ...ltx2_core.transformer.nag import NegativeText
from ...ltx2_core.transformer.tiles import evaluate_tiles
from ...ltx2_core.types import TextFeatures
from .forking import FORK, Fork, Late
from .guides import Entry, GuideTokens, Slots, guide_attention, guide_tokens, single_frame_marks
from .progress import check_interrupted

Options = Mapping[str, Any]
ALL_BLOCKS: Literal["all"] = "all"
PERTURBATIONS = "ltx2_perturbations"
"""Key in the options of a call: the perturbation of each conditioning, in the order of the guider."""
NAG = "ltx2_nag"
"""Key in the options of a call: the settings of normalized attention guidance and its negative text."""
TILES = "ltx2_tiles"
"""Key in the options of a call: the tiles in which the frame is computed."""
FUSED = "ltx2_fused"
"""Key in the options of a call: its fused kernels."""


class HostTransformer(Transformer):
    """Transformer and text connectors in one network, under the names of released single files.

    Attributes that are not used here (`patchifier`, scale factors) are read by the host's own code and by
    other packs.
    """

    def __init__(
        self,
        config: TransformerConfig,
        text: TextConfig,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        operations: Any = torch.nn,
    ) -> None:
        super().__init__(config, dtype=dtype, device=device, operations=operations)
        connectors = TextConnectors(text, dtype=dtype, device=device, operations=operations)
        self.video_embeddings_connector = connectors.video_embeddings_connector
        self.audio_embeddings_connector = connectors.audio_embeddings_connector
        self.text_config = text
        self.rope_memory = RopeMemory()
        self.chunks = Chunks()
        # A module in a tuple is no submodule, which would give the connectors' weights a second name.
        self._connectors = (connectors,)
        # The host reads this attribute to choose the dtype of latents.
        self.dtype = dtype
        self.patchifier = SymmetricPatchifier(1, start_end=True)
        self.a_patchifier = AudioPatchifier(1, start_end=True)
        self.vae_scale_factors = (TEMPORAL_SCALE, SPATIAL_SCALE, SPATIAL_SCALE)
        self.causal_temporal_positioning = True
        self.inner_dim, self.audio_inner_dim = config.dim, config.audio_dim
        self.cross_attention_dim, self.audio_cross_attention_dim = config.dim, config.audio_dim
        self.caption_channels = config.caption_channels
        self.caption_proj_before_connector = not config.caption_projection
        self.in_channels = config.in_channels

    def preprocess_text_embeds(self, context: Tensor, unprocessed: bool = False) -> Tensor:
        """Text features (B, S, K) of valid tokens -> contexts of video and audio joined (B, 1024, Kv + Ka).

        A context that has been through the connectors already is returned unchanged.
        """
        video, audio = self.text_config.video.dim, self.text_config.audio.dim
        # The flag decides where widths coincide: features and contexts may be equally wide.
        if not unprocessed and context.shape[-1] == video + audio:
            return context
        widths = (video, audio) if self.text_config.per_token_norm else (video,)
        if context.shape[-1] != sum(widths):
            raise ValueError(
                f"the text conditioning is {context.shape[-1]} wide and this checkpoint takes {sum(widths)}: "
                "encode the prompt with a text encoder loaded for the same checkpoint"
            )
        parts = context.split(widths, dim=-1)
        # The CLIP returns valid tokens only; the connectors add the registers themselves.
        mask = torch.ones(context.shape[:2], dtype=torch.int64, device=context.device)
        features = TextFeatures(parts[0], parts[-1], mask)
        result = attempt("encoding the prompt", lambda: self._connectors[0](features))
        return torch.cat((result.video, result.audio), dim=-1)

    def forward(  # type: ignore[override]
        self,
        x: list[Tensor],
        timestep: Tensor | tuple[Tensor, Tensor],
        context: Tensor,
        attention_mask: Tensor | None = None,
        frame_rate: float = 25,
        transformer_options: Options = {},  # noqa: B006 the host's signature; it is only read
        keyframe_idxs: Tensor | None = None,
        denoise_mask: Tensor | None = None,
        **conds: Any,
    ) -> list[Tensor] | Tensor:
        """Velocities of the latents ``x`` = [video (B, 128, F, H, W), audio (B, 8, T, 16)].

        For a list of one video latent it returns a tensor. ``timestep`` comes from
        ``LTX2Model.process_timestep``.
        """
        wrappers = comfy.patcher_extension.get_all_wrappers(
            comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, transformer_options
        )
        # Other packs wrap the network by the host's patcher, so an evaluation must pass through its executor.
        run = comfy.patcher_extension.WrapperExecutor.new_class_executor(self._attempted, self, wrappers)
        velocities: list[Tensor] | Tensor = run.execute(
            x,
            timestep,
            context,
            attention_mask,
            frame_rate,
            transformer_options,
            keyframe_idxs,
            denoise_mask=denoise_mask,
            **conds,
        )
        return velocities

    def _attempted(self, *inputs: Any, **conds: Any) -> list[Tensor] | Tensor:
        """The velocities; the whole evaluation runs a second time if memory runs out.

        A pass that resumes from saved states has written into them, and runs once.
        """
        options = inputs[5] if len(inputs) > 5 else conds.get("transformer_options", {})
        again = not isinstance(options.get(FORK), Late)
        return attempt("sampling", lambda: self._velocities(*inputs, **conds), again=again)

    def _velocities(
        self,
        x: list[Tensor],
        timestep: Tensor | tuple[Tensor, Tensor],
        context: Tensor,
        attention_mask: Tensor | None,
        frame_rate: float,
        transformer_options: Options,
        keyframe_idxs: Tensor | None,
        denoise_mask: Tensor | None = None,
        guide_attention_entries: list[Entry] | None = None,
        ref_audio: dict[str, Tensor] | None = None,
        generated_keyframes: Slots | None = None,
        **_unused: Any,
    ) -> list[Tensor] | Tensor:
        # The host passes a bare tensor for video alone.
        latents = list(x) if isinstance(x, (list, tuple)) else [x]
        video_latent, audio_latent = latents[0], latents[1] if len(latents) > 1 else None
        times = timestep if isinstance(timestep, tuple) else (timestep, timestep)
        widths = (self.text_config.video.dim, self.text_config.audio.dim)
        contexts = context.split(widths, dim=-1)

        guides = None
        if keyframe_idxs is not None and keyframe_idxs.shape[2]:
            count = video_latent[0, 0].numel()
            guides = guide_tokens(keyframe_idxs, denoise_mask, guide_attention_entries or [], count)
        video = _video(video_latent, times[0], frame_rate, contexts[0], guides, guide_attention_entries or [])
        audio = None
        if audio_latent is not None and audio_latent.numel():
            audio = _audio(audio_latent, times[1], contexts[1], ref_audio)
        video = replace(
            video,
            context_mask=attention_mask,
            keyframes=single_frame_marks(video_latent, generated_keyframes, guides),
            enabled=transformer_options.get("run_vx", True),
        )
        if audio is not None:
            audio = replace(
                audio, context_mask=attention_mask, enabled=transformer_options.get("run_ax", True)
            )
        if NAG in transformer_options:
            negatives = _negative_texts(transformer_options, contexts)
            video = replace(video, negative=negatives[0])
            audio = None if audio is None else replace(audio, negative=negatives[1])

        perturbations = _perturbations(transformer_options, len(video_latent))
        samples, fork = len(video_latent), transformer_options.get(FORK)
        # Blocks before the fork do not run, so that the prefetch queue must not hold them either.
        start = fork.start(samples) if isinstance(fork, Late) else 0
        device = video_latent.device

        def evaluate(
            video: Modality, audio: Modality | None, **part: Any
        ) -> tuple[Tensor | None, Tensor | None]:
            # All clones of a MODEL share the network, so that the kernels are chosen by each call.
            runner = Runner(self, chunk_tokens=self.chunks, fused=transformer_options.get(FUSED))
            blocks = list(self.transformer_blocks)[start:]
            on_block = _on_block(blocks, start, device, transformer_options)
            rope = self.rope_memory.tables(self, video, audio)
            return runner(video, audio, perturbations, rope=rope, on_block=on_block, **part)

        tiles, run = transformer_options.get(TILES), partial(evaluate, video, audio)
        if tiles is not None:
            streams = evaluate_tiles(evaluate, tiles, video, audio)
        elif isinstance(fork, Late):
            streams = fork.run(run, samples)
        elif isinstance(fork, Fork):
            streams = fork.passing(run, transformer_options["cond_or_uncond"], samples)
        else:
            streams = run()
        return _latents(streams, video_latent, audio_latent, guides)


def with_option(model: Any, name: str, value: Any, *, what: str) -> Any:
    """A clone of MODEL with one more option in its calls.

    Raises ValueError where the network is the host's own; ``what`` names in it what needs the option.
    """
    if not isinstance(model.model.diffusion_model, HostTransformer):
        raise ValueError(
            f"{what} need the model of LTX-2 Load Checkpoint or LTX-2 Load All: connect that in place of the "
            "host's loader"
        )
    # The MODEL may be connected to other nodes, which must not see the option.
    clone = model.clone()
    options = clone.model_options
    clone.model_options = {
        **options,
        "transformer_options": {**options.get("transformer_options", {}), name: value},
    }
    return clone


def _video(
    latent: Tensor,
    timestep: Tensor,
    fps: float,
    context: Tensor,
    guides: GuideTokens | None,
    entries: list[Entry],
) -> Modality:
    _, _, frames, height, width = latent.shape
    tokens = patchify_video(latent)
    # Pixel frames first, seconds afterwards: the host multiplies by the reciprocal of the frame rate, and the
    # top rotary frequency makes that ulp visible.
    positions = video_positions(frames, height, width, fps=1.0)
    mask = None
    if guides is not None:
        present = guides.keep.to(latent.device)
        positions = positions.to(latent.device)
        tokens, positions = tokens[:, present], positions[:, :, present].repeat(len(latent), 1, 1, 1)
        # The host puts guide tokens at the end; their positions are those of the guide, not of the grid.
        if guides.count:
            positions[:, :, -guides.count :] = guides.coordinates.to(positions)
        if timestep.ndim > 1:
            timestep = timestep[:, present]
        mask = guide_attention(guides, entries)
    positions[:, 0] = positions[:, 0] * (1.0 / fps)
    timesteps = _token_timesteps(timestep)
    return Modality(
        tokens=tokens,
        timesteps=timesteps,
        # Preserved tokens have lower timesteps, so the largest one is the noise level of the stream.
        sigma=timesteps.amax(dim=1),
        positions=positions,
        context=context,
        attention_mask=mask,
    )


def _audio(
    latent: Tensor, timestep: Tensor, context: Tensor, reference: dict[str, Tensor] | None
) -> Modality:
    tokens, timesteps = patchify_audio(latent), _token_timesteps(timestep)
    positions = audio_positions(tokens.shape[1])
    if reference is not None:
        reference_tokens = reference["tokens"].to(tokens)
        length = reference_tokens.shape[1]
        # The reference is clean, which a timestep of 0 states.
        positions = torch.cat((reference_audio_positions(length), positions), dim=2)
        timesteps = torch.cat(
            (timesteps.new_zeros(len(latent), length), timesteps.expand(-1, tokens.shape[1])), dim=1
        )
        tokens = torch.cat((reference_tokens.expand(len(latent), -1, -1), tokens), dim=1)
    return Modality(
        tokens=tokens,
        timesteps=timesteps,
        sigma=timesteps.amax(dim=1),
        positions=positions,
        context=context,
    )


def _token_timesteps(timestep: Tensor) -> Tensor:
    """(B,), (B, N) or (B, N, 1) -> (B, N), or (B, 1) for one value a sample."""
    return timestep.reshape(len(timestep), -1)


def _perturbations(options: Options, batch: int) -> Perturbations | None:
    """The perturbation of each sample: from our guider, or from the host's switches of cross attention."""
    if PERTURBATIONS in options:
        each = options[PERTURBATIONS]
        order = options["cond_or_uncond"]
        # One call of the host holds all samples of a pass, then those of the next one.
        return Perturbations(tuple(each[number] for number in order for _ in range(batch // len(order))))
    a2v, v2a = options.get("a2v_cross_attn", True), options.get("v2a_cross_attn", True)
    if a2v and v2a:
        return None
    off = Perturbation(a2v=() if a2v else ALL_BLOCKS, v2a=() if v2a else ALL_BLOCKS)
    return Perturbations((off,) * batch)


def _negative_texts(options: Options, contexts: Sequence[Tensor]) -> list[NegativeText]:
    """The negative text of video and audio, repeated for the samples of ``contexts``."""
    nag, text = options[NAG]
    parts = text.to(contexts[0]).split([context.shape[-1] for context in contexts], dim=-1)
    return [
        NegativeText(
            context=part.repeat(len(context) // len(part), 1, 1),
            scale=nag.scale,
            alpha=nag.alpha,
            tau=nag.tau,
        )
        for part, context in zip(parts, contexts, strict=True)
    ]


def _latents(
    streams: tuple[Tensor | None, Tensor | None],
    video: Tensor,
    audio: Tensor | None,
    guides: GuideTokens | None,
) -> list[Tensor] | Tensor:
    """Token velocities back to latents; missing guide tokens and streams that did not run have velocity 0."""
    tokens, audio_tokens = streams
    if tokens is None:
        velocity = torch.zeros_like(video)
    else:
        if guides is not None:
            whole = tokens.new_zeros(len(video), len(guides.keep), tokens.shape[-1])
            whole[:, guides.keep.to(tokens.device)] = tokens
            tokens = whole
        velocity = unpatchify_video(tokens, *video.shape[2:])
    if audio is None or not audio.numel():
        return velocity
    if audio_tokens is None:
        return [velocity, torch.zeros_like(audio)]
    # Tokens of a reference precede those of the clip and are no part of the latent.
    return [velocity, unpatchify_audio(audio_tokens[:, -audio.shape[2] :])]


def _on_block(blocks: list[Any], start: int, device: torch.device, options: Options) -> Callable[[int], None]:
    """Stop between blocks when the user cancels; hosts that stream weights fetch the next block meanwhile."""
    try:
        # The module is imported here because older hosts do not have it.
        from comfy.model_prefetch import make_prefetch_queue, prefetch_queue_pop
    except ImportError:
        return lambda number: check_interrupted()
    queue = make_prefetch_queue(blocks, device, options)

    def on_block(number: int) -> None:
        check_interrupted()
        prefetch_queue_pop(queue, device, blocks[number - start])

    return on_block
