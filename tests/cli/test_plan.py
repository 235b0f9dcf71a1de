"""The command ``ltx2 plan``: its last line says whether a clip fits, and how to run it."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from ltx2_core.cli.main import main

CASES = [
    # (budgets, what the last line says)
    (["24GB"], ["The clip fits 24 GB:", "--max-memory 24GB"]),
    (["80GB"], ["The clip fits 80 GB:", "without --max-memory"]),
    (
        ["12GB", "4GB", "80GB"],
        ["The clip fits 12 GB and more:", "--max-memory 12GB", "from 80 GB on no block"],
    ),
    (["2GB", "3GB"], ["The clip does not fit:", "of 3 GB", "allow at least 4."]),
]


@pytest.mark.parametrize(("budgets", "parts"), CASES)
def test_the_last_line_says_what_to_do(budgets, parts):
    words = [word for budget in budgets for word in ("--max-memory", budget)]
    ran = CliRunner().invoke(main, ["plan", *words])
    assert ran.exit_code == 0, ran.output
    last = ran.output.splitlines()[-1]
    assert all(part in last for part in parts), last


@pytest.mark.parametrize(
    ("rounds", "clip", "steps", "largest"),
    [
        # 121 frames are whole segments of 24; each round samples tiles with 4 steps.
        (0, "768x512, 121 frames at 24 fps = 5.042 s", [8, 3], "stage 2"),
        (1, "768x512, 241 frames at 48 fps = 5.021 s", [8, 3, 4, 4], "stage 4"),
        (2, "768x512, 481 frames at 96 fps = 5.010 s", [8, 3, 4, 4, 4, 4, 4, 4], "stage 6"),
    ],
)
def test_the_dfr_pipeline_of_the_released_model_is_planned_without_files(rounds, clip, steps, largest):
    words = ["plan", "--model", "2.5", "--pipeline", "dfr", "--temporal-rounds", str(rounds)]
    ran = CliRunner().invoke(main, [*words, "--max-memory", "80GB"])
    assert ran.exit_code == 0, ran.output
    lines = ran.output.splitlines()
    assert lines[0] == clip
    assert lines[1] == f"DFR: 121 frames at 24 fps, sampled as 121; frame rate doubled {rounds} times"
    assert [int(line.split(" steps")[0].split()[-1]) for line in lines if " steps, " in line] == steps
    table = [line for line in lines if line.startswith("  stage ")]
    assert len(table) == len(steps)
    assert max(table, key=lambda row: float(row.split()[4])).startswith(f"  {largest}")


def test_int8_files_need_fewer_bytes_than_fp8_ones_for_the_text():
    ran = CliRunner().invoke(main, ["plan", "--model", "2.5", "--stored", "int8", "--max-memory", "24GB"])
    assert "the text encoder stays in system memory" not in ran.output
    assert "48 of 48 blocks stay on the device" in ran.output


def test_only_a_model_without_keyframes_is_told_of_the_released_one(monkeypatch):
    from ltx2_core.run import input_check

    def refuse(*_):
        raise ValueError("block 99 is not there")

    monkeypatch.setattr(input_check, "check_stages", refuse)
    ran = CliRunner().invoke(main, ["plan", "--model", "2.5", "--pipeline", "dfr"])
    assert "block 99 is not there" in ran.output
    assert "released one" not in ran.output
