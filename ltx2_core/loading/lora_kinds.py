"""LoKr, LoHa and DoRA: kinds of low-rank changes that are not one product of two matrices.

LoKr is a Kronecker product and LoHa an elementwise product of two factors, each a matrix or a low-rank
product, with Tucker's core tensor for convolutions (Yeh et al., 2023). DoRA rescales the rows or columns of
the changed weight to trained magnitudes (Liu et al., 2024). Letters: R rank, I inputs, O outputs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]
"""Role of a factor, such as ``lokr_w1`` -> its shape."""

FACTOR = re.compile(r"\.(lokr_w[12](?:_[ab])?|lokr_t2|hada_w[12]_[ab]|hada_t[12])$")
"""Ending of a factor's tensor name; its role is the group."""

COMFY_MAGNITUDE = re.compile(r"\.dora_scale$")
PEFT_MAGNITUDE = re.compile(r"\.lora_magnitude_vector(\.[^.]+)?(\.weight)?$")


@dataclass(frozen=True)
class Magnitude:
    """The magnitudes of a DoRA layer, which replace the norms of the weight's rows or columns.

    ``name`` is the tensor that holds them. LyCORIS calls it ``dora_scale``; for it ComfyUI divides rows by
    their norms before the change, columns by those after it. PEFT calls it ``lora_magnitude_vector`` and
    divides rows by their norms after the change; ``merged_norm`` is then True.
    """

    name: str
    merged_norm: bool


def kind_of(roles: Mapping[str, str]) -> str:
    return "LoHa" if any(role.startswith("hada") for role in roles) else "LoKr"


def factors_problem(roles: Mapping[str, str]) -> str | None:
    """Say in words why the factors of a LoKr or LoHa are incomplete or contradictory; None if they are fine.

    ``roles`` maps roles such as ``lokr_w1`` to tensor names.
    """
    present = set(roles)
    if kind_of(roles) == "LoHa":
        needed = {"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"}
        tucker = {"hada_t1", "hada_t2"} & present
        missing = needed - present or (tucker and {"hada_t1", "hada_t2"} - present)
        if missing:
            return f"it lacks {', '.join(sorted(missing))}"
        foreign = present - needed - tucker
    else:
        foreign = present.copy()
        for which in ("1", "2"):
            whole, halves = {f"lokr_w{which}"}, {f"lokr_w{which}_a", f"lokr_w{which}_b"}
            core = {"lokr_t2"} if which == "2" else set()
            if whole <= present and not (halves | core) & present:
                foreign -= whole
            elif halves <= present and not whole & present:
                foreign -= halves | core
            else:
                return f"it needs lokr_w{which} or both of {', '.join(sorted(halves))}"
    return f"it also has {', '.join(sorted(foreign))}" if foreign else None


def rank_of(shapes: Shapes) -> int | None:
    """The rank R by which alpha is divided, for a LoKr or LoHa.

    ``shapes`` has the shapes of its factors by role, such as ``lokr_w1_a``. If both factors of a LoKr are
    low-rank products, it is the rank of the second; if both are stored as whole matrices, no alpha applies,
    and the result is None.
    """
    # As in ComfyUI, the second factor of a LoKr decides where both are low-rank.
    for role in ("hada_w1_b", "lokr_w2_b", "lokr_w1_b"):
        if role in shapes:
            return shapes[role][0] if shapes[role] else 0
    return None


def change_shape(shapes: Shapes) -> Shape:
    """Shape of the weight change of a LoKr or LoHa, without trailing axes of length 1.

    ``shapes`` has the shapes of its factors by role, such as ``lokr_w1``. Raises ValueError for factors that
    do not fit each other.
    """
    if "hada_w1_a" in shapes:
        first, second = (_product(shapes, f"hada_w{n}", f"hada_t{n}") for n in (1, 2))
        if first != second:
            raise ValueError(f"its factors are {first} and {second}, which must be equal")
        return _squeezed(first)
    first, second = _product(shapes, "lokr_w1", ""), _product(shapes, "lokr_w2", "lokr_t2")
    return _squeezed((first[0] * second[0], first[1] * second[1], *second[2:]))


def change(factors: Mapping[str, Tensor]) -> Tensor:
    """Multiply out a LoKr or LoHa: the weight change in float32, without its scale.

    ``factors`` are the tensors by role, such as ``lokr_w1``.
    """
    wide = {role: tensor.float() for role, tensor in factors.items()}
    if "hada_w1_a" in wide:
        return _multiplied(wide, "hada_w1", "hada_t1") * _multiplied(wide, "hada_w2", "hada_t2")
    first, second = _multiplied(wide, "lokr_w1", ""), _multiplied(wide, "lokr_w2", "lokr_t2")
    # Trailing axes of 1 let a matrix multiply a convolution's kernel.
    return torch.kron(first.reshape(*first.shape, *[1] * (second.ndim - 2)), second.contiguous())


def rescaled(weight: Tensor, delta: Tensor, magnitude: Tensor, strength: float, *, merged: bool) -> Tensor:
    """Apply a DoRA to ``weight`` (O, I): returns weight + strength * (fully changed weight - weight).

    The result is float32. ``delta`` (O, I) is the low-rank change with its scale. ``magnitude`` has O values
    for rows, or is (1, I) for columns. ``merged`` says by which norm rows are divided: that of the changed
    row if True, else that of the original one (:class:`Magnitude`).
    """
    changed = weight + delta
    if is_by_column(tuple(magnitude.shape), weight.shape[0]):
        norm, magnitude = changed.norm(dim=0, keepdim=True), magnitude.reshape(1, -1)
    else:
        # ComfyUI and PEFT divide by different norms, as Magnitude says.
        norm = (changed if merged else weight).norm(dim=1, keepdim=True)
        magnitude = magnitude.reshape(-1, 1)
    # A row of zeros has no direction and must not divide by 0.
    changed *= magnitude.float() / (norm + torch.finfo(torch.float32).eps)
    # Scaled around the original weight, because the magnitudes do not scale with the strength.
    return changed if strength == 1 else weight + strength * (changed - weight)


def is_by_column(magnitude: Shape, rows: int) -> bool:
    """Whether a DoRA magnitude of this shape scales columns, not rows, of a weight with ``rows`` rows."""
    return bool(magnitude) and magnitude[0] != rows


def magnitude_fits(magnitude: Shape, change: Shape) -> bool:
    """Whether the shape of a DoRA magnitude fits the rows or the columns of a change of shape (O, I)."""
    rows, columns = change
    return _squeezed(magnitude) in ((rows,), (rows, 1), (1, columns))


def _product(shapes: Shapes, role: str, core: str) -> Shape:
    if role in shapes:
        if len(shapes[role]) < 2:
            raise ValueError(f"{role} is {shapes[role]}; a matrix is needed")
        return shapes[role]
    a, b, middle = shapes[f"{role}_a"], shapes[f"{role}_b"], shapes.get(core)
    if len(a) != 2 or len(b) != 2:
        raise ValueError(f"{role}_a and {role}_b are {a} and {b}; two matrices are needed")
    if middle is None:
        if a[1] != b[0]:
            raise ValueError(f"{role}_a and {role}_b are {a} and {b}, which cannot be multiplied")
        return a[0], b[1]
    if len(middle) != 4 or middle[:2] != (a[0], b[0]):
        raise ValueError(f"{core} is {middle}, which does not fit {role}_a {a} and {role}_b {b}")
    return a[1], b[1], *middle[2:]


def _multiplied(factors: Mapping[str, Tensor], role: str, core: str) -> Tensor:
    if role in factors:
        return factors[role]
    a, b = factors[f"{role}_a"], factors[f"{role}_b"]
    if core not in factors:
        return a @ b
    # The core stands between both factors, which have its axes first, as LyCORIS stores them.
    return torch.einsum("ijkl,jr,ip->prkl", factors[core], b, a)


def _squeezed(shape: Shape) -> Shape:
    # A kernel of one position is a matrix.
    while len(shape) > 2 and shape[-1] == 1:
        shape = shape[:-1]
    return shape
