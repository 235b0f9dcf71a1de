"""Modulation parameters of one stream in one block: those of the timestep plus those that the block learned.

Plain torch starts two kernels for each of up to three tables, this is one for all of them.

Letters: G groups of tokens, P modulation parameters, W stream width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .language import jit, launch, tl, triton, warps

Sums = tuple[Tensor, Tensor | None, Tensor | None]


def formula(
    values: Tensor,
    table: Tensor,
    ones: Tensor,
    values_2: Tensor | None = None,
    table_2: Tensor | None = None,
    ones_2: Tensor | None = None,
    values_3: Tensor | None = None,
    table_3: Tensor | None = None,
    ones_3: Tensor | None = None,
) -> Sums:
    """``values`` (G, P, W) + ``table`` (P, W) + ``ones`` (P, 1) -> (G, P, W), and the same of the others.

    Those that are None have None as their sum. G and P may be others for each, W is the same.
    """
    return (
        (values + table).add_(ones),
        _sum(values_2, table_2, ones_2),
        _sum(values_3, table_3, ones_3),
    )


def _sum(values: Tensor | None, table: Tensor | None, ones: Tensor | None) -> Tensor | None:
    return None if values is None or table is None or ones is None else (values + table).add_(ones)


def add_tables(values: Tensor, table: Tensor, ones: Tensor, *others: Tensor | None) -> Sums:
    """The result of :func:`formula` by one kernel, which rounds the sum of all three once."""
    given = [(values, table, ones), *(others[i : i + 3] for i in range(0, len(others), 3))]
    width = values.shape[-1]
    sums: list[Tensor | None] = []
    tensors: list[Tensor] = []
    numbers: list[int] = []
    programs = 0
    for own in (*given, *((None,) * 3 for _ in range(3 - len(given)))):
        value, row, one = own
        if value is None or row is None or one is None:
            sums.append(None)
            # Arguments of a kernel have to be tensors, whether it reads them or not.
            value, row, one, out = values, table, ones, values
        else:
            assert value.stride(-1) == row.stride(-1) == 1
            sums.append(out := torch.empty(value.shape, dtype=value.dtype, device=value.device))
            programs += value.shape[0] * value.shape[1]
        tensors += [value, row, one, out]
        numbers += [value.stride(0), value.stride(1), row.stride(0), one.stride(0), value.shape[1], programs]
    launch(
        _add_tables,
        programs,
        *tensors,
        *numbers,
        on=values.device,
        WIDTH=width,
        BLOCK=triton.next_power_of_2(width),
        num_warps=warps(width),
    )
    first, second, third = sums
    assert first is not None
    return first, second, third


@jit
def _add_row(  # type: ignore[no-untyped-def]
    number,
    values,
    table,
    ones,
    out,
    values_group,
    values_row,
    table_row,
    ones_row,
    rows,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    group, row = number // rows, number % rows
    channel = tl.arange(0, BLOCK)
    inside = channel < WIDTH
    value = tl.load(values + group * values_group + row * values_row + channel, mask=inside, other=0.0)
    learned = tl.load(table + row * table_row + channel, mask=inside, other=0.0)
    total = value.to(tl.float32) + learned.to(tl.float32) + tl.load(ones + row * ones_row).to(tl.float32)
    tl.store(out + number * WIDTH + channel, total, mask=inside)


@jit
def _add_tables(  # type: ignore[no-untyped-def]
    values,
    table,
    ones,
    out,
    values_2,
    table_2,
    ones_2,
    out_2,
    values_3,
    table_3,
    ones_3,
    out_3,
    values_group,
    values_row,
    table_row,
    ones_row,
    rows,
    end,
    values_2_group,
    values_2_row,
    table_2_row,
    ones_2_row,
    rows_2,
    end_2,
    values_3_group,
    values_3_row,
    table_3_row,
    ones_3_row,
    rows_3,
    end_3,  # noqa: ARG001 the number of programs
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    # One program a row, of whichever table.
    number = tl.program_id(0).to(tl.int64)
    if number < end:
        _add_row(
            number, values, table, ones, out,
            values_group, values_row, table_row, ones_row, rows, WIDTH, BLOCK,
        )  # fmt: skip
    elif number < end_2:
        _add_row(
            number - end, values_2, table_2, ones_2, out_2,
            values_2_group, values_2_row, table_2_row, ones_2_row, rows_2, WIDTH, BLOCK,
        )  # fmt: skip
    else:
        _add_row(
            number - end_2, values_3, table_3, ones_3, out_3,
            values_3_group, values_3_row, table_3_row, ones_3_row, rows_3, WIDTH, BLOCK,
        )  # fmt: skip
