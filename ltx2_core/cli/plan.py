"""Prints the plan of a clip, an edit or a long clip, for ``--dry-run``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

import click

from ..config import transformer_config, video_vae_config
from ..editing.edit import EditPlan
from ..editing.extend import Extension
from ..editing.long_clip import LongPlan
from ..editing.long_video import first_window
from ..editing.retake import Retake
from ..loading import Component
from ..loading.describe import describe_upscaler
from ..loading.file_set import model_name
from ..memory import MemoryEstimate, estimate_memory, size_text
from ..run.dfr_plan import asked_clip, stage_notes
from ..run.lora_files import strength_text
from ..run.pipeline import LTX2Pipeline
from ..run.planner import decode_dtype_of
from ..run.recipes import Recipe, of_kind
from ..run.request import Request
from ..run.stages import Stage
from ..storage.files import ParsedJson

if TYPE_CHECKING:
    import torch


LONGEST_PROMPT: Final = 200
"""Characters of a prompt that a plan shows."""


def print_edit(pipeline: LTX2Pipeline, plan: EditPlan | None, request: Request) -> None:
    """Print the source and the plan of an edit, then the plan of its sampling run (see :func:`print_plan`).

    ``plan`` is None for an edit that generates audio alone. ``request`` is that of the sampling run.
    """
    if plan is not None:
        source = plan.source
        name = "frames" if source.file is None else str(source.file.path)
        click.echo(
            f"source    {name}: {source.size[0]}x{source.size[1]}, {len(source.frames)} frames at "
            f"{source.fps:g} fps, {source.seconds:.3f} s, {'no audio' if source.audio is None else 'audio'}"
        )
        for note in source.notes:
            click.echo(f"          {note}")
        # A description may have a line for each stream.
        click.echo("edit      " + _description(pipeline, plan).replace("\n", "\n          "))
    print_plan(pipeline, request, pipeline.stages(request))


def _description(pipeline: LTX2Pipeline, plan: EditPlan) -> str:
    """The plan's text for reports, without the audio latents that a model without audio does not have."""
    if not isinstance(plan, Retake | Extension):
        return plan.describe()
    return plan.describe(with_audio=pipeline.networks.has_audio)


def print_long(pipeline: LTX2Pipeline, plan: LongPlan, request: Request, chosen: Sequence[str]) -> None:
    """Print the windows of a long clip and its prompts, then the plan of the first window's sampling run.

    ``request`` is that of the whole clip. ``chosen`` are the names of the request's fields whose values were
    filled in by the recipe of the checkpoint.
    """
    clip, count, shared = plan.clip, len(plan.windows), ""
    if count > 1:
        shared = f" of up to {plan.how.window_frames} frames, which share up to {plan.how.shared_frames}"
    click.echo(
        f"long      {clip.width}x{clip.height}, {clip.frames} frames at {clip.fps:g} fps, "
        f"{clip.seconds:.3f} s in {count} window{'s' * (count > 1)}{shared}"
    )
    for change in clip.changes:
        click.echo(f"          {change}")
    for window in plan.windows:
        start = window.first_frame / clip.fps
        click.echo(
            f"window {window.index + 1:<3}{start:.2f}-{start + window.clip.seconds:.2f} s, seed "
            f"{(plan.seed + window.index) % 2**64}: {_shortened(plan.prompt_of(window))}"
        )
    for line in _prompt_lines(plan):
        click.echo(line)
    first = first_window(request, plan)
    # Values of the recipe are opened again, so that the plan can say which they are.
    opened: Any = dict.fromkeys(name for name in chosen if name not in ("width", "height", "num_frames"))
    first = first.changed(**opened)
    print_plan(pipeline, first, pipeline.stages(first), name="window")


def _prompt_lines(plan: LongPlan) -> Iterator[str]:
    """Yield a line for each of several prompts: its time, and the windows that have it."""
    used = plan.windows_of_prompts()
    for number, windows in enumerate(used):
        where = f"windows {windows[0] + 1}-{windows[-1] + 1}" if len(windows) > 1 else "no window"
        where = f"window {windows[0] + 1}" if len(windows) == 1 else where
        prompt = _shortened(plan.prompts.parts[number][1])
        if len(used) > 1:
            yield f"prompt    {plan.prompts.when(number)}, {where}: {prompt}"


def _shortened(prompt: str) -> str:
    """A prompt on one line, without what is beyond its first characters."""
    line = " ".join(prompt.split())
    return line if len(line) <= LONGEST_PROMPT else f"{line[:LONGEST_PROMPT]}..."


def print_plan(
    pipeline: LTX2Pipeline, request: Request, stages: Sequence[Stage], *, name: str = "clip"
) -> None:
    """Print what a run would do: size, seed, files, inputs, and tokens, sigmas and memory of each stage.

    No weights are loaded. ``stages`` are the sampling stages of ``request``. ``name`` is the label of the
    first line.
    """
    for line in _clip_lines(pipeline, request, stages, name):
        click.echo(line)
    for line in _file_lines(pipeline):
        click.echo(f"files     {line}")
    for line in _input_lines(request, stages):
        click.echo(f"input     {line}")
    if request.sampling.sigmas is None and not request.sampling.distilled:
        click.echo(f"schedule  {_schedule(pipeline, request, stages[0])}")
    for index, stage in enumerate(stages, start=1):
        streams = {"video": request.size.video, "audio": pipeline.networks.has_audio}
        for line in stage_lines(index, stage, **streams):
            click.echo(line)
    for line in _memory_lines(pipeline, request, stages):
        click.echo(line)


def _clip_lines(
    pipeline: LTX2Pipeline, request: Request, stages: Sequence[Stage], name: str
) -> Iterator[str]:
    """Yield the lines on the finished clip, under the label ``name``, its recipe and its seed."""
    clip = stages[-1].finished
    size = f"{clip.width}x{clip.height}, " if request.size.video else "audio alone, "
    yield f"{name:<10}{size}{clip.frames} frames at {clip.fps:g} fps, {clip.seconds:.3f} s"
    yield from (f"          {note}" for note in _length_notes(request, stages))
    yield f"recipe    {recipe_line(pipeline, request)}"
    yield f"seed      {request.seed}"


def stage_lines(index: int, stage: Stage, *, video: bool = True, audio: bool = True) -> Iterator[str]:
    """Yield the lines on sampling stage number ``index`` from 1: tokens, steps, keyframes, noise levels.

    ``video`` is False for a run of audio alone, ``audio`` for a model without audio.
    """
    passes = len(stage.guidance.passes())
    guidance = f"{passes} passes a step" if stage.guided else "no guidance"
    tokens = _tokens(stage, video=video, audio=audio)
    yield f"stage {index:<4}{tokens}, {len(stage.sigmas) - 1} steps, {stage.sampler}, {guidance}"
    yield from (f"          {note}" for note in stage_notes(stage))
    yield "          sigmas " + ", ".join(f"{sigma:g}" for sigma in stage.sigmas.tolist())


def _memory_lines(pipeline: LTX2Pipeline, request: Request, stages: Sequence[Stage]) -> Iterator[str]:
    """Yield lines on the predicted memory of each stage, or on the memory plan if there is a budget."""
    if pipeline.speed.keep_text_keys:
        cached = pipeline.text_keys_bytes(stages)
        unless = "nothing, as those of this model depend on the noise level"
        yield f"memory    keys and values of the text: {size_text(cached) + ' cached' if cached else unless}"
    budget = pipeline.networks.max_memory
    if budget is not None:
        planned = pipeline.plan(stages, budget, decode_dtype=decode_dtype_of(request))
        yield from (f"memory    {line}" for line in planned.lines())
        return
    memory = predict(pipeline, stages, decode_dtype_of(request))
    for entry in memory:
        yield (
            f"memory    {entry.stage}: {size_text(entry.weights)} weights, "
            f"{size_text(entry.activations)} activations"
        )
    # Stages follow one another, so the largest one counts and not their sum.
    peak = max(memory, key=lambda entry: entry.total)
    yield f"peak      about {size_text(peak.total)} in {peak.stage} ({pipeline.networks.dtype})"


def _length_notes(request: Request, stages: Sequence[Stage]) -> Iterator[str]:
    """Yield lines on a length that is predicted later, a frame rate that is doubled, and rounded values."""
    if request.size.auto:
        yield "length auto: predicted from the prompt in the run; planned here as above"
    if request.staging.pipeline is not None:
        yield dfr_line(stages)
    yield from stages[-1].finished.changes


def dfr_line(stages: Sequence[Stage]) -> str:
    """Say of which length and frame rate the clip of a DFR run is before its frame rate is doubled."""
    asked, sampled = asked_clip(stages), stages[0].clip
    return (
        f"DFR: {asked.frames} frames at {asked.fps:g} fps, sampled as {sampled.frames}; frame rate "
        f"doubled {stages[-1].round} times"
    )


def _tokens(stage: Stage, *, video: bool, audio: bool) -> str:
    clip = stage.clip
    if stage.tile is not None or not audio:
        return f"{clip.width}x{clip.height}: {clip.video_tokens} video tokens"
    size = f"{clip.width}x{clip.height}: {clip.video_tokens} video + " if video else ""
    return f"{size}{clip.audio_tokens} audio tokens"


def _file_lines(pipeline: LTX2Pipeline) -> Iterator[str]:
    """Yield a line for each model file (its generation and components) and each LoRA (its strength)."""
    for file in pipeline.networks.checkpoints:
        held = ", ".join(sorted(str(component) for component in file.components))
        stated = f"{model_name(file.generation)}: " if file.generation else ""
        kind = describe_upscaler(file) if Component.UPSAMPLER in file.components else ""
        yield f"{file.path}: {stated}{held}{f' ({kind})' if kind else ''}"
    if (decoder := pipeline.networks.video_decoder) is not None:
        yield f"{decoder.path}: video decoder"
    if pipeline.networks.text_encoder is not None:
        yield f"{pipeline.networks.text_encoder}: text encoder"
    for name, loras in (("LoRA", pipeline.loras), ("LoRA of stage 2", pipeline.stage2_loras)):
        yield from (f"{lora.path}: {name}, {strength_text(lora, pipeline.recipe)}" for lora in loras)


def _input_lines(request: Request, stages: Sequence[Stage]) -> Iterator[str]:
    """Yield a line for each image, control video and audio, with its place in the clip and its strength.

    ``stages`` are the sampling stages of ``request``.
    """
    plain: ParsedJson = request.settings()
    inputs = request.inputs
    if inputs.hdr is not None:
        yield f"colour space {inputs.hdr} (HDR): frames are decoded in float32"
    if plain["image"] is not None:
        strengths = [f"{stage.image_strength:g}" for stage in stages if stage.tile is None]
        yield f"{plain['image']}: first frame, strength {' and then '.join(strengths)}"
    for image in plain["images"]:
        yield f"{image['source']}: frame {image['frame']}, strength {image['strength']:g}"
    for one in plain["references"]:
        scale = "as its LoRA says" if one["scale"] is None else f"{one['scale']} times smaller"
        every = "" if one["every"] is None else f", every {one['every']}. frame"
        yield f"{one['source']}: control video, strength {one['strength']:g}, {scale}{every}"
    if plain["audio"] is not None:
        yield f"{plain['audio']}: audio from {inputs.audio.start_s:g} s"
    if plain["reference_audio"] is not None:
        yield f"{plain['reference_audio']}: audio to imitate, {inputs.reference_audio.seconds:g} s"


def _schedule(pipeline: LTX2Pipeline, request: Request, stage: Stage) -> str:
    """Say for how many tokens the noise levels of a stage are computed, and which setting decided that."""
    schedule = request.sampling.schedule
    of_clip = (schedule or ("clip" if pipeline.numerics.is_comfy else "4096")) == "clip"
    why = f"the {pipeline.numerics.value} numerics" if schedule is None else "as written"
    tokens = f"the {stage.clip.video_tokens} tokens of the clip" if of_clip else "4096 tokens"
    return f"for {tokens}: {why}"


def recipe_line(pipeline: LTX2Pipeline, request: Request) -> str:
    """A line with the values that the checkpoint's recipe (default settings) filled in, and its name."""
    recipe = of_kind(pipeline.recipe, distilled=request.sampling.distilled)
    resolved, chosen = request.with_recipe(recipe)
    # The negative prompt is long, and the crf has an effect with an image alone.
    apart: tuple[str, ...] = ("negative_prompt", "image_crf", "guidance")
    # A model without audio has no scales for it either.
    audio = pipeline.networks.has_audio
    apart += () if audio else ("audio_cfg",)
    values = [f"{name} {getattr(resolved, name)}" for name in chosen if name not in apart]
    if "guidance" in chosen:
        values.append(_scales_text(recipe, audio=audio))
    if resolved.image is not None and "image_crf" in chosen:
        values.append(f"image_crf {resolved.image_crf}")
    return f"{', '.join(values) or 'nothing'}: {recipe.reason}"


def _scales_text(recipe: Recipe, *, audio: bool) -> str:
    """List the guidance scales of ``recipe`` that both streams share, such as "stg 1 in block 28, ...".

    That of the modalities is left out without ``audio``.
    """
    blocks = ", ".join(map(str, recipe.stg_blocks))
    modality = f"modality {recipe.modality:g}, " if audio else ""
    return f"stg {recipe.stg:g} in block {blocks}, {modality}rescale {recipe.rescale:g}"


def predict(
    pipeline: LTX2Pipeline, stages: Sequence[Stage], decode_dtype: torch.dtype | None = None
) -> tuple[MemoryEstimate, ...]:
    """Estimate the memory in bytes of each stage with the model files and number format of ``pipeline``.

    ``decode_dtype`` is the number format in which the video is decoded, None for that of the run.
    """
    networks = pipeline.networks
    weights = networks.component_bytes
    return estimate_memory(
        text_weights=networks.text_bytes(),
        transformer_weights=weights(Component.TRANSFORMER),
        decoder_weights=weights(Component.VIDEO_DECODER, dtype=decode_dtype),
        transformer=transformer_config(networks.file(Component.TRANSFORMER).config),
        vae=video_vae_config(networks.file(Component.VIDEO_DECODER).config),
        clips=[stage.sampled for stage in stages],
        finished=stages[-1].finished,
        dtype=networks.dtype,
        connector_weights=networks.connector_bytes(),
        text=networks.text_size(),
        decode_dtype=decode_dtype,
    )
