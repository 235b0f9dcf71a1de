"""Training steps and runs against those of the official trainer: noise levels, losses, gradients, weights."""

from __future__ import annotations

import re
from collections import defaultdict
from copy import deepcopy
from functools import lru_cache
from itertools import count

import pytest
import torch

from ltx2_core.config import text_config, transformer_config
from ltx2_core.text import TextConnectors
from ltx2_core.training.lora import PREFIX, LoraAdapters
from ltx2_core.training.objective import (
    Clips,
    GeneratorDraws,
    Reference,
    SigmaSampling,
    losses,
    prepare,
    sigma_mean,
    velocities,
)
from ltx2_core.training.objective.objective import official_objective
from ltx2_core.training.schedules import schedule_of
from ltx2_core.training.targets import layer_pattern
from ltx2_core.training.updates import Updates, adamw
from ltx2_core.transformer import Transformer
from ltx2_core.types import TextContext, TextFeatures

MODEL = "model.diffusion_model."
SAMPLE_KEYS = {
    "latents/latents": "video_latents",
    "audio_latents/latents": "audio_latents",
    "reference_latents/latents": "reference_latents",
    "reference_audio_latents/latents": "reference_audio_latents",
    "video_masks/mask": "video_masks",
    "audio_masks/mask": "audio_masks",
    "conditions/video_prompt_embeds": "video_prompt_embeds",
    "conditions/audio_prompt_embeds": "audio_prompt_embeds",
}


class Recorded:
    """Hands out the recorded draws, in order."""

    def __init__(self, tensors):
        named = sorted((int(re.match(r"\d+", name)[0]), value) for name, value in tensors.items())
        self.left = [value for _, value in named]

    def normal(self, *shape, dtype=torch.float32):
        return self._next(shape, dtype)

    def uniform(self, *shape):
        return self._next(shape, torch.float32)

    def _next(self, shape, dtype):
        value = self.left.pop(0)
        assert (value.shape, value.dtype) == (shape, dtype)
        return value


def close(actual, expected, tolerance, what):
    """Compare by the relative L2 distance, the measure of the fixtures."""
    scale = expected.double().norm().clamp(min=1e-30)
    distance = float((actual.detach().double() - expected.double()).norm() / scale)
    assert distance <= tolerance, f"{what}: {distance:.2e}"


def under(tensors, prefix):
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def clips_of(batch, context, facts):
    fps = float(facts.get("fps", 24.0))
    references, audio_references = (), ()
    if "reference_latents" in batch:
        references = (Reference(batch["reference_latents"], float(facts.get("ref_fps", fps))),)
    if "reference_audio_latents" in batch:
        audio_references = (batch["reference_audio_latents"],)
    return Clips(
        video=batch.get("video_latents"),
        audio=batch.get("audio_latents"),
        context=context,
        fps=fps,
        video_mask=batch.get("video_masks"),
        audio_mask=batch.get("audio_masks"),
        references=references,
        audio_references=audio_references,
    )


def context_of(batch):
    video = batch["video_prompt_embeds"].float()
    return TextContext(video, batch.get("audio_prompt_embeds", video).float())


def adapted(model, tensors, *, alpha):
    """The LoRA of a fixture on ``model``: its layers and rank are those of ``tensors``."""
    a = {n.removesuffix(".lora_A.weight"): t for n, t in tensors.items() if n.endswith(".lora_A.weight")}
    names = [name.removeprefix(PREFIX) for name in a]
    pattern = "|".join(f"^{re.escape(name)}$" for name in names)
    adapters = LoraAdapters(model, rank=next(iter(a.values())).shape[0], alpha=alpha, targets=pattern)
    assert sorted(adapters.names) == sorted(names)
    with torch.no_grad():
        for name, pair in zip(adapters.names, adapters.pairs, strict=True):
            pair.a.copy_(a[PREFIX + name])
            if (b := tensors.get(f"{PREFIX}{name}.lora_B.weight")) is not None:
                pair.b.copy_(b)
    return adapters


def connected(golden, facts, tensors):
    """The text after the connectors of the fixture that a case names."""
    source = golden.sibling(facts["connectors"])
    connectors = TextConnectors(text_config(source.config))
    weights = {k.removeprefix(MODEL): v for k, v in source.tensors().items()}
    connectors.load_state_dict({k: weights[k] for k in connectors.state_dict()})
    video = tensors["video_prompt_embeds"]
    features = TextFeatures(
        video, tensors.get("audio_prompt_embeds", video), tensors["prompt_attention_mask"]
    )
    # The connectors are not trained.
    with torch.no_grad():
        return connectors(features, length=video.shape[1])


@lru_cache(maxsize=1)
def network_of(weights):
    """The transformer of a weights fixture; a run that trains it takes a copy."""
    config = transformer_config(weights.config)
    state = {k.removeprefix(MODEL): v for k, v in weights.tensors().items()}
    model = Transformer(config, device="meta")
    model.load_state_dict({k: state[k].clone() for k in model.state_dict()}, strict=True, assign=True)
    return model


def group_of(name):
    """The group of the recorded norms that a parameter belongs to."""
    parts = name.split(".")
    return parts[2] if parts[0] == "transformer_blocks" else parts[0]


def check_norms(gradients, facts):
    missing = sum(gradient is None for gradient in gradients.values())
    assert (missing, len(gradients)) == (facts["without_gradient"], facts["trainable_tensors"])
    squares = defaultdict(float)
    for name, gradient in gradients.items():
        if gradient is not None:
            squares[group_of(name)] += float(gradient.double().square().sum())
    assert sum(squares.values()) ** 0.5 == pytest.approx(facts["global_norm"], rel=1e-5)
    for group, norm in facts["norm_by_group"].items():
        assert squares[group] ** 0.5 == pytest.approx(norm, rel=1e-5), group


def step_cases(golden):
    return golden.sidecar["cases"].items()


@pytest.mark.golden("training_sigmas")
def test_noise_levels_are_those_of_the_official_sampler(golden):
    tensors, facts = golden.tensors(), golden.sidecar
    params = {k: v for k, v in facts["params"].items() if k in ("std", "eps", "uniform_prob")}
    sampling = SigmaSampling(**params)
    for tokens, mean in facts["mu"].items():
        assert sigma_mean(int(tokens)) == pytest.approx(mean, rel=1e-12)
    for name, expected in tensors.items():
        kind, *rest = name.split("/")
        if kind == "sigma":
            seed, tokens = map(int, rest)
            draws = GeneratorDraws(torch.Generator().manual_seed(seed))
            close(sampling.draw(len(expected), tokens, draws), expected, 1e-6, name)
        elif kind == "uniform_sampler":
            draws = GeneratorDraws(torch.Generator().manual_seed(int(rest[0])))
            close(SigmaSampling(kind="uniform").draw(len(expected), 1, draws), expected, 1e-6, name)


@pytest.mark.golden("training_steps")
def test_a_step_has_the_inputs_losses_and_gradients_of_the_official_trainer(golden):
    tensors = golden.tensors()
    for case, facts in step_cases(golden):
        own = under(tensors, f"{case}/")
        batch = under(own, "batch/")
        if "connectors" in facts:
            context = connected(golden, facts, under(own, "features/"))
            close(context.video, own["in/video_context"], 1e-5, f"{case} text")
        else:
            context = context_of(batch)
        objective = official_objective(facts["strategy"])
        draws = Recorded(under(own, "draws/"))
        step = prepare(objective, clips_of(batch, context, facts["batch"]), draws)
        assert not draws.left, case
        for stream in ("video", "audio"):
            check_inputs(case, own, stream, getattr(step, stream))
        lora = under(own, "lora/") or golden.source("lora").tensors()
        model = network_of(
            golden.sibling(facts["weights"]) if "weights" in facts else golden.source("weights")
        )
        model.requires_grad_().zero_grad()
        check_step(case, own, facts, "full", objective, step, model, None)
        adapters = adapted(model, lora, alpha=None)
        check_step(case, own, facts, "lora", objective, step, model, adapters)
        adapters.remove()


def check_inputs(case, own, stream, actual):
    expected = under(own, f"in/{stream}_")
    if actual is None:
        assert "latent" not in expected
        return
    modality = actual.modality
    close(modality.tokens, expected["latent"], 1e-6, f"{case} {stream} tokens")
    close(actual.sigma, expected["sigma"], 1e-6, f"{case} {stream} sigma")
    times = modality.timesteps.expand(expected["timesteps"].shape)
    close(times, expected["timesteps"], 1e-6, f"{case} {stream} timesteps")
    positions = modality.positions.expand(expected["positions"].shape)
    close(positions, expected["positions"], 1e-6, f"{case} {stream} positions")
    if actual.target is not None:
        close(actual.target, expected["targets"], 1e-6, f"{case} {stream} targets")
        mask = expected["loss_mask"]
        before = mask.shape[1] - actual.in_loss.shape[1]
        assert not mask[:, :before].any()
        assert torch.equal(actual.in_loss, mask[:, before:]), f"{case} {stream} loss mask"


def check_step(case, own, facts, mode, objective, step, model, adapters):
    predicted = velocities(model, step)
    found = losses(objective, step, predicted)
    out = under(own, f"out_{mode}/")
    close(found.total, out["loss"], 1e-5, f"{case} {mode} loss")
    for name in ("video", "audio"):
        if f"{name}_loss" in out:
            close(getattr(found, name), out[f"{name}_loss"], 1e-5, f"{case} {mode} {name} loss")
    found.total.mean().backward()
    if adapters is None:
        gradients = {name: p.grad for name, p in model.named_parameters()}
    else:
        gradients = {}
        for name, pair in zip(adapters.names, adapters.pairs, strict=True):
            gradients[f"{name}.lora_A.weight"] = pair.a.grad
            gradients[f"{name}.lora_B.weight"] = pair.b.grad
    for name, expected in under(own, f"grad_{mode}/").items():
        close(gradients[name], expected, 1e-5, f"{case} {mode} gradient of {name}")
    check_norms(gradients, facts[mode])


@pytest.mark.golden("training_run")
def test_a_run_ends_with_the_weights_of_the_official_trainer(golden):
    tensors, facts = golden.tensors(), golden.sidecar
    settings, full = facts["optimization"], facts["mode"] == "full"
    model = deepcopy(network_of(golden.source("weights")))
    if full:
        parameters = list(model.requires_grad_().parameters())
    else:
        adapters = adapted(model, under(tensors, "init/"), alpha=facts["lora"]["alpha"])
        pattern = layer_pattern(facts["lora"]["target_modules"])
        assert set(adapters.names) == {n for n, _ in model.named_modules() if re.search(pattern, n)}
        parameters = list(adapters.parameters())
    rate = settings["learning_rate"]
    updates = Updates(
        optimizer=adamw(parameters, learning_rate=rate),
        schedule=schedule_of(settings["scheduler_type"], settings["steps"], learning_rate=rate),
        accumulation=settings["gradient_accumulation_steps"],
        clip=settings["max_grad_norm"],
    )
    objective = official_objective(facts["strategy"])
    # The loader drops an incomplete batch, and the end of the dataset ends a step early.
    epoch = facts["dataset"]["samples"] // settings["batch_size"]
    norms, rates = [], []
    for number in count():
        own = under(tensors, f"micro/{number}/")
        if not own:
            break
        batch = batch_of(tensors, own["idx"].tolist())
        step = prepare(
            objective,
            clips_of(batch, context_of(batch), facts["dataset"]),
            Recorded(under(own, "draws/")),
        )
        found = losses(
            objective,
            step,
            velocities(model, step, checkpointing=bool(settings["enable_gradient_checkpointing"])),
        )
        close(found.total, own["loss"], 1e-5, f"loss {number}")
        norm = updates.add(found.total.mean(), now=(number + 1) % epoch == 0)
        if norm is not None:
            norms.append(norm)
            rates.append(updates.learning_rate)
    assert norms == pytest.approx(facts["grad_norms_before_clipping"], rel=1e-5)
    assert rates == pytest.approx(facts["learning_rate_after_step"], rel=1e-9)
    if full:
        found = dict(model.named_parameters())
    else:
        # The official trainer saves B without alpha / rank, which this one multiplies in.
        found = {
            name: tensor / (adapters.scale if name.endswith("lora_B.weight") else 1)
            for name, tensor in adapters.tensors().items()
        }
    for name, expected in under(tensors, "final/").items():
        close(found[name], expected, 1e-4, name)


def batch_of(tensors, indices):
    """Stack cached samples under the names of a step's batch."""
    samples = [under(tensors, f"data/{index}/") for index in indices]
    return {
        name: torch.stack([sample[key] for sample in samples])
        for key, name in SAMPLE_KEYS.items()
        if key in samples[0]
    }
