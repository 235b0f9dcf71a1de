"""A kernel is compared with its plain formula before it is used, once for each kind of arguments."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..out_of_memory import is_out_of_memory
from .gelu_product import Layer
from .language import problem

_log = logging.getLogger(__name__)
_Result = TypeVar("_Result")

_TOKENS = 4
"""Tokens of a trial, which are enough to find a wrong stride."""
_TOKEN_AXES = {2: (0,), 3: (1,), 4: (1,), 5: (1, 2, 3)}
"""Axes of the tokens by the number of axes; a weight, which has one, has none of them."""


@dataclass(frozen=True)
class Kernel:
    """A kernel and its formula, functions of the same arguments.

    Tensors of three and four axes have their tokens along axis 1, those of two along axis 0, and those of
    five (frames, rows and columns) along axes 1 to 3; ``name`` is that of the file.
    """

    name: str
    launch: Callable[..., Any]
    formula: Callable[..., Any]


class Trials:
    """Runs kernels where they agree with their formulas, and the formulas elsewhere.

    A kernel is tried when its first arguments of a kind come: on four of their tokens, against the formula in
    float32. ``problem`` says why the first one that failed is off; None where none has failed so far. Without
    ``kernels`` formulas are computed everywhere.
    """

    def __init__(self, *, kernels: bool = True) -> None:
        self.kernels = kernels
        self.problem: str | None = None
        self._passed: dict[Hashable, bool] = {}

    def run(self, kernel: Kernel, *arguments: Any, **settings: Any) -> Any:
        """The result of ``kernel`` or of its formula for these arguments, of which the first is a tensor.

        Out-of-memory errors are raised; every other failure of a trial turns the kernel off.
        """
        passed = self.passes(kernel, *arguments, **settings)
        return (kernel.launch if passed else kernel.formula)(*arguments, **settings)

    def passes(self, kernel: Kernel, *arguments: Any, **settings: Any) -> bool:
        """Whether :meth:`run` would use ``kernel`` for these arguments; tries it if they are a new kind."""
        # A compiler joins the formula with what is around it, and could not look into a trial.
        off = not self.kernels or torch.compiler.is_compiling()
        if off or problem(arguments[0].device) is not None:
            return False
        kind = (kernel.name, tuple(map(_kind, arguments)), *settings.values())
        passed = self._passed.get(kind)
        if passed is None:
            passed = self._passed[kind] = self._try(kernel, arguments, settings)
        return passed

    def _try(self, kernel: Kernel, arguments: Sequence[Any], settings: Mapping[str, Any]) -> bool:
        few = [_few(a) for a in arguments]
        exact = [a.to(torch.float32, copy=True) if isinstance(a, Tensor) else a for a in few]
        expected = _tensors(kernel.formula(*exact, **settings)) + _tensors(exact)

        def apart() -> float:
            actual = _tensors(kernel.launch(*few, **settings)) + _tensors(few)
            return max(map(difference, actual, expected))

        wrong, failure = tried(apart)
        if wrong is None:
            return self.failed(kernel, failure)
        return wrong <= 1 or self.failed(kernel, f"it is off by {wrong:.3g} times what is allowed in a trial")

    def failed(self, kernel: Kernel, reason: str) -> bool:
        """Say why ``kernel`` is not used, in the log and as ``problem``; returns False."""
        why = f"the kernel {kernel.name} cannot be used here: {reason}"
        _log.warning("%s; the same is computed by several kernels of PyTorch", why)
        self.problem = self.problem or why
        return False


def tried(run: Callable[[], _Result]) -> tuple[_Result | None, str]:
    """The result of ``run``, which uses a kernel, and ""; or None and why it failed, in one line.

    Raises what running out of memory raises.
    """
    try:
        return run(), ""
    # Drivers, compilers and versions of Triton fail in ways of their own. None may stop a run that the plain
    # formulas can finish.
    except Exception as error:
        if is_out_of_memory(error):
            raise
        first = str(error).strip().splitlines()[:1]
        return None, f"{type(error).__name__}: {''.join(first)}"


def _kind(argument: Any) -> Hashable:
    """What a kernel is compiled for, of one argument, and whether all tokens share one row of it."""
    if isinstance(argument, Layer):
        return argument.kind()
    if not isinstance(argument, Tensor):
        plain: Hashable = argument
        return plain
    shared = argument.dim() > 2 and argument.shape[1] == 1
    return argument.device, argument.dtype, argument.shape[-1], shared


def _few(argument: Any) -> Any:
    """A copy of the first tokens of a tensor; anything else as it is."""
    if not isinstance(argument, Tensor):
        return argument
    for axis in _TOKEN_AXES.get(argument.dim(), ()):
        argument = argument.narrow(axis, 0, min(_TOKENS, argument.shape[axis]))
    return argument.clone()


def _tensors(values: Any) -> list[Tensor]:
    return [v for v in (values if isinstance(values, (tuple, list)) else [values]) if isinstance(v, Tensor)]


def difference(actual: Tensor, expected: Tensor) -> float:
    """The largest difference, in units of what rounding to the dtype of ``actual`` can explain."""
    allowed = 1 / 127 if not actual.is_floating_point() else max(torch.finfo(actual.dtype).eps, 1e-5)
    exact = expected.float()
    if not exact.numel():
        return 0.0
    # A latent that is damaged is NaN by either way.
    apart = (actual.float() - exact).abs().nan_to_num(nan=0.0 if exact.isnan().any() else torch.inf)
    return float(apart.max() / (allowed * exact.nan_to_num().abs().max() + 1e-30))
