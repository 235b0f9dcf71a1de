"""Runs the transformer for one call of ComfyUI: converts its arguments to tokens, and velocities to latents.

Letters: B batch, C channels, F latent frames, H W latent rows and columns, T audio latent frames, S text
tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from torch import Tensor

from ...ltx2_core.kernels.language import problem as kernel_problem
from ...ltx2_core.transformer import Hidden, Modality, RopeMemory, Runner, Transformer
from ...ltx2_core.transformer.chunks import Chunks
from ...ltx2_core.transformer.fused import Fused
from ...ltx2_core.transformer.nag import NegativeText
from ...ltx2_core.transformer.tiles import TileMemory, evaluate_tiles
from .block_calls import BlockCalls
from .block_queue import BlockQueue
from .forking import FORK, Fork, Late
from .guides import Entry, GuideTokens, Slots, guide_tokens, single_frame_marks
from .host_attention import attend_for
from .known_clip import KnownClip
from .modalities import audio_modality, velocities_of, video_modality
from .perturbing import perturbations_of
from .prompt_parts import PromptParts, timed
from .values import ReferenceAudio

Options = Mapping[str, Any]
"""ComfyUI's ``transformer_options``, which come with every call of the network: name -> value."""

NAG = "ltx2_nag"
"""Key in ``transformer_options`` of the settings of normalised attention guidance and its negative text."""
TILES = "ltx2_tiles"
"""Key in ``transformer_options`` of the tiles in which the transformer computes the frame."""
FUSED = "ltx2_fused"
"""Key in ``transformer_options``: whether fused kernels are used; by default on a GPU with Triton."""


@dataclass(frozen=True, kw_only=True)
class Call:
    """The arguments with which ComfyUI calls the network once, sorted by video and audio.

    Attributes:
        video, audio: latents (B, 128, F, H, W) and (B, 8, T, 16); audio is None or of length 0 without audio.
        timesteps: noise levels in [0, 1] of video and audio, (B,) or one for each token (B, tokens).
        contexts: text contexts of video and audio (B, text tokens, width of the stream).
        context_mask: which text tokens are valid, the same for both contexts; None if all are.
        fps: frames of the clip per second.
        options: ComfyUI's ``transformer_options``, to which nodes add what they change.
        guide_coordinates: pixel frame, row and column of the video's last tokens, each as start and end
            (exclusive): (B, 3, guide tokens, 2); None or empty without guides.
        denoise_mask: mask of the video (B, C or 1, F, H, W); negative values mark tokens that a guide lacks.
        entries: number of tokens and attention weight of each guide.
        keyframes: latent frames that stand for one pixel frame and not for eight; None if only the first one.
        reference: a reference audio whose tokens are added to those of the clip; None without one.
        prompt_parts: the texts of parts of the clip; None if one text is for all of it.
        known: what mask and coordinates say, on the CPU.
    """

    video: Tensor
    audio: Tensor | None
    timesteps: tuple[Tensor, Tensor]
    contexts: Sequence[Tensor]
    context_mask: Tensor | None
    fps: float
    options: Options
    guide_coordinates: Tensor | None
    denoise_mask: Tensor | None
    entries: list[Entry]
    keyframes: Slots | None
    reference: ReferenceAudio | None
    prompt_parts: PromptParts | None = None
    known: KnownClip = field(default_factory=KnownClip)

    def guides(self) -> GuideTokens | None:
        """Which of the video's tokens are guides, and where they lie; None without guides."""
        if self.guide_coordinates is None or not self.guide_coordinates.shape[2]:
            return None
        count = self.video[0, 0].numel()
        mask = None if self.denoise_mask is None else self.known.video
        # The host passes coordinates in the dtype of the network, and the same entries in a new list.
        keyframes, entries = self.known.keyframes, self.entries
        assert keyframes is not None
        dtype = self.guide_coordinates.dtype
        return self.known.made(
            ("guides", count, dtype, mask is None, *map(id, entries)),
            lambda: guide_tokens(keyframes.to(dtype), mask, entries, count),
        )

    def streams(self, guides: GuideTokens | None) -> tuple[Modality, Modality | None]:
        """Convert both latents to the transformer's inputs: tokens with positions, noise levels and text.

        Returns (video, audio), the audio None if the call has none. ``guides`` is the result of
        :meth:`guides`.
        """
        # The mask of the text is one for both streams: their contexts are equally long and were joined by
        # width.
        video = replace(
            video_modality(self.video, self.timesteps[0], self.fps, self.contexts[0], guides, self.known),
            context_mask=self.context_mask,
            keyframes=single_frame_marks(self.video, self.keyframes, guides),
            enabled=self.options.get("run_vx", True),
        )
        audio = None
        if self.audio is not None and self.audio.numel():
            audio = replace(
                audio_modality(self.audio, self.timesteps[1], self.contexts[1], self.reference, self.known),
                context_mask=self.context_mask,
                enabled=self.options.get("run_ax", True),
            )
        if NAG in self.options:
            negatives = _negative_texts(self.options, self.contexts)
            video = replace(video, negative=negatives[0])
            audio = None if audio is None else replace(audio, negative=negatives[1])
        widths = [context.shape[-1] for context in self.contexts]
        video = timed(video, self.prompt_parts, 0, widths, self.fps)
        return video, None if audio is None else timed(audio, self.prompt_parts, 1, widths, self.fps)


def velocities(
    network: Transformer,
    call: Call,
    *,
    chunks: Chunks,
    rope_memory: RopeMemory,
    tile_memory: TileMemory | None = None,
    fused: Fused | None = None,
) -> list[Tensor] | Tensor:
    """Run the transformer for ``call``, one call of the network by ComfyUI; returns the latents' velocities.

    The result is [video, audio] in the shapes of the latents, or the tensor of the video if there is no
    audio. ``chunks`` says how many tokens the transformer's layers compute at a time; ``rope_memory`` reuses
    the rotary tables of earlier calls, and ``tile_memory`` their tiles; ``fused`` are the kernels, if the
    call uses them.
    """
    guides = call.guides()
    video, audio = call.streams(guides)
    perturbations = perturbations_of(call.options, len(call.video))
    samples, fork = len(call.video), call.options.get(FORK)

    def evaluate(
        video: Modality,
        audio: Modality | None,
        *,
        until: int | None = None,
        resume: tuple[int, Hidden] | None = None,
    ) -> Hidden:
        # All clones of a MODEL share the network, so that the kernels are chosen by each call.
        runner = Runner(
            network,
            chunk_tokens=chunks,
            fused=fused if _uses_kernels(call) else None,
            attend=attend_for(call.options),
            run_block=BlockCalls(call.options),
        )
        # Weights of blocks that do not run must not be fetched either.
        start = 0 if resume is None else resume[0]
        blocks = list(network.transformer_blocks)[start:until]
        queue = BlockQueue(blocks, start, call.video.device, call.options)
        rope = rope_memory.tables(network, video, audio)
        hidden = runner(
            video, audio, perturbations, rope=rope, on_block=queue.before, until=until, resume=resume
        )
        queue.finish()
        return hidden

    tiles, run = call.options.get(TILES), partial(evaluate, video, audio)
    if tiles is not None:
        streams = evaluate_tiles(evaluate, tiles, video, audio, tile_memory)
    elif isinstance(fork, Late):
        streams = fork.run(run, samples)
    elif isinstance(fork, Fork):
        streams = fork.passing(run, call.options["cond_or_uncond"], samples)
    else:
        streams = run()
    follows = call.reference is not None and call.reference.get("follows", False)
    return velocities_of(streams, call.video, call.audio, guides, follows=follows)


def _uses_kernels(call: Call) -> bool:
    """Whether fused kernels compute this call: on a GPU with Triton, unless the MODEL says otherwise."""
    chosen, device = call.options.get(FUSED), call.video.device
    if chosen is None:
        return device.type != "cpu" and kernel_problem(device) is None
    return bool(chosen) and kernel_problem(device) is None


def _negative_texts(options: Options, contexts: Sequence[Tensor]) -> list[NegativeText]:
    """The negative texts of normalised attention guidance for (video, audio), with their settings.

    Text and settings are read from ``options``. ``contexts`` are the positive texts (B, text tokens, width)
    of both streams: the negative text is split by their widths and repeated to their batch size.
    """
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
