"""Published figures of other programs on GPUs, as a table beside the rows that were measured."""

from __future__ import annotations

from collections.abc import Sequence

from rows import Row

_HQ = "SGLang, H100, LTX-2.3 HQ, 1920x1088x121"
_SGLANG = "SGLang, H100, LTX-2, 768x512x121, 8 steps"
_SGLANG_URL = "https://github.com/sgl-project/sglang/pull/23137"
_OMNI = "vLLM-Omni, four H200, LTX-2.5 with its diffusion decoder, 1920x1088x121"
_OMNI_URL = "https://github.com/vllm-project/vllm-omni/pull/7351"

PUBLISHED = (
    (_HQ, "", "a step", 0.885, "step 1920x1088x121, fused"),
    (_HQ, "", "decode", 1.29, "decode 2.3 1920x1088x121"),
    (f"{_SGLANG}, bf16", _SGLANG_URL, "whole, with text and audio", 9.523, "clip 768x512x121, 8 steps"),
    (f"{_SGLANG}, bf16", _SGLANG_URL, "8 steps", 6.006, "step 768x512x121, fused, times 8"),
    (f"{_SGLANG}, fp8", _SGLANG_URL, "8 steps", 4.853, "step 768x512x121, fp8, fused, times 8"),
    (_OMNI, _OMNI_URL, "decode on four GPUs", 2.473, "decode 2.3 1920x1088x121"),
)  # fmt: skip
"""What was measured, its page, of what, seconds, and the row of this benchmark that is most like it.

Of WanGP no figure is published together with its GPU, size, length and steps.
"""
TIMES = ", times 8"


def table(rows: Sequence[Row]) -> str:
    """The published figures in Markdown, each with the row that is most like it, where that was measured."""
    by_name = {row["row"]: row for row in rows}
    lines = ["| published | of | s | here | s here |", "|---|---|---|---|---|"]
    for what, page, part, seconds, name in PUBLISHED:
        row = by_name.get(name.removesuffix(TIMES), {})
        here = row["ms"] / 1000 if "ms" in row else row.get("s")
        if here is not None and name.endswith(TIMES):
            here *= 8
        measured = "not measured" if here is None else f"{here:.3g}"
        named = f"[{what}]({page})" if page else what
        lines.append(f"| {named} | {part} | {seconds:.3g} | {name} | {measured} |")
    return "\n".join(
        [*lines, "", "Of WanGP no figure is published together with GPU, size, length and steps."]
    )
