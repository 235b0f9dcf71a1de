"""Which recipe (default settings) belongs to a model file."""

from __future__ import annotations

from ..config import transformer_config
from ..loading import Checkpoint, Component
from ..loading.infer import is_causal
from .recipes import Recipe, generation_of, ltxv_generation, recipe_for


def recipe_of_file(file: Checkpoint) -> Recipe:
    """The entry of the table of recipes for the checkpoint, or a part of one, in ``file``, for full weights.

    A distilled LTX-Video, which its header tells, has a recipe of its own.
    """
    if file.generation != "0.9":
        version = str(file.metadata.get("model_version", ""))
        return recipe_for(generation_of(version, inferred=file.generation))
    layers, causal = 0, False
    if Component.TRANSFORMER in file.components:
        config = transformer_config(file.config)
        layers, causal = config.num_layers, config.causal_time
    else:
        parts = file.components & {Component.VIDEO_ENCODER, Component.VIDEO_DECODER}
        causal = is_causal([name for part in parts for name in file.infos(part)])
    distilled = "allowed_inference_steps" in file.config
    return recipe_for(ltxv_generation(layers=layers, causal=causal, distilled=distilled))
