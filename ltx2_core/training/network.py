"""What flow matching trains: transformer, connectors and text projection, as one network.

Letters: B batch, T tokens, S text tokens of the context.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ..conditioning.patchify import audio_positions, guide_positions, reference_positions, video_positions
from ..config import Json, text_config, transformer_config
from ..text import FeatureExtractor, TextConnectors
from ..text.connectors import Connector
from ..transformer import RopeTables, Transformer
from ..types import TextContext
from .text import TextBatch
from .timing import attend_near_in_time

_PREFIXES = {
    "transformer.": "model.diffusion_model.",
    "connectors.": "model.diffusion_model.",
    "projection.": "text_embedding_projection.",
}


T = TypeVar("T")
Grid = tuple[int, int, int]


class Places(NamedTuple):
    """Where tokens lie: latent ``grid`` (F, H, W), number of audio latents, frames of ``guides``, grid of a
    reference."""

    grid: Grid
    sounds: int
    fps: float
    guides: tuple[int, ...] = ()
    reference: Grid | None = None
    reference_scale: int = 1


class FlowNetwork(nn.Module):
    """Built from a checkpoint's configuration with weights ready to be trained from nothing."""

    def __init__(self, config: Json, *, hidden_size: int, num_states: int, seed: int = 0) -> None:
        super().__init__()
        text = text_config(config)
        self.transformer = Transformer(transformer_config(config))
        self.connectors = TextConnectors(text)
        self.projection = FeatureExtractor(text, hidden_size, num_states)
        self._made: dict[tuple[object, torch.device], Any] = {}
        initialise(self, seed)
        keep_open(self.transformer)

    def context(self, text: TextBatch, length: int) -> TextContext:
        """Gemma's states -> contexts (B, S, K) of both streams; S is ``length``, or more for longer prompts.

        Most of the context that inference uses is registers. A ``length`` below their number takes the first
        ones only, which makes a step several times cheaper; training should end with the full length.
        """
        if self.projection.per_token_norm:
            features = self.projection.padded(text.hidden, text.mask)
        else:
            features = self.projection(text.states(), text.mask)

        def connect(connector: Connector, features: Tensor) -> Tensor:
            registers = connector.learnable_registers
            given: dict[str, Any] = {"length": length}
            if text.mask.shape[1] <= length:
                given["rope"] = self._kept(
                    (length, id(connector)),
                    registers.device,
                    lambda: connector.rope(length, registers.device),
                )
            context: Tensor = functional_call(
                connector, {"learnable_registers": registers[:length]}, (features, text.mask), given
            )
            return context

        return TextContext(
            connect(self.connectors.video_embeddings_connector, features.video),
            connect(self.connectors.audio_embeddings_connector, features.audio),
        )

    def places(self, key: Places, device: torch.device) -> tuple[Tensor, Tensor, RopeTables]:
        """Positions of video and audio tokens, on the CPU, and their rotary tables on ``device``."""

        def make() -> tuple[Tensor, Tensor, RopeTables]:
            video, audio = video_positions(*key.grid, key.fps), audio_positions(key.sounds)
            for frame in key.guides:
                shown = guide_positions(1, *key.grid[1:], key.fps, frame=frame)
                video = torch.cat((video, shown), dim=2)
            if key.reference is not None:
                shown = reference_positions(*key.reference, key.fps, space_scale=key.reference_scale)
                video = torch.cat((video, shown), dim=2)
            return video, audio, self.transformer.rope_tables(video, audio, device=device)

        return self._kept(key, device, make)

    def _kept(self, key: object, device: torch.device, make: Callable[[], T]) -> T:
        """What depends on shapes only, made once."""
        if (key, device) not in self._made:
            with torch.no_grad():
                self._made[key, device] = make()
        found: T = self._made[key, device]
        return found

    def tensors(self) -> dict[str, Tensor]:
        """Every parameter under its name in a released single file."""
        return official_names(self.state_dict())


def official_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names of :class:`FlowNetwork` -> those of a released single file."""
    tensors: dict[str, Tensor] = {}
    for name, tensor in state.items():
        own = next(prefix for prefix in _PREFIXES if name.startswith(prefix))
        tensors[_PREFIXES[own] + name[len(own) :]] = tensor
    return tensors


def keep_open(transformer: Transformer) -> None:
    """Leave gates and modulation of attention between the streams out of training: they stay neutral.

    At first the other stream shows only noise, and Muon makes steps of one size however weak a gradient is:
    whatever closes this path lowers the loss soonest. AdamW moves all inputs of a gate together. It had shut
    every head for good, at -35, before there was anything to see; with those kept open the modulated gates,
    at 0.00 after 750 steps; with both kept open the scale of what is shown, at 0.06 after 220. Sound and
    picture were then learnt apart, without a sign of it in any loss.
    """
    for name, parameter in transformer.named_parameters():
        between = "audio_to_video_attn" in name or "video_to_audio_attn" in name
        if (between and "to_gate_logits" in name) or "av_ca_" in name or "_a2v_ca_" in name:
            parameter.requires_grad_(False)


@torch.no_grad()
def initialise(network: FlowNetwork, seed: int) -> None:
    """Weights to start from: each block is the identity, and tokens pass unchanged from input to output.

    Velocities are mostly noise that has to be carried through, so the head starts as half the transpose of
    the input projection, which is an isometry. Gates are open, modulations neutral, and the last layer of
    each branch is zero: unlike gates at zero (Peebles and Xie, 2023) this lets a branch learn at once. Sound
    and picture look at each other near their own time.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in network.named_parameters():
        if name.endswith("norm.weight"):
            parameter.fill_(1)
        elif "learnable_registers" in name:
            parameter.normal_(generator=generator)
        elif "table" in name:
            parameter.zero_()
            gates = parameter[4:] if "ca_" in name else parameter[2::3]
            gates.fill_(1)
        elif name.endswith(".bias") or any(part in name for part in _ZERO):
            parameter.zero_()
        else:
            bound = math.sqrt(3 / parameter.shape[-1])
            parameter.uniform_(-bound, bound, generator=generator)
    transformer = network.transformer
    for prefix in ("", "audio_"):
        into = transformer.get_parameter(f"{prefix}patchify_proj.weight")
        nn.init.orthogonal_(into, generator=generator)
        transformer.get_parameter(f"{prefix}proj_out.weight").copy_(into.mT / 2)
        transformer.get_parameter(f"{prefix}adaln_single.emb.timestep_embedder.linear_2.weight").mul_(0.3)
    attend_near_in_time(transformer)


_ZERO = ("adaln_single.linear.", "to_out.0.weight", "net.2.weight", "to_gate_logits")
