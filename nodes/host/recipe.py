"""Which recipe, a table of default settings by generation, applies to a loaded MODEL."""

from __future__ import annotations

from typing import Any

from ...ltx2_core.loading import Checkpoint
from ...ltx2_core.run.recipes import Recipe, generation_of, of_kind, recipe_for

RECIPE = "ltx2_recipe"
"""Attribute of a model or a video VAE: the recipe of the checkpoint that it is from."""


def recipe_of_file(file: Checkpoint) -> Recipe:
    """The recipe for full weights of the generation that a checkpoint states, or that its tensors show."""
    version = str(file.metadata.get("model_version", ""))
    return recipe_for(generation_of(version, inferred=file.generation))


def recipe_of_model(model: Any, *, distilled: bool) -> Recipe:
    """The recipe of a MODEL, for distilled or for full weights, which look the same.

    A MODEL of ComfyUI's own loaders does not know its version, so that its network decides.
    """
    recipe = getattr(model.model, RECIPE, None)
    if recipe is None:
        recipe = recipe_for(_generation(model.model.diffusion_model))
    return of_kind(recipe, distilled=distilled)


def _generation(network: Any) -> str:
    if getattr(network, "keyframes_abs_pos_embedding", None) is not None:
        return "2.5"
    return "2.3" if getattr(network, "caption_proj_before_connector", True) else "2.0"
