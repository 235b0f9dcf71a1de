"""Captions of a run: how far the dataset encodes them, and the networks that do the rest in each step.

Letters: T text tokens of a caption, L hidden states of Gemma, each D wide, K the width of features.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal, get_args

import torch
from einops import rearrange
from torch import Tensor, nn

from ..loading import Component, Lora
from ..run.codecs import Codecs
from ..run.components import Components
from ..text import FeatureExtractor, TextConnectors
from ..text.features import range_per_prompt
from ..training.lora import TEXT_PROJECTION
from ..training.targets import is_of_text
from ..types import TextContext, TextFeatures

TextStage = Literal["context", "features", "states"]
TEXT_STAGES: tuple[TextStage, ...] = get_args(TextStage)


def encode_caption(codecs: Codecs, text: str, stage: TextStage) -> dict[str, Tensor]:
    """Encode a caption as far as ``stage`` says: the tensors of its file, by name.

    ``context`` is what the transformer reads, ``features`` (T, K) come before the text connectors, ``states``
    (T, L, D) before the text projection. Raises ValueError for a model without these networks.
    """
    networks = codecs.networks
    if stage != "context" and not networks.has_audio:
        raise ValueError(f"--text {stage}: LTX-Video has no text connectors, so use --text context")
    if stage == "context":
        context, _ = codecs.encode_text(text)
        return {"video": context.video[0].cpu(), "audio": context.audio[0].cpu()}
    if stage == "features":
        features = networks.encode([text]).to(networks.dtype)
        valid = features.mask[0].bool()
        found = {"video": features.video[0][valid].cpu()}
        # 2.0 has one set of features for both streams.
        if features.audio.shape != features.video.shape or not torch.equal(features.audio, features.video):
            found["audio"] = features.audio[0][valid].cpu()
        return found
    states: dict[int, Tensor] = {}
    with networks.use_text_encoder() as encoder, torch.inference_mode():
        ids, mask = encoder.tokenizer([text])

        def consume(index: int, hidden: Tensor) -> None:
            states[index] = hidden[0][mask[0].bool().to(hidden.device)].to("cpu", networks.dtype, copy=True)

        encoder.gemma(ids, mask, consume)
    return {"states": torch.stack([states[index] for index in sorted(states)], dim=1)}


class TextNetworks(nn.Module):
    """What computes the text of a step: the connectors, and before them the projection if it is trained."""

    def __init__(self, connectors: TextConnectors, projection: FeatureExtractor | None = None) -> None:
        super().__init__()
        self.connectors, self.projection = connectors, projection
        self.requires_grad_(False)

    def forward(self, texts: Sequence[Mapping[str, Tensor]]) -> TextContext:
        """The contexts in float32 of B captions, from the tensors of their files."""
        # One by one, as at inference: a batch rounds differently from its rows.
        contexts = [self.connectors(self._features(text)) for text in texts]
        return TextContext(
            torch.cat([one.video for one in contexts]).float(),
            torch.cat([one.audio for one in contexts]).float(),
        )

    def official(self) -> dict[str, nn.Module]:
        """The networks by their prefix in official names, without its last dot; "" is none."""
        found: dict[str, nn.Module] = {"": self.connectors}
        if self.projection is not None:
            found[TEXT_PROJECTION.removesuffix(".")] = self.projection
        return found

    def _features(self, text: Mapping[str, Tensor]) -> TextFeatures:
        if self.projection is None:
            features = [text["video"], text.get("audio", text["video"])]
        else:
            # By the layers and not by their weights, which are changed by hooks.
            features = [
                layer(_inputs(self.projection, layer, text["states"]).to(layer.weight.dtype))
                for layer in self.projection.projections
            ]
        dtype = next(self.connectors.parameters()).dtype
        video, audio = features[0][None].to(dtype), features[-1][None].to(dtype)
        return TextFeatures(video, audio, torch.ones(video.shape[:2], dtype=torch.long, device=video.device))


def _inputs(extractor: FeatureExtractor, layer: nn.Module, states: Tensor) -> Tensor:
    """Normalised states as the projection takes them: (T, L, D) -> (T, D L), in float32."""
    if extractor.per_token_norm:
        return extractor.inputs(states, layer)
    normalised = [range_per_prompt(one, [len(one)]) for one in states.float().unbind(dim=1)]
    return rearrange(torch.stack(normalised, dim=1), "t l d -> t (d l)")


@contextmanager
def text_networks(
    networks: Components, stage: TextStage, loras: tuple[Lora, ...] = ()
) -> Iterator[TextNetworks | None]:
    """A context with the networks that captions of ``stage`` still need; None if they need none."""
    if stage == "context":
        yield None
        return
    with networks.use(Component.TEXT_CONNECTORS, loras) as connectors:
        if stage == "features":
            yield TextNetworks(connectors)
            return
        with networks.use(Component.TEXT_PROJECTION, loras) as projection:
            yield TextNetworks(connectors, projection)


def text_shapes(networks: Components) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors of connectors and projection, by official name; headers alone are read."""
    found: dict[str, tuple[int, ...]] = {}
    for component, prefix in ((Component.TEXT_CONNECTORS, ""), (Component.TEXT_PROJECTION, TEXT_PROJECTION)):
        shapes = networks.file(component).shapes(component)
        found |= {prefix + name: shape for name, shape in shapes.items()}
    return found


def needed_stage(layers: Sequence[str]) -> TextStage:
    """How far captions may be encoded if these layers are trained, by official name."""
    if any(name.startswith(TEXT_PROJECTION) for name in layers):
        return "states"
    return "features" if any("_embeddings_connector." in name for name in layers) else "context"


def check_stage(targets: Sequence[str], layers: Sequence[str], stage: TextStage, folder: object) -> None:
    """Raise ValueError if the captions in ``folder`` were encoded beyond the layers that are trained."""
    needed = needed_stage(layers)
    if TEXT_STAGES.index(stage) >= TEXT_STAGES.index(needed):
        return
    named = ", ".join(target for target in targets if is_of_text(target))
    raise ValueError(
        f"targets={named}: the captions of {folder} are encoded beyond these layers (--text {stage}): run "
        f"ltx2 dataset again with --text {needed}"
    )
