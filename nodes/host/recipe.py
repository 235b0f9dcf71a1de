"""Which recipe (default settings by generation and kind of checkpoint) belongs to a MODEL or VAE."""

from __future__ import annotations

from typing import Any

from ...ltx2_core.loading.checkpoint import Checkpoint
from ...ltx2_core.loading.detect import Component
from ...ltx2_core.loading.infer import infer_generation
from ...ltx2_core.loading.infer_vae import count
from ...ltx2_core.run.file_recipe import recipe_of_file
from ...ltx2_core.run.recipes import DEFAULT, Recipe, ltxv_generation, recipe_for
from .values import Model, Vae

_ATTRIBUTE = "ltx2_recipe"
_NETWORK = "diffusion_model."


def remember_recipe(holder: Any, source: Checkpoint) -> None:
    """Store on ``holder`` the recipe (default settings) of the checkpoint ``source`` that it was loaded from.

    ``holder`` is a VAE, or the attribute ``model`` of a MODEL.
    """
    setattr(holder, _ATTRIBUTE, recipe_of_file(source))


def recipe_of_vae(vae: Vae | None) -> Recipe:
    """Return the recipe (default settings) for the undistilled checkpoint that ``vae`` is from.

    For None, and for VAEs of other loaders, which do not say what they are from, it is that of the oldest
    generation.
    """
    recipe: Recipe = getattr(vae, _ATTRIBUTE, DEFAULT)
    return recipe


def recipe_of_model(model: Model) -> Recipe:
    """Return the recipe (default settings) for the undistilled checkpoint that ``model`` is from.

    For a MODEL of another loader the generation is told from the shapes of its tensors.
    """
    # Clones of a MODEL, such as those with LoRAs, share the host's model, so that it is noted there.
    recipe: Recipe | None = getattr(model.model, _ATTRIBUTE, None)
    if recipe is not None:
        return recipe
    names = {
        name.removeprefix(_NETWORK): tuple(tensor.shape)
        for name, tensor in model.model.state_dict().items()
        if name.startswith(_NETWORK)
    }
    generation = infer_generation({Component.TRANSFORMER: names}, "") or DEFAULT.generation
    if generation == "0.9":
        layers = count(names, "transformer_blocks.")
        # The shapes do not say whether positions are causal, as they are in all but the oldest releases.
        generation = ltxv_generation(layers=layers, causal=True, distilled=False)
    return recipe_for(generation)
