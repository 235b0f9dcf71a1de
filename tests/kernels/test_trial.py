"""A kernel that fails or is wrong is not used, and the run continues with its formula."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ltx2_core.kernels.language import problem
from ltx2_core.kernels.trial import Kernel, Trials

CPU = torch.device("cpu")
pytestmark = pytest.mark.skipif(problem(CPU) is not None, reason=f"{problem(CPU)}")


def doubled(x: torch.Tensor) -> torch.Tensor:
    return x.mul_(2)


def unsupported(x: torch.Tensor) -> Any:
    raise RuntimeError("PTX was compiled with an unsupported toolchain\nand more lines")


def full(x: torch.Tensor) -> Any:
    raise torch.OutOfMemoryError("CUDA out of memory")


FAILING = {
    "wrong by a hundredth": (lambda x: x.mul_(2.02), "it is off by"),
    "not what it returns but what it writes": (lambda x: x * 2, "it is off by"),
    "NaN": (lambda x: x.mul_(torch.nan), "it is off by inf"),
    "an error of the driver": (unsupported, "RuntimeError: PTX was compiled with an unsupported toolchain"),
}


@pytest.mark.parametrize("case", FAILING)
def test_a_kernel_that_fails_is_off_and_the_log_says_why_once(case, caplog):
    launch, why = FAILING[case]
    trials, kernel = Trials(), Kernel("twice", launch, doubled)
    for _ in range(2):
        x = torch.ones(2, 6, 8)
        assert torch.equal(trials.run(kernel, x), torch.full((2, 6, 8), 2.0))
    assert f"the kernel twice cannot be used here: {why}" in trials.problem
    assert "\n" not in trials.problem
    assert caplog.text.count("the kernel twice") == 1


def test_a_kernel_that_agrees_is_used_for_its_kind_of_arguments():
    calls = []
    kernel = Kernel("twice", lambda x: calls.append(tuple(x.shape)) or x.mul_(2), doubled)
    trials = Trials()
    for shape in ((1, 9, 8), (2, 5, 8), (1, 9, 16)):
        trials.run(kernel, torch.ones(*shape))
    assert calls == [(1, 4, 8), (1, 9, 8), (2, 5, 8), (1, 4, 16), (1, 9, 16)], (
        "four tokens are tried of each width"
    )
    assert trials.problem is None


def test_a_trial_changes_nothing():
    x = torch.ones(1, 9, 8)
    Trials().run(Kernel("twice", lambda x: x.mul_(2), doubled), x)
    assert torch.equal(x, torch.full((1, 9, 8), 2.0))


def test_nan_of_a_damaged_latent_does_not_turn_kernels_off():
    trials, x = Trials(), torch.full((1, 9, 8), torch.nan)
    trials.run(Kernel("twice", doubled, doubled), x)
    assert trials.problem is None


def test_running_out_of_memory_is_no_failed_trial():
    trials = Trials()
    with pytest.raises(torch.OutOfMemoryError):
        trials.run(Kernel("twice", full, doubled), torch.ones(1, 9, 8))
    assert trials.problem is None
