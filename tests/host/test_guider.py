"""The guider in the host: no block is computed twice, and skipped steps cost nothing."""

from __future__ import annotations

import json

import pytest
from host_graph import Link
from host_server import GraphError, Server
from test_ab_samplers import NEUTRAL, Bench, distance
from tiny_models import TinyModels

ALL = {"cfg": 3.0, "stg": 1.0, "modality": 3.0, "rescale": 0.7}
SIGMAS = "1, 0.8, 0.5, 0"
STEPS = 3


def test_the_perturbed_pass_shares_blocks_with_the_same_result(server: Server, models: TinyModels) -> None:
    bench = Bench(models)
    euler, plain = bench.core("euler"), bench.model
    shared = bench.sample(bench.guider(ALL, stg_blocks="1"), euler, SIGMAS)
    bench.model = bench.g.add("LTX2ProbeWrapped", model=plain)
    whole = bench.sample(bench.guider(ALL, stg_blocks="1"), euler, SIGMAS)
    found = bench.run(server, shared=shared, whole=whole)
    assert distance(found["shared"], found["whole"]) == 0


@pytest.mark.parametrize(
    ("scales", "changes", "first_block", "last_block"),
    [
        (NEUTRAL, {}, STEPS, STEPS),
        (ALL, {"stg_blocks": "1"}, 3 * STEPS, 4 * STEPS),
        (ALL, {"stg_blocks": "1", "from_sigma": 0.6}, 2 + 3, 2 + 4),
        ({**ALL, "stg": 0.0, "skip_steps": 1}, {}, 2 * 3, 2 * 3),
        ({**ALL, "stg": 0.0, "skip_steps": 99}, {}, 3, 3),
    ],
)
def test_each_block_computes_no_more_than_the_guidance_needs(
    server: Server, models: TinyModels, scales: dict, changes: dict, first_block: int, last_block: int
) -> None:
    bench = Bench(models)
    bench.model = bench.g.add("LTX2ProbeCount", model=bench.model, name=json.dumps([scales, changes]))
    latent = bench.sample(bench.guider(scales, **changes), bench.core("euler"), SIGMAS)
    bench.g.add("LTX2ProbeCounts", model=bench.model, latent=latent)
    counts = server.run(bench.g.prompt).report()
    assert (counts[0], counts[-1]) == (first_block, last_block)


def test_the_schedule_of_a_preset_can_be_changed_number_by_number(server: Server, models: TinyModels) -> None:
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

    def preset(name: str, **numbers: object) -> object:
        scales = {
            f"{stream}_{scale}": NEUTRAL[scale]
            for stream in ("video", "audio")
            for scale in ("cfg", "stg", "modality", "rescale")
        }
        values = {"sampler": "euler", "eta": 0.0, "stg_blocks": "", **scales, **numbers}
        return bench.g.add(
            "LTX2AVSampleStage", **stage, preset=name, **{f"preset.{k}": v for k, v in values.items()}
        )

    shape = {"max_shift": 3.0, "base_shift": 1.0, "terminal": 0.2}
    sigmas = bench.g.add("LTX2AVScheduler", latent=bench.latent, steps=3, stretch=True, **shape)
    manual = bench.g.add("ManualSigmas", sigmas="0.9, 0.4, 0")
    found = bench.run(
        server,
        shaped=preset("dev 20", steps=3, **shape),
        by_hand=bench.g.add("LTX2AVSampleStage", **stage, sigmas=sigmas),
        listed=preset("distilled 3", sigmas="0.9, 0.4, 0"),
        manual=bench.g.add("LTX2AVSampleStage", **stage, sigmas=manual),
    )
    assert distance(found["shaped"], found["by_hand"]) < 1e-5
    assert distance(found["listed"], found["manual"]) < 1e-5
    assert distance(found["shaped"], found["listed"]) > 1e-3


def test_a_schedule_in_two_parts_equals_the_whole_one(server: Server, models: TinyModels) -> None:
    bench = Bench(models)
    guider = bench.guider({"cfg": 3.0})
    parts = ("1, 0.95, 0.8", "0.8, 0.5, 0")
    samplings = {}
    for name in ("euler", "euler_cfg_pp"):
        sampler = bench.ours(name)
        first = bench.sample(guider, sampler, parts[0])
        samplings[f"{name} whole"] = bench.sample(guider, sampler, "1, 0.95, 0.8, 0.5, 0")
        samplings[f"{name} parts"] = bench.g.add(
            "SamplerCustomAdvanced",
            noise=bench.g.add("DisableNoise"),
            guider=guider,
            sampler=sampler,
            sigmas=bench.g.add("ManualSigmas", sigmas=parts[1]),
            latent_image=first,
        )
    found = bench.run(server, **samplings)
    for name in ("euler", "euler_cfg_pp"):
        assert distance(found[f"{name} whole"], found[f"{name} parts"]) < 1e-5


def ranged(bench: Bench, *below: tuple[float, float]) -> Link:
    """All of guidance at first, and cfg alone from each noise level down."""
    ranges: dict[str, Link] = {}
    for sigma, cfg in below:
        scales = bench.g.add("LTX2AVStreamGuidance", **{**NEUTRAL, "cfg": cfg})
        ranges["ranges"] = bench.g.add("LTX2AVGuidanceRange", below_sigma=sigma, video=scales, **ranges)
    return bench.guider({**ALL, "stg": 0.0}, **ranges)


def test_ranges_of_guidance_equal_runs_with_each_alone(server: Server, models: TinyModels) -> None:
    bench = Bench(models)
    euler, latent = bench.core("euler"), bench.latent
    whole = bench.sample(ranged(bench, (0.3, 1.0), (0.85, 2.0)), euler, "1, 0.8, 0.3, 0")
    first = bench.guider({**ALL, "stg": 0.0})
    alone = bench.sample(first, euler, "1, 0.8, 0.3, 0")
    bench.latent = bench.sample(first, euler, "1, 0.8")
    bench.latent = bench.sample(bench.guider({"cfg": 2.0}), euler, "0.8, 0.3", noise=False)
    parts, bench.latent = bench.sample(bench.guider({}), euler, "0.3, 0", noise=False), latent
    found = bench.run(server, whole=whole, parts=parts, alone=alone)
    assert distance(found["whole"], found["parts"]) < 1e-5
    assert distance(found["whole"], found["alone"]) > 1e-3


def test_a_range_costs_the_passes_that_it_needs(server: Server, models: TinyModels) -> None:
    bench = Bench(models)
    bench.model = bench.g.add("LTX2ProbeCount", model=bench.model, name="ranges")
    guider = ranged(bench, (0.85, 2.0), (0.3, 1.0))
    latent = bench.sample(guider, bench.core("euler"), "1, 0.8, 0.3, 0")
    bench.g.add("LTX2ProbeCounts", model=bench.model, latent=latent)
    assert {*server.run(bench.g.prompt).report()} == {3 + 2 + 1}


def test_two_ranges_at_one_noise_level_are_an_error(server: Server, models: TinyModels) -> None:
    bench = Bench(models)
    latent = bench.sample(ranged(bench, (0.5, 2.0), (0.5, 1.0)), bench.core("euler"))
    with pytest.raises(GraphError, match=r"below_sigma=0\.5 is used by two .* such as 0\.25"):
        bench.run(server, latent=latent)
