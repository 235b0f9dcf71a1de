"""A step after the first asks for no value of a tensor, for which the CPU would wait for a GPU."""

from __future__ import annotations

import pytest
import torch
from recorded import PLAN, noisy, soft_state, text
from torch.utils._python_dispatch import TorchDispatchMode

from ltx2_core.conditioning.guide_frames import GuideFrames
from ltx2_core.conditioning.items import ImageInPlace
from ltx2_core.conditioning.state import empty_state
from ltx2_core.sampling.denoiser import Denoiser
from ltx2_core.sampling.guidance import CFG
from ltx2_core.sampling.samplers.base import SamplerRun
from ltx2_core.shapes import plan_clip
from ltx2_core.types import AVLatent, Numerics

WAITS = {
    "_local_scalar_dense",
    "_unique2",
    "bincount",
    "equal",
    "is_nonzero",
    "masked_select",
    "nonzero",
    "unique_consecutive",
    "unique_dim",
}
"""Operations whose result, or the size of it, depends on values."""


class Asked(TorchDispatchMode):
    """Collects the operations for which the CPU would wait."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        flags = [a for a in torch.utils._pytree.tree_leaves(args[1:]) if isinstance(a, torch.Tensor)]
        by_flags = name.startswith(("index", "_index")) and any(a.dtype == torch.bool for a in flags)
        if name in WAITS or by_flags:
            self.found.append(name)
        return func(*args, **(kwargs or {}))


def image() -> ImageInPlace:
    return ImageInPlace(latent=torch.randn(1, 128, 1, 2, 2))


def guide(**options) -> GuideFrames:
    return GuideFrames(latent=torch.randn(1, 128, 1, 2, 2), frame=9, **options)


PLAN_4X4 = plan_clip(128, 128, frames=17, fps=25)

STATES = {
    "text to video": lambda: empty_state(PLAN),
    "image to video": lambda: image().apply(empty_state(PLAN)),
    "soft mask": soft_state,
    "guide": lambda: guide().apply(empty_state(PLAN)),
    "coarse guide": lambda: guide(scale=2).apply(empty_state(PLAN_4X4)),
    "weighted guides": lambda: guide(strength=0.6, attention=0.4).apply(guide().apply(empty_state(PLAN))),
}


@pytest.mark.parametrize("numerics", [Numerics.OFFICIAL, Numerics.COMFY])
@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("name", STATES)
def test_a_step_after_the_first_waits_for_nothing(model, name, guided, numerics):
    torch.manual_seed(0)
    state = STATES[name]()
    negative, guidance = (text(1), CFG(video=3, audio=2)) if guided else (None, None)
    denoiser = Denoiser(model, state, text(), negative, guidance=guidance, numerics=numerics)
    x = noisy(state)
    denoiser(x, 0.9)
    with Asked() as asked:
        denoiser(x, 0.7)
    assert asked.found == []


def test_fresh_noise_is_copied_to_the_device_without_a_wait():
    """Ancestral samplers draw on the CPU in every step; ``meta`` stands for a GPU."""
    copies = []

    class Copied(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func.overloadpacket.__name__ == "_to_copy" and torch.device("meta") == kwargs.get("device"):
                copies.append(kwargs.get("non_blocking", False))
            return func(*args, **(kwargs or {}))

    on_device = AVLatent(torch.zeros(1, 128, 2, 2, 2, device="meta"), torch.zeros(1, 8, 4, 16, device="meta"))
    run = SamplerRun(None, torch.Generator().manual_seed(0), preserve=None, history=None)
    with Copied():
        noise = run.noise(on_device)
    assert noise.video.is_meta
    assert copies == [True, True]
