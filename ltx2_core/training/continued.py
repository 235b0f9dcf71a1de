"""Initial weights of LTX-2.5 from a trained LTX-2.3: another text encoder, no biases in video feed-forwards.

What the new network lacks is replaced by least squares, so that it starts near the old one: its text
projection is refitted to the features of the old one, and the matrices of its feed-forwards take over the
biases. Letters: N tokens, D width, H hidden width of a feed-forward.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..text import FeatureExtractor
from ..transformer.layers import FeedForward
from .network import FlowNetwork
from .text import TextBatch

_RIDGE = 1e-4
"""Ridge penalty, relative to the mean power of the inputs."""
_TOKENS = 20_000
"""Largest number of tokens on which a feed-forward is fitted."""

_TRAINED = frozenset({"keyframes_abs_pos_embedding", "scale_shift_table", "ff"})
_REFITTED = frozenset({"video_aggregate_embed", "audio_aggregate_embed"})
"""Parts of the names of the parameters that are not those of the LTX-2.3 that is continued."""


@torch.no_grad()
def start_continued(network: FlowNetwork, state: Mapping[str, Tensor]) -> None:
    """Load the parameters ``state`` of an LTX-2.3 into ``network``, an LTX-2.5 of the same widths, in place.

    Biases of ``state`` that ``network`` lacks are left out; parameters that only ``network`` has become zero.
    """
    for name, parameter in network.named_parameters():
        if name in state:
            parameter.copy_(state[name])
        else:
            parameter.zero_()


def freeze_but_video(network: FlowNetwork) -> None:
    """Freeze all of ``network`` except some parameters of the video, in place.

    Those are its feed-forwards, its learned modulation tables, and the vector that is added to tokens of
    single frames. So few tensors differ from LTX-2.3, and what audio has learnt stays.
    """
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(_named(name, _TRAINED))


def is_changed(name: str) -> bool:
    """Whether the parameter ``name`` gets other values in LTX-2.5 than in the LTX-2.3 it starts from."""
    return _named(name, _TRAINED | _REFITTED)


def _named(name: str, parts: frozenset[str]) -> bool:
    # Feed-forwards of the text connectors have biases in both.
    return "connector" not in name and not parts.isdisjoint(name.split("."))


@torch.no_grad()
def refit_projection(
    new: FeatureExtractor, old: FeatureExtractor, states: TextBatch, old_states: TextBatch
) -> None:
    """Fit the text projection ``new`` in place, so that its features of a text are those of ``old``.

    ``states`` and ``old_states`` are the hidden states of the same prompts from the text encoder of either.
    Raises ValueError if these split a prompt into different tokens.
    """
    if not torch.equal(states.mask, old_states.mask):
        raise ValueError("both text encoders must split the prompts into the same tokens")
    valid = states.mask.bool()
    features = old.padded(old_states.hidden, old_states.mask)
    wanted = features.video[valid], features.audio[valid]
    for projection, target in zip(new.projections, wanted, strict=True):
        weight, bias = _ridge(new.inputs(states.hidden[valid], projection), target)
        projection.weight.copy_(weight)
        projection.bias.copy_(bias)


@torch.no_grad()
def absorb_biases(network: FlowNetwork, old: FlowNetwork, run: Callable[[FlowNetwork], object]) -> None:
    """Refit the video feed-forwards of ``network``, which have no biases, to those of ``old``, in place.

    ``run(old)`` runs ``old`` on example clips. A first matrix takes over its biases along the direction in
    which the inputs are most constant, and the second one is fitted to the outputs of the old feed-forward.
    """
    blocks = zip(network.transformer.transformer_blocks, old.transformer.transformer_blocks, strict=True)
    pairs = [(_feed_forward(new), _feed_forward(block)) for new, block in blocks]
    with _inputs([block for _, block in pairs]) as inputs:
        run(old)
    for (new, block), pieces in zip(pairs, inputs, strict=True):
        x = torch.cat(pieces)
        x = x[:: -(-len(x) // _TOKENS)]
        into, out = _linear(new, "net.0.proj"), _linear(new, "net.2")
        first, second = _linear(block, "net.0.proj"), _linear(block, "net.2")
        constant = _solve(x, torch.ones(len(x), 1))[:, 0]
        into.weight.copy_(first.weight + torch.outer(first.bias, constant))
        hidden, target = new.get_submodule("net.0")(x), block(x)
        # The old matrix is nearly right, so that only what it lacks is fitted.
        rest = target - hidden @ second.weight.mT
        out.weight.copy_(second.weight + _solve(hidden, rest).mT)


def _linear(layer: FeedForward, name: str) -> nn.Linear:
    module = layer.get_submodule(name)
    assert isinstance(module, nn.Linear)
    return module


def _feed_forward(block: nn.Module) -> FeedForward:
    module = block.get_submodule("ff")
    assert isinstance(module, FeedForward)
    return module


@contextmanager
def _inputs(layers: list[FeedForward]) -> Iterator[list[list[Tensor]]]:
    """Inside the ``with`` block, collect all inputs (N, D) of each of ``layers``."""
    found: list[list[Tensor]] = [[] for _ in layers]

    def hook(pieces: list[Tensor]) -> Callable[..., None]:
        return lambda _module, args: pieces.append(args[0].flatten(0, -2).clone())

    handles = [
        layer.get_submodule("net.0.proj").register_forward_pre_hook(hook(pieces))
        for layer, pieces in zip(layers, found, strict=True)
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _ridge(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Fit ``y`` (N, outputs) from ``x`` (N, inputs) with a bias; returns weights and biases of a layer."""
    centre, mean = x.mean(dim=0), y.mean(dim=0)
    solution = _solve(x - centre, y - mean)
    return solution.mT, mean - centre @ solution


def _solve(x: Tensor, y: Tensor) -> Tensor:
    """Fit ``y`` (N, outputs) from ``x`` (N, inputs) by ridge regression without a bias: (inputs, outputs)."""
    gram = x.mT @ x
    gram.diagonal().add_(_RIDGE * float(gram.diagonal().mean()))
    solution: Tensor = torch.linalg.solve(gram, x.mT @ y)
    return solution
