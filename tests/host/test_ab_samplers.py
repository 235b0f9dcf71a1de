"""Our SAMPLER and GUIDER in core's sampling nodes give what core's give, where core has the like."""

from __future__ import annotations

import pytest
import torch
from host_graph import Graph, Link
from host_server import GraphError, Server
from tiny_models import TinyModels
from torch import Tensor

TOLERANCE = 1e-5
"""Relative L2."""

IN_CORE = (
    "euler",
    "euler_ancestral",
    "euler_cfg_pp",
    "euler_ancestral_cfg_pp",
    "gradient_estimation",
    "dpmpp_2m",
    "res_multistep",
)
NEUTRAL = {
    "cfg": 1.0,
    "stg": 0.0,
    "modality": 1.0,
    "rescale": 0.0,
    "identity": 0.0,
    "cfg_star": False,
    "apg_eta": 1.0,
    "apg_threshold": 0.0,
}
WHOLE = {
    "stg_blocks": "",
    "from_sigma": 1.0,
    "to_sigma": 0.0,
    "nag_scale": 1.0,
    "nag_alpha": 0.25,
    "nag_tau": 2.5,
}
SIGMAS = "1, 0.95, 0.8, 0.5, 0"


class Bench:
    """One graph with models, text and latent; samplings are added to it."""

    def __init__(self, models: TinyModels, *, ours: bool = True, mask: str = "", audio: bool = True) -> None:
        self.g = Graph()
        name = models.checkpoints["2.3"]
        loader = "LTX2AVLoadCheckpoint" if ours else "CheckpointLoaderSimple"
        network = {"network": "LTX-2, as this ComfyUI"} if ours else {}
        self.model = self.g.add(loader, ckpt_name=name, **network)
        clip = self.g.add("LTX2AVLoadTextEncoder", text_encoder=models.text_encoder, ckpt_name=name)
        self.text = self.g.add("LTX2AVPrompt", clip=clip, positive="a red ball", negative="noise", fps=24.0)
        self.latent = self.g.add("LTX2AVEmptyLatent", width=64, height=64, frames=17, fps=24.0, batch_size=1)
        parts = self.g.add("LTXVSeparateAVLatent", av_latent=self.latent)
        video: Link = parts
        if mask:
            video = self.g.add("LTX2ProbeFrameMask", latent=parts, values=mask)
        self.latent = (
            self.g.add("LTXVConcatAVLatent", video_latent=video, audio_latent=parts[1]) if audio else video
        )

    def cfg_guider(self, cfg: float = 3.0) -> Link:
        return self.g.add("CFGGuider", model=self.model, positive=self.text, negative=self.text[1], cfg=cfg)

    def guider(self, video: dict | None = None, audio: dict | None = None, **changes: object) -> Link:
        scales = {
            name: self.g.add("LTX2AVStreamGuidance", **{**NEUTRAL, **given})
            for name, given in (("video", video or {}), ("audio", audio))
            if given is not None
        }
        inputs = {"model": self.model, "positive": self.text, "negative": self.text[1], **WHOLE, **changes}
        return self.g.add("LTX2AVGuider", **{**inputs, **scales})

    def core(self, name: str) -> Link:
        return self.g.add("KSamplerSelect", sampler_name=name)

    def ours(self, name: str, eta: float = -1.0) -> Link:
        return self.g.add("LTX2AVSampler", sampler=name, eta=eta)

    def sample(
        self, guider: Link, sampler: Link, sigmas: str = SIGMAS, seed: int = 42, *, noise: bool = True
    ) -> Link:
        return self.g.add(
            "SamplerCustomAdvanced",
            noise=self.g.add("RandomNoise", noise_seed=seed) if noise else self.g.add("DisableNoise"),
            guider=guider,
            sampler=sampler,
            sigmas=self.g.add("ManualSigmas", sigmas=sigmas),
            latent_image=self.latent,
        )

    def run(self, server: Server, **samplings: Link) -> dict[str, dict[str, Tensor]]:
        for name, latent in samplings.items():
            self.g.dump(name, latent=latent)
        result = server.run(self.g.prompt)
        return {name: result.tensors(name) for name in samplings}


def distance(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """The largest relative L2 of a stream."""
    assert a.keys() == b.keys()
    names = [name for name in a if name.startswith("latent")]
    assert names
    return max(((a[n] - b[n]).norm() / a[n].norm()).item() for n in names)


@pytest.mark.parametrize("mask", ["", "0,0.5,1"])
@pytest.mark.parametrize("name", IN_CORE)
def test_a_sampler_gives_what_cores_of_the_same_name_gives(
    server: Server, models: TinyModels, name: str, mask: str
) -> None:
    bench = Bench(models, mask=mask)
    guider = bench.cfg_guider()
    core, ours = bench.sample(guider, bench.core(name)), bench.sample(guider, bench.ours(name))
    found = bench.run(server, core=core, ours=ours, euler=bench.sample(guider, bench.core("euler")))
    assert distance(found["core"], found["ours"]) < TOLERANCE
    if name != "euler":
        assert distance(found["core"], found["euler"]) > 1e-3


def test_samplers_work_on_cores_own_model_and_on_video_alone(server: Server, models: TinyModels) -> None:
    for bench in (Bench(models, ours=False), Bench(models, audio=False)):
        guider = bench.cfg_guider()
        names = ("dpmpp_2m", "euler_ancestral_cfg_pp")
        samplings = {f"core_{n}": bench.sample(guider, bench.core(n)) for n in names}
        samplings |= {f"ours_{n}": bench.sample(guider, bench.ours(n)) for n in names}
        found = bench.run(server, **samplings)
        for name in names:
            assert distance(found[f"core_{name}"], found[f"ours_{name}"]) < TOLERANCE


def test_res_2s_repeats_itself_and_preserves_what_is_masked(server: Server, models: TinyModels) -> None:
    bench = Bench(models, mask="0,1,1")
    guider = bench.cfg_guider()
    again = Bench(models, mask="0,1,1")
    first = bench.run(
        server,
        first=bench.sample(guider, bench.ours("res_2s")),
        quiet=bench.sample(guider, bench.ours("res_2s", 0.0)),
    )
    second = again.run(server, second=again.sample(again.cfg_guider(), again.ours("res_2s")))["second"]
    assert distance(first["first"], second) == 0
    assert distance(first["first"], first["quiet"]) > 1e-3
    assert not first["first"]["latent/video"][:, :, 0].any()


def test_neutral_guidance_is_cores_at_cfg_1_and_cfg_alone_is_cores_guider(
    server: Server, models: TinyModels
) -> None:
    bench = Bench(models)
    euler = bench.core("euler")
    cfg = {"cfg": 3.0}
    found = bench.run(
        server,
        core_one=bench.sample(bench.cfg_guider(1.0), euler),
        ours_one=bench.sample(bench.guider(), euler),
        core=bench.sample(bench.cfg_guider(), euler),
        ours=bench.sample(bench.guider(cfg), euler),
        core_pp=bench.sample(bench.cfg_guider(1.0), bench.core("euler_cfg_pp")),
        ours_pp=bench.sample(bench.guider(), bench.ours("euler_cfg_pp")),
        late=bench.sample(bench.guider(cfg, from_sigma=0.9), euler),
        never=bench.sample(bench.guider(cfg, from_sigma=0.1), euler),
    )
    for name in ("_one", "", "_pp"):
        assert distance(found[f"core{name}"], found[f"ours{name}"]) < TOLERANCE
    assert distance(found["core_one"], found["never"]) < TOLERANCE
    assert distance(found["core"], found["late"]) > 1e-4


def test_each_scale_changes_the_clip_and_the_passes_in_one_call_or_many_give_the_same(
    server: Server, models: TinyModels
) -> None:
    bench = Bench(models)
    euler = bench.core("euler")
    scales = {
        "stg": {"stg": 1.0},
        "modality": {"modality": 3.0},
        "cfg_star": {"cfg": 3.0, "cfg_star": True},
        "apg": {"cfg": 3.0, "apg_eta": 0.0},
        "rescaled": {"cfg": 3.0, "rescale": 0.7},
        "all": {"cfg": 3.0, "stg": 1.0, "modality": 3.0, "rescale": 0.7},
    }
    samplings = {name: bench.sample(bench.guider(given), euler) for name, given in scales.items()}
    samplings["plain"] = bench.sample(bench.cfg_guider(1.0), euler)
    samplings["cfg"] = bench.sample(bench.cfg_guider(), euler)
    samplings["nag"] = bench.sample(bench.guider(nag_scale=11.0), euler)
    found = bench.run(server, **samplings)
    for name in (*scales, "nag"):
        for other in ("plain", "cfg"):
            assert distance(found[other], found[name]) > 1e-4, (name, other)


def test_modality_guidance_is_the_sum_of_runs_with_cores_switches(server: Server, models: TinyModels) -> None:
    bench = Bench(models)
    one_step = "1, 0"
    found = bench.run(
        server,
        plain=bench.sample(bench.guider(), bench.core("euler"), one_step),
        double=bench.sample(bench.guider({"modality": 2.0}), bench.core("euler"), one_step),
        triple=bench.sample(bench.guider({"modality": 3.0}), bench.core("euler"), one_step),
    )
    for name in ("latent/video", "latent/audio"):
        plain, double, triple = (found[run][name] for run in ("plain", "double", "triple"))
        torch.testing.assert_close(triple - plain, 2 * (double - plain), atol=1e-4, rtol=1e-3)


def test_identity_guidance_is_that_of_cores_node(server: Server, models: TinyModels) -> None:
    bench = Bench(models)
    g, euler = bench.g, bench.core("euler")
    vae = g.add("LTXVAudioVAELoader", ckpt_name=models.checkpoints["2.3"])
    sound = g.add("LTX2ProbeAudio", samples=6400, sample_rate=16000, channels=2)
    plain, samplings = bench.model, {}
    for name, scale in (("core", 2.0), ("ours", 0.0)):
        referenced = g.add(
            "LTXVReferenceAudio",
            model=plain,
            positive=bench.text,
            negative=bench.text[1],
            reference_audio=sound,
            audio_vae=vae,
            identity_guidance_scale=scale,
            start_percent=0.0,
            end_percent=1.0,
        )
        texts = {"model": referenced, "positive": referenced[1], "negative": referenced[2]}
        if name == "core":
            guider = g.add("CFGGuider", cfg=3.0, **texts)
        else:
            guider = bench.guider({"cfg": 3.0, "identity": 2.0}, **texts)
        samplings[name] = bench.sample(guider, euler)
    found = bench.run(server, **samplings)
    assert distance(found["core"], found["ours"]) < TOLERANCE


def test_a_stage_with_a_preset_is_the_guider_and_the_sampler_by_hand(
    server: Server, models: TinyModels
) -> None:
    bench = Bench(models)
    stage = {
        "model": bench.model,
        "positive": bench.text,
        "negative": bench.text[1],
        "latent": bench.latent,
        "seed": 42,
        "schedule": "distilled 8",
        "steps": 2,
        "cfg": 1.0,
        "audio_cfg": 0.0,
        "sampler": "euler",
    }
    numbers = {"steps": 3, "sampler": "res_2s", "eta": 0.4, "stg_blocks": ""}
    scales = {"video": {"cfg": 3.0, "modality": 2.0}, "audio": {"cfg": 5.0, "rescale": 0.5}}
    for stream, given in scales.items():
        for name in ("cfg", "stg", "modality", "rescale"):
            numbers[f"{stream}_{name}"] = {**NEUTRAL, **given}[name]
    preset = {"preset": "quality res_2s 15", **{f"preset.{name}": v for name, v in numbers.items()}}
    chosen = bench.g.add("LTX2AVSampleStage", **stage, **preset)
    by_hand = bench.g.add(
        "SamplerCustomAdvanced",
        noise=bench.g.add("RandomNoise", noise_seed=42),
        guider=bench.guider(scales["video"], scales["audio"]),
        sampler=bench.ours("res_2s", 0.4),
        sigmas=bench.g.add(
            "LTX2AVScheduler",
            latent=bench.latent,
            steps=3,
            max_shift=2.05,
            base_shift=0.95,
            stretch=True,
            terminal=0.1,
        ),
        latent_image=bench.latent,
    )
    without = bench.g.add("LTX2AVSampleStage", **stage)
    as_above = bench.g.add("LTX2AVSampleStage", **stage, preset="as above")
    found = bench.run(server, chosen=chosen, by_hand=by_hand, without=without, as_above=as_above)
    assert distance(found["chosen"], found["by_hand"]) == 0
    assert distance(found["without"], found["as_above"]) == 0
    assert distance(found["without"], found["chosen"]) > 1e-3


@pytest.mark.parametrize(
    ("scales", "changes", "message"),
    [
        ({"cfg": 3.0}, {"nag_scale": 5.0}, "takes the place"),
        ({"stg": 1.0}, {"stg_blocks": "99"}, "blocks 0 to"),
        ({"stg": 1.0}, {"stg_blocks": "x"}, "block numbers"),
        ({"cfg": 3.0}, {"to_sigma": 0.9, "from_sigma": 0.5}, "to_sigma"),
    ],
)
def test_what_cannot_be_guided_says_what_to_do(
    server: Server, models: TinyModels, scales: dict, changes: dict, message: str
) -> None:
    bench = Bench(models, ours=True)
    with pytest.raises(GraphError, match=message):
        bench.run(server, latent=bench.sample(bench.guider(scales, **changes), bench.core("euler")))
