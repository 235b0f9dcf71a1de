"""The inputs of the model for a clip: positions, masks and texts, the same at every step, with the latent.

Letters: B batch, C channels, F latent frames, H W latent rows and columns, T audio latent frames, N tokens,
G guide tokens, S text tokens, K text width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from ..conditioning.masks import token_mask
from ..conditioning.patchify import (
    audio_positions,
    patchify_audio,
    patchify_video,
    unpatchify_audio,
    unpatchify_video,
    video_positions,
)
from ..conditioning.reference import beside_reference, reference_audio_positions
from ..conditioning.text_times import relayed_text, timed_texts
from ..transformer import GuideWeights, Modality
from ..transformer.nag import NegativeText
from ..transformer.timed_texts import TimedTexts
from ..transformer.timesteps import Groups, group_timesteps
from ..types import AVLatent, Guide, LatentState, Numerics, RelayedText, TextContext, TextsByTime
from .guidance import Nag, Pass

Pair = tuple[Modality | None, Modality | None]


class ClipInputs:
    """Both streams of a clip as the model takes them, for any guidance passes at any noise level.

    ``state`` is the clip; ``clean`` and ``mask`` are its latent and mask in float32 on the device of the run.
    ``contexts`` holds the encoded prompt of each pass. ``nag`` adds the negative prompt to attention (None:
    off); the model computes in ``dtype``. With ``limited`` the mask is the highest noise level of a token,
    else a factor of that of the step. Raises ValueError if there is neither video nor audio, or if the
    batch of a context is neither 1 nor that of the state.
    """

    def __init__(
        self,
        state: LatentState,
        clean: AVLatent,
        mask: AVLatent,
        contexts: Mapping[Pass, TextContext],
        *,
        nag: Nag | None,
        numerics: Numerics,
        dtype: torch.dtype,
        limited: bool = False,
    ) -> None:
        self.dtype, self._limited = dtype, limited
        self._nag, self._comfy = nag, numerics.is_comfy
        self._fps = state.fps
        self._present = _present_tokens(state, clean.video)
        self._video = self._video_stream(state, mask.video, _texts_of(contexts, "video"))
        texts = _texts_of(contexts, "audio")
        self._reference = None if clean.audio is None else state.reference_audio
        self._follows = state.reference_follows
        self._audio = self._audio_stream(mask.audio, texts, self._reference)
        # Built once next to the other, since a run with identity guidance alternates between both at every
        # step.
        self._unreferenced = None if self._reference is None else self._audio_stream(mask.audio, texts, None)
        streams = [stream for stream in (self._video, self._audio) if stream is not None]
        if not streams:
            raise ValueError("the state has neither video nor audio: there is nothing to denoise")
        self.batch, self.device = len(streams[0].mask), streams[0].mask.device
        self.joinable = all(stream.contexts_agree for stream in streams)
        """Whether passes with different text can share a call."""

    def modalities(self, x: AVLatent, sigma: float, passes: Sequence[Pass]) -> Pair:
        """The model's inputs (video, audio) for ``x`` at noise level ``sigma``.

        They are a batch with one copy of x per pass; None stands for an absent stream. The pass without the
        reference audio has fewer audio tokens, so it must be the only one of ``passes``.
        """
        video = audio = None
        if x.video is not None and self._video is not None:
            tokens = patchify_video(x.video)
            # References at a lower resolution have holes in their grid, which are no tokens.
            tokens = tokens if self._present is None else tokens[:, self._present]
            video = self._video.modality(tokens.to(self.dtype), sigma, passes, self._nag)
        plain = Pass.UNREFERENCED in passes
        stream = self._unreferenced if plain else self._audio
        if x.audio is not None and stream is not None:
            tokens = patchify_audio(x.audio)
            if self._reference is not None and not plain:
                reference = patchify_audio(self._reference).to(tokens)
                # One reference serves a whole batch.
                reference = reference.expand(len(tokens), -1, -1)
                tokens = beside_reference(reference, tokens, axis=1, follows=self._follows)
            audio = stream.modality(tokens.to(self.dtype), sigma, passes, self._nag)
        return video, audio

    def latents(self, x: AVLatent, video: Tensor | None, audio: Tensor | None) -> AVLatent:
        """Tokens (B, N, C) of both streams as float32 latents of the shape of ``x``; None stays None.

        The latent frames of guides, which condition the video and follow it, are included; their cells that
        have no token are 0. Tokens of the reference audio are dropped.
        """
        video_latent = audio_latent = None
        if x.video is not None and video is not None:
            # Back to float32 here, so that guidance and sampler subtract estimates without the rounding of
            # the model's dtype.
            video_latent = unpatchify_video(
                self._all_cells(video.float(), x.video[0, 0].numel()), *x.video.shape[2:]
            )
        if x.audio is not None and audio is not None:
            # The reference comes before the clip's tokens, or after them.
            length = x.audio.shape[2]
            own = audio[:, :length] if self._follows else audio[:, -length:]
            audio_latent = unpatchify_audio(own.float(), x.audio.shape[3])
        return AVLatent(video_latent, audio_latent)

    def _all_cells(self, tokens: Tensor, count: int) -> Tensor:
        """Video tokens (B, N, C) with zeros inserted for those of ``count`` latent cells that have no token.

        Such cells are in guides (what conditions the video) on a coarser grid than the clip.
        """
        if self._present is None:
            return tokens
        cells = tokens.new_zeros(tokens.shape[0], count, tokens.shape[2])
        cells[:, self._present] = tokens
        return cells

    def _video_stream(
        self, state: LatentState, mask: Tensor | None, contexts: Mapping[Pass, _Texts]
    ) -> _Stream | None:
        if mask is None:
            return None
        frames, height, width = mask.shape[2:]
        # Guides follow the video's own tokens and bring positions of their own.
        own = video_positions(frames - state.guide_frames, height, width, state.fps, times=state.times)
        positions = torch.cat((own, *(guide.positions.to(own) for guide in state.guides)), dim=2)
        single_frames = _single_frames(state.guides, frames * height * width, height * width).to(mask.device)
        # In ComfyUI guides attend to each other, in the official pipelines they do not.
        weights = guide_attention(state.guides, between_guides=1.0 if self._comfy else 0.0)
        if self._present is not None:
            present = self._present.to(positions.device)
            positions, single_frames = positions[:, :, present], single_frames[:, self._present]
        return self._stream(mask, positions, contexts, attention_mask=weights, keyframes=single_frames)

    def _audio_stream(
        self, mask: Tensor | None, contexts: Mapping[Pass, _Texts], reference: Tensor | None
    ) -> _Stream | None:
        if mask is None:
            return None
        positions = audio_positions(mask.shape[2])
        if reference is not None:
            length, join = reference.shape[2], partial(beside_reference, follows=self._follows)
            positions = join(reference_audio_positions(length).to(positions), positions, axis=2)
            # A mask of 0 is timestep 0: the reference is clean at every step.
            mask = join(mask.new_zeros(len(mask), 1, length, 1), mask, axis=2)
        return self._stream(mask, positions, contexts)

    def _stream(
        self,
        mask: Tensor,
        positions: Tensor,
        contexts: Mapping[Pass, _Texts],
        attention_mask: GuideWeights | None = None,
        keyframes: Tensor | None = None,
    ) -> _Stream:
        batch = len(mask)
        every = [text for each in contexts.values() for text in each.all]
        for context in every:
            if len(context) not in (1, batch):
                raise ValueError(
                    f"a text context has {len(context)} samples and the latent {batch}: give 1 or {batch}"
                )
        tokens = token_mask(mask)
        if self._present is not None and mask.ndim == 5:
            tokens = tokens[:, self._present]
        highest = tokens.amax(dim=1)
        # Passes of the same text share one tensor, by which the model caches what it computes of a text.
        texts = {id(c): c.to(mask.device, self.dtype).expand(batch, *c.shape[1:]) for c in every}
        return _Stream(
            # One value for a sample where all tokens agree saves modulation parameters for each token.
            mask=highest[:, None] if bool((tokens == highest[:, None]).all()) else tokens,
            # ComfyUI takes the highest timestep of the tokens, official pipelines the sigma of the step, or 0
            # if the stream is preserved as a whole.
            level=highest if self._comfy else (highest > 0).float(),
            positions=positions,
            contexts={which: texts[id(c.whole)] for which, c in contexts.items()},
            timed={
                which: c.timed(positions, texts, self._fps)
                for which, c in contexts.items()
                if c.by_time is not None
            },
            attention_mask=attention_mask,
            keyframes=keyframes,
            limited=self._limited,
        )


@dataclass(frozen=True)
class _Texts:
    """The texts of one pass for one stream: that of the whole clip (B, S, K), and those by time, if any.

    ``parts`` are the texts of ``by_time``, none if it is about the text of the whole clip.
    """

    whole: Tensor
    by_time: TextsByTime | RelayedText | None = None
    parts: tuple[Tensor, ...] = ()

    @property
    def all(self) -> tuple[Tensor, ...]:
        return self.whole, *self.parts

    def timed(self, positions: Tensor, texts: Mapping[int, Tensor], fps: float) -> TimedTexts:
        """The text of each token at ``positions``; ``texts`` are those to use, by the ``id`` of these."""
        whole, by_time = texts[id(self.whole)], self.by_time
        assert by_time is not None
        if isinstance(by_time, RelayedText):
            return relayed_text(whole, by_time, positions, fps)
        starts = [start for start, _ in by_time.parts]
        own = [texts[id(text)] for text in self.parts]
        return timed_texts(whole, list(zip(starts, own, strict=True)), by_time.fade_s, positions)


def _texts_of(contexts: Mapping[Pass, TextContext], stream: Literal["video", "audio"]) -> dict[Pass, _Texts]:
    texts = {}
    for which, context in contexts.items():
        by_time = context.by_time
        parts = by_time.parts if isinstance(by_time, TextsByTime) else ()
        own = tuple(getattr(part, stream) for _, part in parts)
        texts[which] = _Texts(getattr(context, stream), by_time, own)
    return texts


@dataclass(frozen=True, kw_only=True)
class _Stream:
    """The inputs of the model for one stream, without its tokens.

    ``mask`` (B, N) is the denoise mask of each token, or (B, 1) where the tokens of a sample have the same.
    With ``limited`` it is the highest noise level of a token, else a factor of the step's.
    ``level`` (B,) is the factor of sigma that gives the noise level of the whole stream, from which the gates
    between the streams and the modulation of text are computed. ``positions`` (1 or B, axes, N, 2) are the
    start and end of each token: in seconds, and for video also in pixel rows and columns. ``contexts`` holds
    one text (B, S, K) per pass, S text tokens of width K, and ``timed`` the texts of passes whose prompt
    changes with time. ``attention_mask`` has the attention weights of guides, the tokens that condition a
    video (None: all 1). ``keyframes`` (1, N, 1) is 1 on video tokens that stand for one pixel frame: those of
    latent frame 0, and of keyframes that the model generates itself next to the clip (LTX-2.5). It is 0 on
    others; None for audio.
    """

    mask: Tensor
    level: Tensor
    positions: Tensor
    contexts: Mapping[Pass, Tensor]
    timed: Mapping[Pass, TimedTexts]
    attention_mask: GuideWeights | None
    keyframes: Tensor | None
    limited: bool = False
    _joined: dict[tuple[Pass, ...], Tensor] = field(default_factory=dict)
    """Contexts of batches of several passes, the same tensors at every step."""
    _grouped: dict[int, Groups] = field(default_factory=dict)
    """For each number of passes, the tokens of equal mask. Finding them makes the CPU wait for a GPU."""

    @property
    def contexts_agree(self) -> bool:
        # Texts by time belong to all samples of a call.
        return not self.timed and len({context.shape[1] for context in self.contexts.values()}) == 1

    def modality(self, tokens: Tensor, sigma: float, passes: Sequence[Pass], nag: Nag | None) -> Modality:
        """The input of the model for ``tokens`` (B, N, C) at noise level ``sigma``.

        It is a batch with one copy of the tokens per pass. ``nag`` adds the negative prompt to the attention
        to text; None is off.
        """
        count, levels = len(passes), self._levels(len(passes))
        timesteps = self.mask.clamp(max=sigma) if self.limited else self.mask * sigma
        return Modality(
            tokens=tokens.repeat(count, 1, 1),
            timesteps=timesteps.repeat(count, 1),
            groups=levels.at_most(sigma) if self.limited else levels.times(sigma),
            sigma=(self.level * sigma).repeat(count),
            positions=self.positions,
            context=self._context(tuple(passes)),
            timed=self.timed.get(passes[0]) if count == 1 else None,
            attention_mask=self.attention_mask,
            keyframes=self.keyframes,
            negative=None if nag is None else self._negative(nag, count),
        )

    def _levels(self, count: int) -> Groups:
        """The tokens of a batch of ``count`` passes that have the same mask, and so the same timesteps."""
        if count not in self._grouped:
            mask, tokens = self.mask.repeat(count, 1), self.positions.shape[2]
            self._grouped[count] = group_timesteps(mask, tokens, mask.device)
        return self._grouped[count]

    def _context(self, passes: tuple[Pass, ...]) -> Tensor:
        if len(passes) == 1:
            return self.contexts[passes[0]]
        # The same tensor at every step, by which texts are looked up in their cache.
        if passes not in self._joined:
            self._joined[passes] = torch.cat([self.contexts[which] for which in passes])
        return self._joined[passes]

    def _negative(self, nag: Nag, count: int) -> NegativeText:
        context = self._context((Pass.NEGATIVE,) * count)
        return NegativeText(context=context, scale=nag.scale, alpha=nag.alpha, tau=nag.tau)


def guide_attention(guides: Sequence[Guide], *, between_guides: float) -> GuideWeights | None:
    """Attention weights between the tokens of a video and its guides, which condition it; None if all are 1.

    Attention between a guide and the video has the weight of the guide, in both directions. Attention between
    two guides has the weight ``between_guides``, 0 or 1; but where the later of the two is a keyframe that
    the model generates itself next to the clip (``generated``, LTX-2.5), it is always 1. The result has one
    tensor (g,) for each guide of g existing tokens, in the order of ``guides``.
    """
    each = []
    for guide in guides:
        weight = torch.as_tensor(guide.attention, dtype=torch.float32).expand(guide.positions.shape[2])
        # Cells without a token are removed here as they are from the tokens, or weights and tokens would be
        # out of step.
        each.append(weight if guide.valid is None else weight[guide.valid.to(weight.device)])
    # Generated keyframes attend to the guides before them as the video does.
    free = tuple(guide.generated for guide in guides)
    weights = GuideWeights(tuple(each), between=between_guides, free=free)
    return None if weights.plain else weights


def _single_frames(guides: Sequence[Guide], tokens: int, cells: int) -> Tensor:
    """Which of ``tokens`` video tokens stand for a single pixel frame: (1, N, 1), 1 for these, 0 for others.

    The N = ``tokens`` tokens are those of the clip followed by those of ``guides``. Marked with 1 are the
    ``cells`` tokens of the clip's first latent frame, and all tokens of those ``guides`` whose field
    ``generated`` is True: generated keyframes, extra single frames that the model samples together with the
    clip. All other guides (input images, clips and references) get 0, a single image too: LTX-2.5 does not
    mark them.
    """
    marks = torch.zeros(1, tokens, 1)
    marks[:, :cells] = 1
    start = tokens - sum(guide.positions.shape[2] for guide in guides)
    for guide in guides:
        stop = start + guide.positions.shape[2]
        marks[:, start:stop] = float(guide.generated)
        start = stop
    return marks


def _present_tokens(state: LatentState, video: Tensor | None) -> Tensor | None:
    """The numbers of those cells of the video latent, guides included, that have a token: (tokens,) int64.

    A cell is one frame, row and column of the latent. Only a guide on a coarser grid than the clip has cells
    without a token, between those of its grid. None if all cells have one, or without video.
    """
    if video is None or all(guide.valid is None for guide in state.guides):
        return None
    guides = [
        torch.ones(guide.positions.shape[2], dtype=torch.bool) if guide.valid is None else guide.valid.cpu()
        for guide in state.guides
    ]
    own = video[0, 0].numel() - sum(len(guide) for guide in guides)
    present = torch.cat((torch.ones(own, dtype=torch.bool), *guides))
    # Numbers and no flags, from which a GPU would have to be asked for the numbers at every step.
    return present.nonzero().flatten().to(video.device)
