"""Published figures of other programs on GPUs, as a table beside the rows that were measured."""

from __future__ import annotations

from collections.abc import Sequence

from rows import Row

PUBLISHED = (
    ("SGLang, H100, LTX-2.3 HQ, 1920x1088x121", "a step", 0.885, "step 1920x1088x121, fused"),
    ("SGLang, H100, LTX-2.3 HQ, 1920x1088x121", "decode", 1.29, "decode 2.3 1920x1088x121"),
    ("SGLang, H100, LTX-2, 768x512x121, 8 steps, bf16", "a step and an eighth of the rest", 9.52 / 8,
     "step 768x512x121, fused"),
    ("SGLang, H100, LTX-2, 768x512x121, 8 steps, fp8", "a step and an eighth of the rest", 7.55 / 8,
     "step 768x512x121, fp8, fused"),
)  # fmt: skip
"""What was measured, of what, seconds, and the row of this benchmark that is most like it."""


def table(rows: Sequence[Row]) -> str:
    """The published figures in Markdown, each with the row that is most like it, where that was measured."""
    by_name = {row["row"]: row for row in rows}
    lines = ["| published | of | s | here | s here |", "|---|---|---|---|---|"]
    for what, part, seconds, name in PUBLISHED:
        row = by_name.get(name, {})
        here = row["ms"] / 1000 if "ms" in row else row.get("s")
        measured = "not measured" if here is None else f"{here:.3g}"
        lines.append(f"| {what} | {part} | {seconds:.3g} | {name} | {measured} |")
    return "\n".join(lines)
