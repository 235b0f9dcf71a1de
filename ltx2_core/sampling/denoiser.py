"""The denoiser: model, conditioning and guidance behind one call ``denoise(x, sigma) -> x0``.

Letters: B batch, C channels, F latent frames, H W latent rows and columns, T audio latent frames, N tokens,
G guide tokens, S text tokens, K text width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..conditioning.masks import blend, expand_mask, token_mask
from ..conditioning.patchify import (
    audio_positions,
    patchify_audio,
    patchify_video,
    unpatchify_audio,
    unpatchify_video,
    video_positions,
)
from ..transformer import GuideWeights, Modality, OnBlock, Perturbations, RopeTables, Transformer
from ..types import AVLatent, Guide, LatentState, Numerics, TextContext
from .guidance import Guidance, Pass


class Denoiser:
    """Predicts x0 of a state with a model; one object serves one run, at any sigmas and with any sampler.

    The latent is float32 throughout, the model sees ``dtype``. Where the mask is 0 the given content comes
    back bit for bit. ``batch_guidance`` evaluates all passes of a step in one call of the model, for more
    memory (contexts of different length go one after the other all the same). ``on_block`` is called before
    each block of the model and may raise to stop within a step.
    """

    def __init__(
        self,
        model: Transformer,
        state: LatentState,
        positive: TextContext,
        negative: TextContext | None = None,
        *,
        guidance: Guidance | None = None,
        numerics: Numerics = Numerics.OFFICIAL,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
        batch_guidance: bool = False,
        on_block: OnBlock | None = None,
    ) -> None:
        """``device`` is where model and latents are, by default that of the state.

        Raises ValueError if the guidance needs a ``negative`` that is not given, or if a context has neither
        one sample nor as many as the state.
        """
        self._model, self._numerics, self._dtype, self._on_block = model, numerics, dtype, on_block
        self._guidance = Guidance() if guidance is None else guidance
        self._clean = state.latent.to(device, torch.float32)
        self._mask = expand_mask(state.mask, state.latent).to(device, torch.float32)
        self._passes = self._needed_passes()
        contexts = self._contexts(positive, negative)
        self._kept = _kept_tokens(state, self._clean.video)
        self._video = self._video_stream(state, [context.video for context in contexts])
        self._audio = self._audio_stream([context.audio for context in contexts])
        streams = [stream for stream in (self._video, self._audio) if stream is not None]
        if not streams:
            raise ValueError("the state has neither video nor audio: there is nothing to denoise")
        self._device = streams[0].mask.device
        self._rope = self._rope_tables()
        together = batch_guidance and all(stream.contexts_agree for stream in streams)
        each = range(len(self._passes))
        self._calls = [tuple(each)] if together else [(index,) for index in each]

    def __call__(self, x: AVLatent, sigma: float) -> AVLatent:
        """x0 of ``x`` at noise level ``sigma`` in (0, 1], guided and with the given content in place."""
        x = x.to(self._device, torch.float32)
        taken: AVLatent | float = self._mask * sigma
        if self._numerics is Numerics.COMFY:
            # Kept content is shown clean, and the noise of the step is taken off whatever a cell's own level.
            x, taken = blend(self._clean, x, self._mask), sigma
        x0 = {}
        for call in self._calls:
            for index, velocity in zip(call, self._velocities(x, sigma, call), strict=True):
                x0[self._passes[index]] = x - velocity * taken
        return blend(self._clean, self._guidance.combine(x0), self._mask)

    def keep(self, x: AVLatent) -> AVLatent:
        """Blend the given content into a state to which a sampler has added noise."""
        return x if self._numerics is Numerics.COMFY else blend(self._clean, x, self._mask)

    def _velocities(self, x: AVLatent, sigma: float, call: Sequence[int]) -> list[AVLatent]:
        """Velocities of ``x`` for the passes numbered in ``call``, from one evaluation of the model."""
        video = audio = None
        if x.video is not None and self._video is not None:
            tokens = patchify_video(x.video)
            tokens = tokens if self._kept is None else tokens[:, self._kept]
            video = self._video.modality(tokens.to(self._dtype), sigma, call)
        if x.audio is not None and self._audio is not None:
            audio = self._audio.modality(patchify_audio(x.audio).to(self._dtype), sigma, call)
        batch = len(self._mask.video if self._mask.video is not None else _present(self._mask.audio))
        perturbations = [self._guidance.perturbation(self._passes[index]) for index in call]
        v, a = self._model(
            video,
            audio,
            Perturbations(tuple(p for p in perturbations for _ in range(batch))),
            rope=self._rope,
            on_block=self._on_block,
        )
        v = None if v is None else self._spread(v.float())
        latents = AVLatent(
            None if x.video is None else unpatchify_video(_present(v), *x.video.shape[2:]),
            None if x.audio is None else unpatchify_audio(_present(a).float(), x.audio.shape[3]),
        )
        return [_chunk(latents, number, len(call)) for number in range(len(call))]

    def _spread(self, tokens: Tensor) -> Tensor:
        """Video tokens (B, N, C) back among the holes of guides, which are 0."""
        if self._kept is None:
            return tokens
        whole = tokens.new_zeros(tokens.shape[0], len(self._kept), tokens.shape[2])
        whole[:, self._kept] = tokens
        return whole

    def _needed_passes(self) -> tuple[Pass, ...]:
        """The passes of the guidance, less those that only a stream without anything to generate asks for."""
        video, audio = (
            mask is not None and bool((mask > 0).any()) for mask in (self._mask.video, self._mask.audio)
        )
        both = self._mask.video is not None and self._mask.audio is not None
        return tuple(
            which
            for which in self._guidance.passes(video=video, audio=audio)
            if both or which is not Pass.APART
        )

    def _contexts(self, positive: TextContext, negative: TextContext | None) -> list[TextContext]:
        """The text that each pass reads."""
        if negative is None and Pass.NEGATIVE in self._passes:
            raise ValueError("cfg is not 1, which needs a negative prompt: give its context, or use cfg 1")
        return [negative if negative and which is Pass.NEGATIVE else positive for which in self._passes]

    def _video_stream(self, state: LatentState, contexts: Sequence[Tensor]) -> _Stream | None:
        latent, mask = self._clean.video, self._mask.video
        if latent is None or mask is None:
            return None
        frames, height, width = latent.shape[2:]
        own = video_positions(frames - state.guide_frames, height, width, state.fps)
        positions = torch.cat((own, *(guide.positions.to(own) for guide in state.guides)), dim=2)
        first_frame = torch.zeros(1, positions.shape[2], 1, device=latent.device)
        first_frame[:, : height * width] = 1
        between_guides = 1.0 if self._numerics is Numerics.COMFY else 0.0
        weights = guide_attention(state.guides, between_guides=between_guides)
        if self._kept is not None:
            kept = self._kept.to(positions.device)
            positions, first_frame = positions[:, :, kept], first_frame[:, self._kept]
        return self._stream(mask, positions, contexts, attention_mask=weights, keyframes=first_frame)

    def _audio_stream(self, contexts: Sequence[Tensor]) -> _Stream | None:
        latent, mask = self._clean.audio, self._mask.audio
        if latent is None or mask is None:
            return None
        return self._stream(mask, audio_positions(latent.shape[2]), contexts)

    def _stream(
        self,
        mask: Tensor,
        positions: Tensor,
        contexts: Sequence[Tensor],
        attention_mask: GuideWeights | None = None,
        keyframes: Tensor | None = None,
    ) -> _Stream:
        batch = len(mask)
        for context in contexts:
            if len(context) not in (1, batch):
                raise ValueError(
                    f"a text context has {len(context)} samples and the latent {batch}: give 1 or {batch}"
                )
        tokens = token_mask(mask)
        if self._kept is not None and mask.ndim == 5:
            tokens = tokens[:, self._kept]
        highest = tokens.amax(dim=1)
        return _Stream(
            mask=highest[:, None] if bool((tokens == highest[:, None]).all()) else tokens,
            level=highest if self._numerics is Numerics.COMFY else (highest > 0).float(),
            positions=positions,
            contexts=tuple(c.to(mask.device, self._dtype).expand(batch, *c.shape[1:]) for c in contexts),
            attention_mask=attention_mask,
            keyframes=keyframes,
        )

    def _rope_tables(self) -> RopeTables:
        """The rotary tables of this clip, made once and where they are needed."""
        rope = self._model.rope_tables(
            None if self._video is None else self._video.positions,
            None if self._audio is None else self._audio.positions,
        )
        tables = {name: getattr(rope, name) for name in ("video", "audio", "video_cross", "audio_cross")}
        return RopeTables(
            **{name: t if t is None else t.to(self._dtype, self._device) for name, t in tables.items()}
        )


@dataclass(frozen=True, kw_only=True)
class _Stream:
    """What the model is told of one stream besides its tokens, the same at every step.

    ``mask`` (B, N), or (B, 1) where the tokens of a sample agree; ``level`` (B,) is the part of sigma that
    gates and text modulation see; ``contexts`` one (B, S, K) a pass.
    """

    mask: Tensor
    level: Tensor
    positions: Tensor
    contexts: tuple[Tensor, ...]
    attention_mask: GuideWeights | None
    keyframes: Tensor | None

    @property
    def contexts_agree(self) -> bool:
        return len({context.shape[1] for context in self.contexts}) == 1

    def modality(self, tokens: Tensor, sigma: float, call: Sequence[int]) -> Modality:
        """Tokens (B, N, C) at noise level ``sigma``, once for each pass numbered in ``call``."""
        passes = len(call)
        return Modality(
            tokens=tokens.repeat(passes, 1, 1),
            timesteps=(self.mask * sigma).repeat(passes, 1),
            sigma=(self.level * sigma).repeat(passes),
            positions=self.positions,
            context=torch.cat([self.contexts[index] for index in call]),
            attention_mask=self.attention_mask,
            keyframes=self.keyframes,
        )


def guide_attention(guides: Sequence[Guide], *, between_guides: float) -> GuideWeights | None:
    """Attention weights of a video with its guides; None if all are plain.

    A guide and the video see each other by its weight, two guides by ``between_guides``.
    """
    each = []
    for guide in guides:
        weight = torch.as_tensor(guide.attention, dtype=torch.float32).expand(guide.positions.shape[2])
        each.append(weight if guide.keep is None else weight[guide.keep.to(weight.device)])
    weights = GuideWeights(tuple(each), between=between_guides)
    return None if weights.plain else weights


def _kept_tokens(state: LatentState, video: Tensor | None) -> Tensor | None:
    """Which video tokens there are (N,), or None for all of them."""
    if video is None or all(guide.keep is None for guide in state.guides):
        return None
    guides = [
        torch.ones(guide.positions.shape[2], dtype=torch.bool) if guide.keep is None else guide.keep.cpu()
        for guide in state.guides
    ]
    own = video[0, 0].numel() - sum(len(guide) for guide in guides)
    return torch.cat((torch.ones(own, dtype=torch.bool), *guides)).to(video.device)


def _chunk(x: AVLatent, number: int, chunks: int) -> AVLatent:
    return x.map(lambda t: t.chunk(chunks)[number])


def _present(x: Tensor | None) -> Tensor:
    assert x is not None
    return x
