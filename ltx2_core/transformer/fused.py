"""Operations of a block that read and write the same tokens, each by one kernel where that is possible.

Letters: B batch, N tokens, W width, H heads, D head width.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..kernels import (
    add_tables,
    gate_heads,
    gelu_product,
    norm_modulate,
    norm_rotate,
    output_product,
    quantize_rows,
)
from ..kernels.gelu_product import Layer
from ..kernels.language import DEVICES, interpreted, problem
from ..kernels.timing import faster
from ..kernels.trial import Kernel, Trials, difference, tried
from ..out_of_memory import is_out_of_memory
from .rope import Rope

if TYPE_CHECKING:
    from typing import TypeGuard

_log = logging.getLogger(__name__)

_ADD_TABLES = Kernel("add_tables", add_tables.add_tables, add_tables.formula)
_NORM_MODULATE = Kernel("norm_modulate", norm_modulate.norm_modulate, norm_modulate.formula)
_NORM_ROTATE = Kernel("norm_rotate", norm_rotate.norm_rotate, norm_rotate.formula)
_GATE_HEADS = Kernel("gate_heads", gate_heads.gate_heads, gate_heads.formula)
_GELU_PRODUCT = Kernel("gelu_product", gelu_product.gelu_product, gelu_product.formula)
_OUTPUT_PRODUCT = Kernel("output_product", output_product.output_product, output_product.formula)
_QUANTIZE_ROWS = Kernel("quantize_rows", quantize_rows.quantize_rows, quantize_rows.formula)


_PRODUCTS = (torch.bfloat16, torch.float16, torch.float32)
_TIMED = 4096
"""The most tokens for which products are timed: enough to fill a card, with little room for copies."""
_CHECKED = 256
"""How many of their results are compared."""
_ROUNDINGS = 4
"""How far a product may be from other kernels, which round after each operation; in units of a rounding."""

Other = tuple[()] | tuple[Tensor, Tensor, Tensor]
"""Scale and shift of a second branch that reads the same tokens, and where its input is written; or none."""


class Fused:
    """Kernels that join operations. Where one fails its trial, its plain formula is computed instead.

    Results differ from those of separate operations by rounding: a kernel rounds once, in the end. Without
    ``kernels`` all is computed by the formulas, as where every trial fails.
    """

    def __init__(self, *, kernels: bool = True) -> None:
        self._trials = Trials(kernels=kernels)
        # By itself, as it is no kernel of ours: where it fails, the others are still used.
        self._products = Trials(kernels=kernels)
        self._outputs = Trials(kernels=kernels)
        self._faster: dict[Hashable, bool] = {}

    @classmethod
    def on(cls, device: torch.device) -> Fused | None:
        """Kernels for the GPU ``device``; None on a CPU, and without Triton, which the log says."""
        if device.type == "cpu":
            return None
        why = problem(device)
        if why is not None:
            _log.warning("fused kernels are off: %s", why)
        return None if why is not None else cls()

    @property
    def problem(self) -> str | None:
        """Why a kernel is not used, as its trial failed; None as long as none has failed."""
        return self._trials.problem or self._products.problem or self._outputs.problem

    @property
    def slower(self) -> int:
        """For how many sizes the product of :meth:`add_product` was timed and is not the faster way."""
        return sum(not won for won in self._faster.values())

    @property
    def compiled(self) -> bool:
        """Whether kernels are used; they allocate nothing but their results."""
        return self._trials.kernels and self._trials.problem is None

    def add_tables(self, *terms: tuple[Tensor, Tensor, Tensor]) -> list[Tensor]:
        """The sum of each of one to three ``terms``: (G, P, W), (P, W) and (P, 1) -> (G, P, W)."""
        sums: add_tables.Sums = self._trials.run(_ADD_TABLES, *(tensor for term in terms for tensor in term))
        return [total for total in sums if total is not None]

    def norm_modulate(
        self,
        x: Tensor,
        scale: Tensor,
        shift: Tensor,
        eps: float,
        *,
        out: Tensor | None = None,
        other: Other = (),
    ) -> Tensor:
        """RMS-normalise x (B, N, W), multiply by ``scale`` and add ``shift``, both (B, 1, W) or (B, N, W).

        ``eps`` is the epsilon of the norm. The result is written to ``out`` (B, N, W), or to a new tensor.
        ``other`` are another scale and shift, and the tensor that their result is written to.
        """
        result: Tensor = self._trials.run(_NORM_MODULATE, x, None, None, scale, shift, eps, out, *other)
        return result

    def add_norm_modulate(
        self,
        x: Tensor,
        update: Tensor,
        gate: Tensor,
        scale: Tensor,
        shift: Tensor,
        eps: float,
        *,
        out: Tensor | None = None,
        other: Other = (),
    ) -> Tensor:
        """Add ``update * gate`` to x (B, N, W) in place; returns :meth:`norm_modulate` of the new x.

        ``update`` is (B, N, W); gate, scale and shift are (B, 1, W) or (B, N, W). x is written last, so that
        it is unchanged if memory runs out.
        """
        result: Tensor = self._trials.run(_NORM_MODULATE, x, update, gate, scale, shift, eps, out, *other)
        return result

    def norm_rotate(
        self,
        x: Tensor,
        norm: nn.Module,
        rope: Rope,
        heads: int,
        *,
        other: Tensor | None = None,
        other_norm: nn.Module | None = None,
    ) -> None:
        """RMS-normalise x (B, N, H D) over all heads together, then rotate it by ``rope``, in place.

        H = ``heads``; weight and epsilon are those of ``norm``. ``other`` are the keys of the same tokens,
        which are treated as x is, by the weight of ``other_norm``.
        """
        # Kernels find the tokens of every tensor along axis 1.
        tables = rope.cos.transpose(1, 2), rope.sin.transpose(1, 2)
        interleaved = rope.rope_type == "interleaved"
        keys = (other, None if other_norm is None else other_norm.weight)
        self._trials.run(
            _NORM_ROTATE, x, norm.weight, *keys, norm.eps, *tables, heads=heads, interleaved=interleaved
        )

    def gate_heads(self, attended: Tensor, logits: Tensor) -> Tensor:
        """Multiply ``attended`` (B, N, H, D) by 2 sigmoid(``logits``), which are (B, N, H), in place."""
        result: Tensor = self._trials.run(_GATE_HEADS, attended, logits)
        return result

    def gelu_product(self, x: Tensor, linear: nn.Linear) -> Tensor:
        """GELU in its tanh form of ``linear`` of x (B, N, I), (B, N, O); the layer has a bias."""
        layer = Layer(linear.weight, linear.bias)
        result: Tensor = self._products.run(_GELU_PRODUCT, x, layer)
        return result

    def add_product(
        self, x: Tensor, gate: Tensor, source: Tensor, logits: Tensor | None, linear: nn.Module
    ) -> bool:
        """Add ``gate`` (B, 1, W) * ``linear`` of ``source`` (B, N, I) to x (B, N, W) in place, by one kernel.

        With ``logits`` (B, N, H), each head of ``source`` is first multiplied by 2 sigmoid(logits). Returns
        False, with x as it is, where other kernels have to do it: for layers that :func:`can_add_product`
        refuses, where the trial fails, and where the product and its other kernels take less time, which is
        measured for each size when it first comes.
        """
        if not can_add_product(x, gate, source, logits, linear):
            return False
        assert isinstance(linear, nn.Linear)
        layer = Layer(linear.weight, linear.bias)
        arguments = (x, gate, source, logits, layer)
        if not self._outputs.passes(_OUTPUT_PRODUCT, *arguments) or not self._is_faster(*arguments):
            return False
        self._outputs.run(_OUTPUT_PRODUCT, *arguments)
        return True

    def _is_faster(
        self, x: Tensor, gate: Tensor, source: Tensor, logits: Tensor | None, layer: Layer
    ) -> bool:
        # Where nothing is compiled, times mean nothing.
        if interpreted() or x.device.type not in DEVICES:
            return True
        few, given = x[:1, :_TIMED], source[:1, :_TIMED]
        of_heads = None if logits is None else logits[:1, :_TIMED]
        kind = (few.shape[1], None if logits is None else logits.shape[-1], layer.kind())
        if kind not in self._faster:
            if x.device.type == "cuda" and torch.cuda.is_current_stream_capturing():
                return False
            self._faster[kind] = self._timed(few, gate[:1], given, of_heads, layer)
        return self._faster[kind]

    def _timed(self, x: Tensor, gate: Tensor, source: Tensor, logits: Tensor | None, layer: Layer) -> bool:
        """Whether the kernel gives what other kernels give, of these tokens, and in less time."""

        def run() -> tuple[bool, str]:
            # The kernel writes here, and gates of heads would be multiplied once more at each call.
            own, gated = x.clone(), source if logits is None else source.clone()

            def update() -> Tensor:
                if logits is not None:
                    self.gate_heads(gated.unflatten(-1, (logits.shape[-1], -1)), logits)
                return nn.functional.linear(gated, layer.weight, layer.bias)

            expected = torch.addcmul(x, update(), gate)
            output_product.output_product(own, gate, source, logits, layer)
            wrong = difference(own[:, :_CHECKED], expected[:, :_CHECKED])
            del expected
            if wrong > _ROUNDINGS:
                return False, f"it is off by {wrong:.3g} times what is allowed"
            won = faster(
                lambda: output_product.output_product(own, gate, source, logits, layer),
                # The norm that adds an update reads it and writes the tokens beside what it does anyway.
                lambda: update().mul_(gate),
                x.device,
            )
            return won, ""

        size = f"{x.shape[1]} tokens, {source.shape[-1]} to {x.shape[-1]}"
        try:
            found, failure = tried(run)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            _log.info("product that adds its update, %s: memory ran out", size)
            return False
        won, wrong = found or (False, failure)
        if wrong:
            return self._outputs.failed(_OUTPUT_PRODUCT, f"with {size}, {wrong}")
        _log.info("product that adds its update, %s: %s", size, "used" if won else "slower")
        return won

    def quantize_rows(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Round x (M, I) to float8_e4m3fn with a float32 scale for each row; returns (M, I) and (M, 1)."""
        result: tuple[Tensor, Tensor] = self._trials.run(_QUANTIZE_ROWS, x)
        return result


def has_gelu_product(linear: nn.Module, x: Tensor) -> bool:
    """Whether :meth:`Fused.gelu_product` may compute ``linear`` of tokens x, with gradients off.

    It has to be a linear layer of torch itself with a bias, that nothing changes when it is called, on a GPU
    that PyTorch calls CUDA.
    """
    fits = _is_plain(linear, x) and linear.bias is not None and x.dim() == 3
    return fits and x.device.type in ("cuda", "meta")


def can_add_product(
    x: Tensor, gate: Tensor, source: Tensor, logits: Tensor | None, linear: nn.Module
) -> bool:
    """Whether :meth:`Fused.add_product` may compute ``linear`` of ``source`` (B, N, I) and add it to x.

    As for :func:`has_gelu_product`, with or without a bias, on any GPU. All tensors are on one device and of
    one dtype. Heads, or the whole input without ``logits``, have a multiple of 16 values, as matrix
    instructions do.
    """
    if not _is_plain(linear, x) or x.dtype not in _PRODUCTS:
        return False
    head = source.shape[-1] // (1 if logits is None else logits.shape[-1])
    given = [t for t in (x, gate, source, logits, linear.weight) if t is not None]
    alike = all(_place(t) == _place(x) and t.stride(-1) == 1 for t in given)
    return alike and gate.shape[1] == 1 and head % 16 == 0


def _is_plain(linear: nn.Module, x: Tensor) -> TypeGuard[nn.Linear]:
    """Whether ``linear`` is a layer of torch itself like x that nothing changes, with gradients off."""
    if torch.is_grad_enabled() or type(linear) is not nn.Linear:
        return False
    changed = "forward" in vars(linear) or linear._forward_pre_hooks or linear._forward_hooks
    parameters = [linear.weight] if linear.bias is None else [linear.weight, linear.bias]
    return not changed and all(_place(p) == _place(x) for p in parameters)


def _place(tensor: Tensor) -> tuple[torch.device, torch.dtype]:
    return tensor.device, tensor.dtype


def can_fuse(norm: nn.Module, x: Tensor) -> bool:
    """Whether :meth:`Fused.norm_rotate` may read the weight of ``norm`` for tokens x, with gradients off.

    It has to be an RMSNorm of torch, or one derived from it as those of ComfyUI are, whose weight is where
    and what the tokens are, and that nothing changes when the layer is called.
    """
    weight = getattr(norm, "weight", None)
    if torch.is_grad_enabled() or not isinstance(norm, nn.RMSNorm) or weight is None or norm.eps is None:
        return False
    # LoRAs of a host that are added on use are functions of the weight.
    patched = getattr(norm, "weight_function", None) or "forward" in vars(norm)
    hooked = norm._forward_pre_hooks or norm._forward_hooks
    return not patched and not hooked and _place(weight) == _place(x)
