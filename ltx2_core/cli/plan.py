"""The table that ``ltx2 generate --dry-run`` prints."""

from __future__ import annotations

from collections.abc import Sequence

import click

from ..config import transformer_config, video_vae_config
from ..loading import Component
from ..memory import MemoryEstimate, estimate_memory, size_text
from ..run.pipeline import LTX2Pipeline
from ..run.recipes import of_kind
from ..run.request import Request
from ..run.stages import Stage
from ..storage.quantized import loaded_bytes


def print_plan(pipeline: LTX2Pipeline, request: Request, stages: Sequence[Stage]) -> None:
    """Sizes, tokens, sigmas and predicted peak memory of a run, without loading any weights."""
    clip = stages[-1].clip
    click.echo(
        f"clip      {clip.width}x{clip.height}, {clip.frames} frames at {clip.fps:g} fps, "
        f"{clip.seconds:.3f} s"
    )
    for change in clip.changes:
        click.echo(f"          {change}")
    click.echo(f"recipe    {recipe_line(pipeline, request)}")
    for index, stage in enumerate(stages, start=1):
        passes = len(stage.guidance.passes())
        guidance = (
            f"{stage.sampler}, {passes} passes a step" if stage.guided else f"{stage.sampler}, no guidance"
        )
        click.echo(
            f"stage {index}   {stage.clip.width}x{stage.clip.height}: {stage.clip.video_tokens} video + "
            f"{stage.clip.audio_tokens} audio tokens, {len(stage.sigmas) - 1} steps, {guidance}"
        )
        click.echo("          sigmas " + ", ".join(f"{sigma:g}" for sigma in stage.sigmas.tolist()))
    if pipeline.speed.keep_text_keys:
        cached = pipeline.text_keys_bytes(stages)
        unless = "nothing, as those of this model depend on the noise level"
        click.echo(
            f"memory    keys and values of the text: {size_text(cached) + ' cached' if cached else unless}"
        )
    budget = pipeline.networks.max_memory
    if budget is not None:
        for line in pipeline.plan(stages, budget).lines():
            click.echo(f"memory    {line}")
        return
    memory = predict(pipeline, stages)
    for entry in memory:
        click.echo(
            f"memory    {entry.stage}: {size_text(entry.weights)} weights, "
            f"{size_text(entry.activations)} activations"
        )
    # Stages follow one another, so the largest one counts and not their sum.
    peak = max(memory, key=lambda entry: entry.total)
    click.echo(f"peak      about {size_text(peak.total)} in {peak.stage} ({pipeline.networks.dtype})")


def recipe_line(pipeline: LTX2Pipeline, request: Request) -> str:
    """The values that the recipe chose, and its name."""
    recipe = of_kind(pipeline.recipe, distilled=request.sampling.distilled)
    resolved, chosen = request.with_recipe(recipe)
    values = [
        f"{name} {getattr(resolved, name)}" for name in chosen if name not in ("negative_prompt", "image_crf")
    ]
    if resolved.image is not None and "image_crf" in chosen:
        values.append(f"image_crf {resolved.image_crf}")
    return f"{', '.join(values) or 'nothing'}: {recipe.reason}"


def predict(pipeline: LTX2Pipeline, stages: Sequence[Stage]) -> tuple[MemoryEstimate, ...]:
    """The memory of each stage with the files and the dtype of ``pipeline``."""
    networks = pipeline.networks

    def weights(*components: Component) -> int:
        return sum(loaded_bytes(networks.file(c).infos(c).values(), networks.dtype) for c in components)

    return estimate_memory(
        text_weights=networks.text_encoder_bytes()
        + weights(Component.TEXT_PROJECTION, Component.TEXT_CONNECTORS),
        transformer_weights=weights(Component.TRANSFORMER),
        decoder_weights=weights(Component.VIDEO_DECODER),
        transformer=transformer_config(networks.file(Component.TRANSFORMER).config),
        vae=video_vae_config(networks.file(Component.VIDEO_DECODER).config),
        clips=[stage.clip for stage in stages],
        dtype=networks.dtype,
        connector_weights=networks.component_bytes(Component.TEXT_CONNECTORS),
        text=networks.text_size(),
    )
