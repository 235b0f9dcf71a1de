"""Calls transformer blocks with the library's arguments, or with ComfyUI's if another pack has replaced them.

Letters: B batch, N video or audio tokens, W stream width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from ...ltx2_core.transformer import Hidden
from ...ltx2_core.transformer.perturbations import ALL_ON, Switches
from ...ltx2_core.transformer.streams import BothInputs
from .block_arguments import NEGATIVES, SWITCHES, BlockArguments, Options, block_arguments
from .host_attention import chosen_function
from .host_blocks import ATTENTIONS

Streams = tuple[Tensor, Tensor]
"""Video and audio (B, N, W); audio that takes no part has no tokens."""

Patch = Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]]
"""A pack's replacement of a block: arguments and the original block -> ``{"img": streams}``."""


def block_patches(options: Options) -> dict[tuple[str, int], Patch]:
    """The replacements of whole transformer blocks that other packs set in ``options``, a call's options.

    Keys are ("double_block", number of the block), values the packs' functions.
    """
    patches: dict[tuple[str, int], Patch] = options.get("patches_replace", {}).get("dit", {})
    return patches


def is_replaced(block: nn.Module) -> bool:
    """Whether another pack has replaced ``forward`` of this transformer block or of one of its attentions."""
    # A compiled block holds the original one, and has a forward of its own.
    inner = getattr(block, "_orig_mod", block)
    return any(_replaced(module) for module in (inner, *(getattr(inner, name) for name in ATTENTIONS)))


def _replaced(module: nn.Module) -> bool:
    forward = module.__dict__.get("forward")
    # The host undoes a replacement by storing the original method on the instance.
    return forward is not None and getattr(forward, "__func__", None) is not type(module).forward


@dataclass(eq=False)
class BlockCalls:
    """Calls the transformer blocks of one forward pass; ``options`` are ComfyUI's ``transformer_options``.

    A block that another pack has replaced or wrapped is called with ComfyUI's arguments, any other with the
    library's.
    """

    options: Options
    _shared: list[BlockArguments] = field(default_factory=list)

    def __call__(
        self, number: int, block: Any, hidden: Hidden, inputs: BothInputs, switches: Switches
    ) -> Hidden:
        """Call block ``number`` and return the tokens (video, audio or None without audio) after it.

        ``hidden`` are the tokens before it, ``inputs`` text, modulation and rotary tables of both streams,
        and ``switches`` says which of its attentions run for which samples of the batch.
        """
        patch = block_patches(self.options).get(("double_block", number))
        if patch is None and not is_replaced(block):
            after: Hidden = block(*hidden, *inputs, switches)
            return after
        x, y = hidden
        assert x is not None
        # The host's blocks take audio without tokens where there is none.
        streams = (x, x.new_zeros(len(x), 0, block.config.audio_dim) if y is None else y)
        arguments = self._arguments(inputs, x, switches)
        if patch is None:
            _refuse_timed(inputs)
            streams = block(streams, **arguments)
        else:
            call = _Original(block, inputs, switches, arguments, chosen_function(self.options))
            streams = patch({"img": streams, **arguments}, {"original_block": call})["img"]
        return streams[0], None if y is None else streams[1]

    def _arguments(self, inputs: BothInputs, x: Tensor, switches: Switches) -> BlockArguments:
        if not self._shared:
            # Timesteps, tables and texts are the same for every block.
            self._shared.append(block_arguments(inputs, x))
        negatives = tuple(None if stream is None else stream.negative for stream in inputs)
        options = self.options
        if switches is not ALL_ON or any(negatives):
            # In a copy, since the host passes the same options to every block and to other packs.
            options = {**options, SWITCHES: switches, NEGATIVES: negatives}
        return {**self._shared[0], "transformer_options": options}


def _refuse_timed(inputs: BothInputs) -> None:
    """Raise ValueError for prompts by time, for which ComfyUI's arguments of a block have no place."""
    if any(stream is not None and stream.timed is not None for stream in inputs):
        raise ValueError(
            "LTX-2 Prompt By Time and a node that replaces the attention of transformer blocks do not work "
            "together: take that node out, or use LTX-2 Prompt"
        )


@dataclass(frozen=True, eq=False)
class _Original:
    """The original block as the function that a pack's replacement of the block gets and may call.

    ``inputs`` and ``switches`` are the library's arguments of the block, ``arguments`` the same in ComfyUI's
    form, with which the replacement was called. ``function`` is the attention function of ComfyUI in use;
    None if the library's is used.
    """

    block: Any
    inputs: BothInputs
    switches: Switches
    arguments: BlockArguments
    function: Callable[..., Tensor] | None
    """The attention function of ComfyUI that the library's branches call; None if they call their own."""

    def __call__(self, changed: Mapping[str, Any]) -> dict[str, Streams]:
        """Run the block and return ``{"img": (video tokens, audio tokens)}``.

        ``changed`` are ComfyUI's keyword arguments of the block, with the tokens under "img"; the pack may
        have changed some.
        """
        vx, ax = changed["img"]
        passed = {name: changed.get(name) for name in self.arguments}
        if self._is_unchanged(passed):
            # The library's way is faster, and the result is the same.
            after = self.block(vx, ax if ax.numel() else None, *self.inputs, self.switches)
            return {"img": (after[0], ax if after[1] is None else after[1])}
        _refuse_timed(self.inputs)
        return {"img": self.block((vx, ax), **passed)}

    def _is_unchanged(self, passed: Mapping[str, Any]) -> bool:
        """Whether the pack calls the block with the arguments and the attention that it got, unchanged.

        The library's own call of the block, which is faster, then has the same result. ``passed`` are
        ComfyUI's arguments of the block as the pack passes them.
        """
        unchanged = all(passed[name] is value for name, value in self.arguments.items())
        options = self.arguments["transformer_options"]
        return unchanged and chosen_function(options) is self.function and not is_replaced(self.block)
