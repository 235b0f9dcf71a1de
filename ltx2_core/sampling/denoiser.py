"""The denoiser: model, conditioning and guidance behind one call ``denoise(x, sigma) -> x0``.

Letters: B batch, C channels, F latent frames, H W latent rows and columns, T audio latent frames, N tokens,
G guide tokens, S text tokens, K text width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

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
from ..conditioning.reference import with_reference_positions
from ..transformer import GuideWeights, Modality, OnBlock, Perturbations, RopeTables, Transformer
from ..transformer.nag import NegativeText
from ..transformer.texts import TextMemory
from ..transformer.tiles import Tiles, evaluate_tiles
from ..types import AVLatent, Guide, LatentState, Numerics, TextContext
from .caching import Evaluations, Reuse, StepCache
from .guidance import Guidance, GuidanceAt, GuidanceSchedule, Nag, Pass
from .samplers.base import Estimates


class Denoiser:
    """Predicts x0 of a state with a model; one object serves one run, at any sigmas and with any sampler.

    The latent is float32 throughout, the model sees ``dtype``. Where the mask is 0 the given content comes
    back bit for bit. ``passes_per_call`` is how many passes of a step one call of the model may evaluate, for
    more memory (contexts of different length go one after the other all the same). ``nag`` lets the model
    read the negative prompt in the passes of the positive one. ``cache`` reuses velocities between steps,
    ``tiles`` shows the model a large frame in parts.
    ``on_block`` is called before each block of the model and may raise to stop within a step.
    """

    def __init__(
        self,
        model: Transformer,
        state: LatentState,
        positive: TextContext,
        negative: TextContext | None = None,
        *,
        guidance: GuidanceAt | None = None,
        nag: Nag | None = None,
        numerics: Numerics = Numerics.OFFICIAL,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
        passes_per_call: int = 1,
        cache: StepCache | None = None,
        tiles: Tiles | None = None,
        on_block: OnBlock | None = None,
    ) -> None:
        """``device`` is where model and latents are, by default that of the state.

        Raises ValueError if the guidance or ``nag`` needs a ``negative`` that is not given or a block that
        the model lacks, if both use the negative prompt, if a context has neither one sample nor as many
        as the state, or for a ``cache`` with ``tiles``.
        """
        if cache is not None and tiles is not None:
            raise ValueError("the step cache does not know tiles: use one of the two")
        if passes_per_call < 1:
            raise ValueError(f"passes_per_call={passes_per_call} must be at least 1, which is one by one")
        self._model, self._numerics, self._dtype, self._on_block = model, numerics, dtype, on_block
        self._guidance: GuidanceAt = Guidance() if guidance is None else guidance
        self._passes_per_call = passes_per_call
        self._clean = state.latent.to(device, torch.float32)
        self._mask = expand_mask(state.mask, state.latent).to(device, torch.float32)
        self._referenced = state.reference_audio is not None and self._clean.audio is not None
        contexts = self._contexts(positive, negative, nag)
        self._kept = _kept_tokens(state, self._clean.video)
        self._video = self._video_stream(state, {which: c.video for which, c in contexts.items()})
        heard = {which: c.audio for which, c in contexts.items()}
        self._reference = None if self._clean.audio is None else state.reference_audio
        self._audio = self._audio_stream(heard, self._reference)
        self._unreferenced = None if self._reference is None else self._audio_stream(heard, None)
        streams = [stream for stream in (self._video, self._audio) if stream is not None]
        if not streams:
            raise ValueError("the state has neither video nor audio: there is nothing to denoise")
        self._device = streams[0].mask.device
        self._rope = None if tiles is not None else self._rope_tables(self._audio)
        self._texts = TextMemory()
        self._tiles = tiles
        self._together = all(stream.contexts_agree for stream in streams)
        self._nag = nag
        self._reuse = None if cache is None else Reuse(cache, model)
        self._evaluated = self._reused = 0

    @property
    def evaluations(self) -> Evaluations:
        """How many passes the model has evaluated since this was made, and how many were reused."""
        return Evaluations(run=self._evaluated, reused=self._reused)

    def __call__(self, x: AVLatent, sigma: float) -> AVLatent:
        """x0 of ``x`` at noise level ``sigma`` in (0, 1], guided and with the given content in place."""
        guidance = self._guidance.at(sigma)
        x0 = self._estimates(x, sigma, guidance, self._needed(guidance))
        return blend(self._clean, guidance.combine(x0), self._mask)

    def pair(self, x: AVLatent, sigma: float) -> Estimates:
        """x0 as from a call, and what the negative prompt alone gives, evaluated whatever the guidance.

        Raises ValueError if there is no negative context.
        """
        if Pass.NEGATIVE not in self._known:
            raise ValueError("this sampler needs a negative prompt at any cfg: give its context")
        guidance = self._guidance.at(sigma)
        needed = {*self._needed(guidance), Pass.NEGATIVE}
        x0 = self._estimates(x, sigma, guidance, tuple(which for which in Pass if which in needed))
        negative = x0[Pass.NEGATIVE]
        if self._numerics is Numerics.OFFICIAL:
            negative = blend(self._clean, negative, self._mask)
        return Estimates(blend(self._clean, guidance.combine(x0), self._mask), negative)

    def keep(self, x: AVLatent) -> AVLatent:
        """Blend the given content into a state to which a sampler has added noise."""
        return x if self._numerics is Numerics.COMFY else blend(self._clean, x, self._mask)

    def _estimates(
        self, x: AVLatent, sigma: float, guidance: Guidance, passes: tuple[Pass, ...]
    ) -> dict[Pass, AVLatent]:
        """The clean estimates of a step, before guidance and given content."""
        x = x.to(self._device, torch.float32)
        taken: AVLatent | float = self._mask * sigma
        if self._numerics is Numerics.COMFY:
            # Kept content is shown clean, and the noise of the step is taken off whatever a cell's own level.
            x, taken = blend(self._clean, x, self._mask), sigma
        velocities: Mapping[Pass, AVLatent]
        if self._reuse is None:
            velocities = self._velocities(x, sigma, guidance, passes)
            self._evaluated += len(passes)
        else:
            velocities, evaluated = self._reuse(
                sigma,
                passes,
                lambda watch: self._velocities(x, sigma, guidance, passes, watch),
            )
            self._evaluated += evaluated
            self._reused += len(passes) - evaluated
        return {which: x - velocities[which] * taken for which in passes}

    def _velocities(
        self,
        x: AVLatent,
        sigma: float,
        guidance: Guidance,
        passes: tuple[Pass, ...],
        watch: OnBlock | None = None,
    ) -> dict[Pass, AVLatent]:
        """Velocities of ``x`` for each pass; ``watch`` hears of the blocks as ``on_block`` does."""
        size = self._passes_per_call if self._together else 1
        found: dict[Pass, AVLatent] = {}
        # The one without the reference has fewer tokens than the others.
        alone = tuple(which for which in passes if which is Pass.UNREFERENCED)
        others = tuple(which for which in passes if which is not Pass.UNREFERENCED)
        calls = [others[start : start + size] for start in range(0, len(others), size)]
        for call in (*calls, alone) if alone else calls:
            found.update(zip(call, self._evaluate(x, sigma, guidance, call, watch), strict=True))
        return found

    def _evaluate(
        self, x: AVLatent, sigma: float, guidance: Guidance, call: Sequence[Pass], watch: OnBlock | None
    ) -> list[AVLatent]:
        """Velocities of ``x`` for the passes in ``call``, from one evaluation of the model."""
        video = audio = None
        if x.video is not None and self._video is not None:
            tokens = patchify_video(x.video)
            tokens = tokens if self._kept is None else tokens[:, self._kept]
            video = self._video.modality(tokens.to(self._dtype), sigma, call, self._nag)
        plain = Pass.UNREFERENCED in call
        stream = self._unreferenced if plain else self._audio
        if x.audio is not None and stream is not None:
            heard = patchify_audio(x.audio)
            if self._reference is not None and not plain:
                voice = patchify_audio(self._reference).to(heard)
                heard = torch.cat((voice.expand(len(heard), -1, -1), heard), dim=1)
            audio = stream.modality(heard.to(self._dtype), sigma, call, self._nag)
        batch = len(self._mask.video if self._mask.video is not None else _present(self._mask.audio))
        perturbations = [guidance.perturbation(which) for which in call]
        apart = Perturbations(tuple(p for p in perturbations for _ in range(batch)))
        on_block = _both(self._on_block, watch)

        def evaluate(
            video: Modality | None, audio: Modality | None, rope: RopeTables | None = None
        ) -> tuple[Tensor | None, Tensor | None]:
            found: tuple[Tensor | None, Tensor | None] = self._model(
                video, audio, apart, rope=rope, texts=self._texts, on_block=on_block
            )
            return found

        if video is None or self._tiles is None:
            v, a = evaluate(video, audio, None if plain else self._rope)
        else:
            v, a = evaluate_tiles(evaluate, self._tiles, video, audio)
        latents = AVLatent(
            None
            if x.video is None
            else unpatchify_video(self._spread(_present(v).float()), *x.video.shape[2:]),
            None
            if x.audio is None
            else unpatchify_audio(_present(a)[:, -x.audio.shape[2] :].float(), x.audio.shape[3]),
        )
        return [_chunk(latents, number, len(call)) for number in range(len(call))]

    def _spread(self, tokens: Tensor) -> Tensor:
        """Video tokens (B, N, C) back among the holes of guides, which are 0."""
        if self._kept is None:
            return tokens
        whole = tokens.new_zeros(tokens.shape[0], len(self._kept), tokens.shape[2])
        whole[:, self._kept] = tokens
        return whole

    def _needed(self, guidance: GuidanceAt) -> tuple[Pass, ...]:
        """The passes of the guidance, less those that only a stream without anything to generate asks for."""
        video, audio = (
            mask is not None and bool((mask > 0).any()) for mask in (self._mask.video, self._mask.audio)
        )
        both = self._mask.video is not None and self._mask.audio is not None
        return tuple(
            which for which in guidance.passes(video=video, audio=audio) if both or which is not Pass.APART
        )

    def _contexts(
        self, positive: TextContext, negative: TextContext | None, nag: Nag | None
    ) -> dict[Pass, TextContext]:
        """The text that each pass reads; that of the negative one is there whenever it is given."""
        needed = self._needed(self._guidance)
        if Pass.UNREFERENCED in needed and not self._referenced:
            raise ValueError("identity guidance needs a reference sound: give one, or use identity 0")
        if Pass.NEGATIVE in needed and negative is None:
            raise ValueError("cfg is not 1, which needs a negative prompt: give its context, or use cfg 1")
        if nag is not None and negative is None:
            raise ValueError("nag needs a negative prompt: give its context")
        if nag is not None and Pass.NEGATIVE in needed:
            raise ValueError("nag takes the place of cfg: use cfg 1 with it, or leave nag out")
        layers = self._model.config.num_layers
        skipped = {block for g in _parts(self._guidance) for block in g.stg_blocks}
        if Pass.PERTURBED in needed and not all(0 <= block < layers for block in skipped):
            raise ValueError(
                f"stg_blocks {sorted(skipped)} are not all among the {layers} blocks of this model: "
                f"use numbers from 0 to {layers - 1}"
            )
        contexts = dict.fromkeys(needed, positive)
        self._known = {*needed}
        if negative is not None:
            contexts[Pass.NEGATIVE] = negative
            self._known.add(Pass.NEGATIVE)
        return contexts

    def _video_stream(self, state: LatentState, contexts: Mapping[Pass, Tensor]) -> _Stream | None:
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

    def _audio_stream(self, contexts: Mapping[Pass, Tensor], reference: Tensor | None) -> _Stream | None:
        latent, mask = self._clean.audio, self._mask.audio
        if latent is None or mask is None:
            return None
        positions = audio_positions(latent.shape[2])
        if reference is not None:
            positions = with_reference_positions(reference, positions)
            mask = torch.cat((mask.new_zeros(len(mask), 1, reference.shape[2], 1), mask), dim=2)
        return self._stream(mask, positions, contexts)

    def _stream(
        self,
        mask: Tensor,
        positions: Tensor,
        contexts: Mapping[Pass, Tensor],
        attention_mask: GuideWeights | None = None,
        keyframes: Tensor | None = None,
    ) -> _Stream:
        batch = len(mask)
        for context in contexts.values():
            if len(context) not in (1, batch):
                raise ValueError(
                    f"a text context has {len(context)} samples and the latent {batch}: give 1 or {batch}"
                )
        tokens = token_mask(mask)
        if self._kept is not None and mask.ndim == 5:
            tokens = tokens[:, self._kept]
        highest = tokens.amax(dim=1)
        # Passes that read the same text share the tensor, and so what is made of it.
        read = {id(c): c.to(mask.device, self._dtype).expand(batch, *c.shape[1:]) for c in contexts.values()}
        return _Stream(
            mask=highest[:, None] if bool((tokens == highest[:, None]).all()) else tokens,
            level=highest if self._numerics is Numerics.COMFY else (highest > 0).float(),
            positions=positions,
            contexts={which: read[id(c)] for which, c in contexts.items()},
            attention_mask=attention_mask,
            keyframes=keyframes,
        )

    def _rope_tables(self, audio: _Stream | None) -> RopeTables:
        """The rotary tables of this clip, made once as and where they are needed."""
        return self._model.rope_tables(
            None if self._video is None else self._video.positions,
            None if audio is None else audio.positions,
            dtype=self._dtype,
            device=self._device,
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
    contexts: Mapping[Pass, Tensor]
    attention_mask: GuideWeights | None
    keyframes: Tensor | None
    _joined: dict[tuple[Pass, ...], Tensor] = field(default_factory=dict)
    """Contexts of calls that evaluate several passes, the same tensors at every step."""

    @property
    def contexts_agree(self) -> bool:
        return len({context.shape[1] for context in self.contexts.values()}) == 1

    def modality(self, tokens: Tensor, sigma: float, call: Sequence[Pass], nag: Nag | None) -> Modality:
        """Tokens (B, N, C) at noise level ``sigma``, once for each pass in ``call``."""
        passes = len(call)
        return Modality(
            tokens=tokens.repeat(passes, 1, 1),
            timesteps=(self.mask * sigma).repeat(passes, 1),
            sigma=(self.level * sigma).repeat(passes),
            positions=self.positions,
            context=self._context(tuple(call)),
            attention_mask=self.attention_mask,
            keyframes=self.keyframes,
            negative=None if nag is None else self._negative(nag, passes),
        )

    def _context(self, call: tuple[Pass, ...]) -> Tensor:
        if len(call) == 1:
            return self.contexts[call[0]]
        if call not in self._joined:
            self._joined[call] = torch.cat([self.contexts[which] for which in call])
        return self._joined[call]

    def _negative(self, nag: Nag, passes: int) -> NegativeText:
        context = self._context((Pass.NEGATIVE,) * passes)
        return NegativeText(context=context, scale=nag.scale, alpha=nag.alpha, tau=nag.tau)


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


def _parts(guidance: GuidanceAt) -> tuple[Guidance, ...]:
    """The guidance of every range of sigma."""
    if isinstance(guidance, GuidanceSchedule):
        return tuple(entry for _, entry in guidance.entries)
    return (guidance,) if isinstance(guidance, Guidance) else ()


def _both(first: OnBlock | None, second: OnBlock | None) -> OnBlock | None:
    """One callback for two; the first is asked first."""
    if first is None or second is None:
        return first or second
    a, b = first, second

    def on_block(number: int) -> None:
        a(number)
        b(number)

    return on_block


def _present(x: Tensor | None) -> Tensor:
    assert x is not None
    return x
