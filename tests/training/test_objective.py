"""The objective: tasks and conditions by name, known tokens, streams that are absent, accumulation."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.optim import lr_scheduler

from ltx2_core.training.lora import LoraAdapters
from ltx2_core.training.names import TASK_NAMES
from ltx2_core.training.objective import (
    Clips,
    GeneratorDraws,
    Reference,
    SigmaSampling,
    condition_of,
    losses,
    prepare,
    reference_factors,
    velocities,
)
from ltx2_core.training.objective.objective import TASKS, objective_of, official_objective
from ltx2_core.training.objective.sigmas import sigma_mean
from ltx2_core.training.schedules import SCHEDULES, schedule_of
from ltx2_core.training.targets import PRESETS, layer_pattern, reachable
from ltx2_core.training.updates import Updates
from ltx2_core.types import TextContext


@pytest.fixture
def clips(network) -> Clips:
    torch.manual_seed(3)
    text = network.connectors
    widths = (text.video_embeddings_connector.config.dim, text.audio_embeddings_connector.config.dim)
    return Clips(
        video=torch.randn(2, 128, 3, 2, 3),
        audio=torch.randn(2, 8, 17, 16),
        context=TextContext(*(torch.randn(2, 4, width) for width in widths)),
        fps=24.0,
        video_mask=(torch.rand(2, 3, 2, 3) > 0.5).float(),
        audio_mask=(torch.rand(2, 17) > 0.5).float(),
        references=(Reference(torch.randn(2, 128, 2, 1, 3), 12.0),),
        audio_references=(torch.randn(2, 8, 5, 16),),
    )


def draws(seed: int = 0) -> GeneratorDraws:
    return GeneratorDraws(torch.Generator().manual_seed(seed))


def known(step, stream: str = "video") -> torch.Tensor:
    return ~getattr(step, stream).in_loss


@pytest.mark.parametrize(
    ("text", "stream", "kind", "probability"),
    [
        ("first_frame", "video", "first_frame", 1.0),
        ("first_frame:0.25", "video", "first_frame", 0.25),
        ("audio.prefix=3:0.5", "audio", "prefix", 0.5),
        ("spatial_crop=0,0,64,64", "video", "crop", 1.0),
        ("audio.mask", "audio", "mask", 1.0),
    ],
)
def test_a_condition_is_written_as_a_kind_a_value_and_a_probability(text, stream, kind, probability) -> None:
    where, condition = condition_of(text)
    assert (where, condition.kind, condition.probability) == (stream, kind, probability)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("frist_frame", "unknown: use one of first_frame"),
        ("prefix", "how many latent frames"),
        ("prefix=0", "at least 1"),
        ("first_frame:1.5", "from 0 to 1"),
        ("first_frame:often", r"KIND\[=VALUE\]"),
        ("first_frame=2", "takes no number"),
        ("crop=64,0,0,64", "bottom below top"),
        ("crop=1,2", "takes no numbers|known rectangle"),
        ("audio.first_frame", "is for video"),
    ],
)
def test_a_condition_that_makes_no_sense_is_refused_in_words(text, message) -> None:
    with pytest.raises(ValueError, match=message):
        condition_of(text)


def test_known_tokens_are_clean_and_at_timestep_zero_and_have_no_loss(clips) -> None:
    objective = objective_of("t2v", ["first_frame", "suffix=1", "audio.mask"])
    step = prepare(objective, clips, draws())
    at = known(step)
    assert at.view(2, 3, 6).all(dim=2).tolist() == [[True, False, True]] * 2
    tokens = clips.video.movedim(1, -1).flatten(1, 3)
    assert torch.equal(step.video.modality.tokens[at], tokens[at])
    assert not step.video.modality.timesteps[at].any()
    assert torch.equal(known(step, "audio"), clips.audio_mask > 0.5)


def test_every_task_prepares_its_streams_and_references_stand_in_front(clips) -> None:
    assert {*TASK_NAMES} == {*TASKS, "outpaint"}
    same = replace(clips, references=(Reference(clips.video, 24.0),))
    for name in TASKS:
        objective = objective_of(name)
        step = prepare(objective, same, draws())
        assert (step.video is None, step.audio is None) == (objective.video is None, objective.audio is None)
        if name in ("v2v", "av2av"):
            assert step.video.modality.tokens.shape[1] == 2 * step.video.target.shape[1]
            assert not step.video.modality.timesteps[:, :18].any()
    with pytest.raises(ValueError, match="task 'i2w' is unknown"):
        objective_of("i2w")
    with pytest.raises(ValueError, match="does not generate audio"):
        objective_of("a2v", ["audio.prefix=2"])
    with pytest.raises(ValueError, match="add them to the dataset"):
        prepare(objective_of("v2v"), replace(clips, references=()), draws())


def test_the_scale_of_a_reference_must_fit_the_clip() -> None:
    clip = torch.zeros(1, 128, 5, 4, 6)
    assert reference_factors(clip, torch.zeros(1, 128, 3, 2, 3)) == (2, 2)
    for shape in ((5, 4, 3), (4, 4, 6), (5, 3, 6)):
        with pytest.raises(ValueError, match="does not fit a clip"):
            reference_factors(clip, torch.zeros(1, 128, *shape))


def test_a_clip_without_audio_trains_the_video_alone_and_leaves_audio_adapters(network, clips) -> None:
    objective = objective_of("t2v").of_streams(video=True, audio=False)
    assert objective.audio is None
    adapters = LoraAdapters(network.transformer, rank=2)
    step = prepare(objective, replace(clips, audio=None), draws())
    losses(objective, step, velocities(network.transformer, step)).total.mean().backward()
    for name, pair in zip(adapters.names, adapters.pairs, strict=True):
        assert (pair.b.grad is not None) == reachable(name, video=True, audio=False), name
    assert objective_of("a2v").of_streams(video=True, audio=False) is None
    assert objective_of("t2a").of_streams(video=True, audio=False) is None


def test_the_mark_of_the_first_latent_frame_and_float32_noise_are_ours_and_not_official(clips) -> None:
    half = replace(clips, video=clips.video.bfloat16())
    ours, official = (prepare(objective_of("t2v", official=value), half, draws()) for value in (False, True))
    assert ours.video.target.dtype == torch.float32
    assert official.video.target.dtype == torch.bfloat16
    assert ours.video.modality.keyframes.flatten(1).sum(dim=1).tolist() == [6, 6]
    assert official.video.modality.keyframes is None


def test_checkpointing_and_accumulation_do_not_change_the_gradient(network, clips) -> None:
    objective = objective_of("i2v")
    adapters = LoraAdapters(network.transformer, rank=2, targets=layer_pattern(["attention"]))
    whole = prepare(objective, clips, draws())

    def gradients() -> list[torch.Tensor]:
        found = [pair.b.grad.clone() for pair in adapters.pairs]
        adapters.zero_grad()
        return found

    losses(objective, whole, velocities(network.transformer, whole)).total.mean().backward()
    plain = gradients()
    losses(
        objective, whole, velocities(network.transformer, whole, checkpointing=True)
    ).total.mean().backward()
    for one, other in zip(plain, gradients(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    updates = Updates(
        optimizer=torch.optim.SGD(adapters.parameters(), lr=0.0),
        schedule=schedule_of("constant", 1, learning_rate=1.0),
        accumulation=2,
    )
    single = losses(objective, whole, velocities(network.transformer, whole)).total
    assert updates.add(single[0], now=False) is None
    norm = updates.add(losses(objective, whole, velocities(network.transformer, whole)).total[1])
    everything = torch.cat([gradient.flatten() for gradient in plain])
    assert norm == pytest.approx(float(everything.norm()), rel=1e-5)


@pytest.mark.parametrize("clip", [0.0, 1.0])
@pytest.mark.parametrize("gradient", [float("inf"), float("nan"), 3e38])
def test_a_gradient_whose_norm_is_not_finite_changes_no_weight(gradient, clip) -> None:
    weights = torch.nn.Parameter(torch.ones(4))
    updates = Updates(
        optimizer=torch.optim.AdamW([weights]),
        schedule=schedule_of("constant", 1, learning_rate=1.0),
        clip=clip,
        step=6,
    )
    # The norm of finite numbers may be infinite too.
    weights.register_hook(lambda grad: torch.full_like(grad, gradient))
    with pytest.raises(FloatingPointError, match=r"norm of the gradient is (inf|nan) at step 7.*lower learn"):
        updates.add(weights.sum())
    assert weights.tolist() == [1.0] * 4
    assert (updates.step, weights.grad) == (6, None)


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_starts_at_one_and_warms_up(name) -> None:
    assert schedule_of(name, 20, learning_rate=1e-4)(0) == 1
    assert schedule_of(name, 20, learning_rate=1e-4, warmup=3)(0) == 0.25
    with pytest.raises(ValueError, match="use one of constant"):
        schedule_of("lineer", 20, learning_rate=1e-4)


@pytest.mark.parametrize(
    ("name", "official"),
    [
        ("linear", lambda o, n: lr_scheduler.LinearLR(o, 1.0, 0.1, total_iters=n)),
        ("cosine", lambda o, n: lr_scheduler.CosineAnnealingLR(o, n)),
        (
            "cosine_with_restarts",
            lambda o, n: lr_scheduler.CosineAnnealingWarmRestarts(o, n // 4, eta_min=5e-5),
        ),
        ("polynomial", lambda o, n: lr_scheduler.PolynomialLR(o, n, power=1.0)),
        ("step", lambda o, n: lr_scheduler.StepLR(o, n // 2, gamma=0.1)),
    ],
)
def test_a_schedule_has_the_rates_of_torch(name, official) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=5e-3)
    scheduler, factor = official(optimizer, 10), schedule_of(name, 10, learning_rate=5e-3)
    for step in range(11):
        assert 5e-3 * factor(step) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-6, abs=1e-12)
        optimizer.step()
        scheduler.step()


def test_a_single_frame_is_never_known_whole_in_the_older_strategies(clips) -> None:
    image = replace(clips, video=clips.video[:, :, :1], audio=None)
    strategy = {"name": "text_to_video", "first_frame_conditioning_p": 1.0}
    for frames, count in ((image, 0), (replace(clips, audio=None), 6)):
        step = prepare(official_objective(strategy), frames, draws())
        assert known(step).sum(dim=1).tolist() == [count] * 2


def test_targets_are_presets_ends_of_names_or_patterns(network) -> None:
    names = [n for n, m in network.transformer.named_modules() if isinstance(m, torch.nn.Linear)]

    def found(*targets: str) -> set[str]:
        import re

        return {n for n in names if re.search(layer_pattern(targets), n)}

    assert found("attn1.to_k") == {n for n in names if n.endswith(".attn1.to_k")}
    assert found("attention") < found("attention+ff")
    assert not any("gate" in n for preset in PRESETS for n in found(preset))
    assert all(reachable(n, video=True, audio=False) for n in found("video"))
    assert found(r"regex:blocks\.0\.") == {n for n in names if "blocks.0." in n}
    for wrong, message in ((["regex:("], "regular expression"), ([], "is empty")):
        with pytest.raises(ValueError, match=message):
            layer_pattern(wrong)


@pytest.mark.parametrize(
    "wrong",
    [{"std": 0.0}, {"eps": 0.5}, {"uniform_prob": 2.0}, {"low": 0.5, "high": 0.5}, {"kind": "normal"}],
)
def test_a_distribution_of_noise_levels_out_of_range_is_refused(wrong) -> None:
    with pytest.raises(ValueError, match="must"):
        SigmaSampling(**wrong)


@pytest.mark.parametrize(("shift", "std"), [(10.0, 1e-7), (3.0, 1e-7), (-3.0, 1e-7), (None, 1e-7)])
def test_noise_levels_that_are_the_same_in_float32_are_refused(shift, std) -> None:
    with pytest.raises(
        ValueError, match=r"sigma_shift=.* with sigma_std=.* must give noise levels that differ"
    ):
        SigmaSampling(shift=shift, std=std)
    SigmaSampling(kind="uniform", shift=shift, std=std)


@pytest.mark.parametrize("tokens", [32640, 44480, 65536, 200_000])
def test_noise_levels_of_the_largest_clips_are_those_of_exact_formulas(tokens) -> None:
    """Float32 has few numbers near 1: of 1080p and 121 frames the official formula is off by some 1e-3."""
    normal, unused = torch.linspace(-3, 3, 256), torch.zeros(256)
    levels = SigmaSampling(uniform_prob=0.0).of_draws(normal, unused, unused + 1, tokens)
    mean = sigma_mean(tokens)
    # In float64 by distances to 1, which no number of tokens rounds away.
    low, high, own = (
        torch.sigmoid(-(mean + x)) for x in (torch.tensor(-2.5758), torch.tensor(3.0902), normal.double())
    )
    exact = (low - own) / (low - high)
    exact = torch.where(exact < 1e-3, 2e-3 - exact, exact).clamp(0, 1)
    assert (levels - exact).abs().max() < 4e-3
    assert len(levels.unique()) > 128


def test_clips_whose_noise_levels_are_all_1_are_refused_when_they_are_drawn() -> None:
    with pytest.raises(
        ValueError, match=r"sigma_shift=tokens \(358\.656 for 1000000 tokens\) with sigma_std=1 must"
    ):
        SigmaSampling().draw(2, 1_000_000, draws())


@pytest.mark.parametrize(
    ("shift", "std"), [(10.0, 0.01), (10.0, 1e-4), (-10.0, 1e-4), (0.0, 1e-4), (10.0, 1.0)]
)
def test_noise_levels_that_are_near_to_each_other_are_stretched(shift, std) -> None:
    levels = SigmaSampling(shift=shift, std=std, uniform_prob=0.0).draw(256, 1024, draws())
    assert torch.isfinite(levels).all()
    assert len(levels.unique()) > 8
