"""The networks that flow matching trains together: transformer, connectors and text projection.

Letters: B batch, S text tokens of the context, K its width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ..conditioning.patchify import audio_positions, guide_positions, reference_positions, video_positions
from ..config import text_config, transformer_config
from ..storage.files import ParsedJson
from ..text import FeatureExtractor, TextConnectors
from ..text.connectors import Connector
from ..transformer import RopeTables, Transformer
from ..types import TextContext
from .text import TextBatch
from .timing import attend_near_in_time

_PREFIXES = {
    "transformer.": "model.diffusion_model.",
    # Official files store the connectors under the transformer's prefix.
    "connectors.": "model.diffusion_model.",
    "projection.": "text_embedding_projection.",
}


T = TypeVar("T")
Grid = tuple[int, int, int]


class TokenLayout(NamedTuple):
    """What the positions of the tokens of a forward pass depend on: lengths, sizes and frame rate.

    In addition to the tokens of video and audio there may be some of guides (single frames that condition the
    video) and of a control video.
    """

    grid: Grid
    """Latent frames, rows and columns of the video."""
    audio_latents: int
    fps: float
    guides: tuple[int, ...] = ()
    """Pixel frames of guides, which have one latent frame each."""
    reference: Grid | None = None
    """Latent frames, rows and columns of a control video."""
    reference_scale: int = 1
    """How much coarser the grid of the control video is than that of the video."""


class FlowNetwork(nn.Module):
    """Transformer, text connectors and text projection, with initial weights for training.

    Args:
        config: the ``config`` object of a checkpoint's header, which fixes their sizes.
        hidden_size: width of the text encoder.
        num_states: number of hidden states that the text encoder returns for each token.
        seed: seed of the initial weights.
    """

    def __init__(self, config: ParsedJson, *, hidden_size: int, num_states: int, seed: int = 0) -> None:
        super().__init__()
        text = text_config(config)
        self.transformer = Transformer(transformer_config(config))
        self.connectors = TextConnectors(text)
        self.projection = FeatureExtractor(text, hidden_size, num_states)
        self._cache: dict[tuple[object, torch.device], Any] = {}
        initialise(self, seed)
        freeze_cross_modal_gates(self.transformer)

    def context(self, text: TextBatch, length: int) -> TextContext:
        """Compute the text contexts (B, S, K) of both streams from the hidden states of the text encoder.

        S is ``length``, or more for longer prompts. The context of a prompt is filled up by learned
        registers, and at inference has 1024 tokens, most of them registers. A smaller ``length`` uses only
        the first registers, which makes a step several times cheaper; training must end with the full length.
        """
        if self.projection.per_token_norm:
            features = self.projection.padded(text.hidden, text.mask)
        else:
            features = self.projection(text.states(), text.mask)

        def connect(connector: Connector, features: Tensor) -> Tensor:
            registers = connector.learnable_registers
            # A longer prompt lengthens the context, so its tables are not those of ``length``.
            rope = None
            if text.mask.shape[1] <= length:
                rope = self._cached(
                    (length, id(connector)),
                    registers.device,
                    lambda: connector.rope(length, registers.device),
                )
            context: Tensor = functional_call(
                connector,
                {"learnable_registers": registers[:length]},
                (features, text.mask),
                {"length": length, "rope": rope},
            )
            return context

        return TextContext(
            connect(self.connectors.video_embeddings_connector, features.video),
            connect(self.connectors.audio_embeddings_connector, features.audio),
        )

    def positions(self, layout: TokenLayout, device: torch.device) -> tuple[Tensor, Tensor, RopeTables]:
        """Positions of the video (1, 3, N, 2) and audio (1, 1, N, 2) tokens, and their rotary tables.

        Positions are on the CPU, start and end of each token in seconds, and for video also in pixel rows and
        columns. Tables are on ``device``. Both are cached by ``layout`` and ``device``.
        """

        def compute() -> tuple[Tensor, Tensor, RopeTables]:
            fps = layout.fps
            video, audio = video_positions(*layout.grid, fps), audio_positions(layout.audio_latents)
            for frame in layout.guides:
                guide = guide_positions(1, *layout.grid[1:], fps, frame=frame)
                video = torch.cat((video, guide), dim=2)
            if layout.reference is not None:
                reference = reference_positions(*layout.reference, fps, space_scale=layout.reference_scale)
                video = torch.cat((video, reference), dim=2)
            return video, audio, self.transformer.rope_tables(video, audio, device=device)

        return self._cached(layout, device, compute)

    def _cached(self, key: object, device: torch.device, compute: Callable[[], T]) -> T:
        """Return ``compute()``, which runs only once for each pair of ``key`` and ``device``, then cached."""
        if (key, device) not in self._cache:
            with torch.no_grad():
                self._cache[key, device] = compute()
        value: T = self._cache[key, device]
        return value

    def tensors(self) -> dict[str, Tensor]:
        """All parameters under their names in a released single file."""
        return official_names(self.state_dict())


def official_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the parameters ``state`` of a :class:`FlowNetwork` to their names in a released single file."""
    tensors: dict[str, Tensor] = {}
    for name, tensor in state.items():
        own = next(prefix for prefix in _PREFIXES if name.startswith(prefix))
        tensors[_PREFIXES[own] + name[len(own) :]] = tensor
    return tensors


def freeze_cross_modal_gates(transformer: Transformer) -> None:
    """Exclude gates and modulation of cross-modal attention from training, at their present values.

    Early in training the other stream is only noise, so closing these gates lowers the loss first, and they
    do not open again: audio and video are then learnt independently, which no loss reveals
    (docs/tiny-model.md).
    """
    for name, parameter in transformer.named_parameters():
        cross_modal = "audio_to_video_attn" in name or "video_to_audio_attn" in name
        if (cross_modal and "to_gate_logits" in name) or "av_ca_" in name or "_a2v_ca_" in name:
            parameter.requires_grad_(False)


@torch.no_grad()
def initialise(network: FlowNetwork, seed: int) -> None:
    """Set the initial weights of ``network`` in place, so that each block is the identity.

    ``seed`` draws them. A velocity is mostly the noise of its input. The input projection is therefore an
    isometry and the head half its transpose. Gates are open, modulation is neutral, and the last layer of
    each branch is zero: unlike gates at zero (Peebles and Xie, 2023) this gives a branch gradients in the
    first step. Cross-modal attention starts near the time of the query (:mod:`.timing`).
    """
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in network.named_parameters():
        if name.endswith("norm.weight"):
            parameter.fill_(1)
        elif "learnable_registers" in name:
            parameter.normal_(generator=generator)
        elif "table" in name:
            parameter.zero_()
            # The fifth parameter of a cross-modal table, and every third one of the others.
            gates = parameter[4:] if "ca_" in name else parameter[2::3]
            gates.fill_(1)
        elif name.endswith(".bias") or any(part in name for part in _ZERO):
            parameter.zero_()
        else:
            # A uniform distribution with this bound has the variance 1 / inputs.
            bound = math.sqrt(3 / parameter.shape[-1])
            parameter.uniform_(-bound, bound, generator=generator)
    transformer = network.transformer
    for prefix in ("", "audio_"):
        into = transformer.get_parameter(f"{prefix}patchify_proj.weight")
        nn.init.orthogonal_(into, generator=generator)
        transformer.get_parameter(f"{prefix}proj_out.weight").copy_(into.mT / 2)
        # The head adds this embedding to its own shift and scale, which should start near neutral.
        transformer.get_parameter(f"{prefix}adaln_single.emb.timestep_embedder.linear_2.weight").mul_(0.3)
    attend_near_in_time(transformer)


_ZERO = ("adaln_single.linear.", "to_out.0.weight", "net.2.weight", "to_gate_logits", "keyframes_abs")
