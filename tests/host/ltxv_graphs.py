"""Parts of graphs that sample LTX-Video, by ComfyUI's nodes and by ours."""

from __future__ import annotations

import torch
from host_graph import Graph, Link

from ltx2_core.tiny.settings import TEXT_WIDTH

SIZE = {"width": 64, "height": 64}


def texts(g: Graph) -> Link:
    states = [
        g.add("LTX2ProbeTextStates", seed=seed, valid=valid, width=TEXT_WIDTH)
        for seed, valid in ((1, 9), (2, 4))
    ]
    return g.add("LTXVConditioning", positive=states[0], negative=states[1], frame_rate=24.0)


def sampled_by_core(g: Graph, model: Link, text: Link, latent: Link, sigmas: Link | None = None) -> Link:
    if sigmas is None:
        shape = {"max_shift": 2.05, "base_shift": 0.95, "stretch": True, "terminal": 0.1}
        sigmas = g.add("LTXVScheduler", steps=2, **shape, latent=latent)
    return g.add(
        "SamplerCustomAdvanced",
        noise=g.add("RandomNoise", noise_seed=42),
        guider=g.add("CFGGuider", model=model, positive=text, negative=text[1], cfg=3.0),
        sampler=g.add("KSamplerSelect", sampler_name="euler"),
        sigmas=sigmas,
        latent_image=latent,
    )


def sampled_by_us(g: Graph, model: Link, text: Link, latent: Link, sigmas: Link | None = None) -> Link:
    more = {} if sigmas is None else {"sigmas": sigmas}
    return g.add(
        "LTX2AVSampleStage",
        model=model,
        positive=text,
        negative=text[1],
        latent=latent,
        seed=42,
        schedule="LTX-2 scheduler",
        steps=2,
        cfg=3.0,
        audio_cfg=0.0,
        sampler="euler",
        **more,
    )


def our_plan(g: Graph) -> Link:
    return g.add(
        "LTX2AVClipPlan",
        **SIZE,
        length_unit="frames",
        length=9.0,
        fps=24.0,
        snap="error",
        stages="1",
        batch_size=1,
        with_audio=False,
    )


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.float() - b.float()).norm() / a.float().norm())
