"""Which recipe belongs to a MODEL or VAE: the default settings of the checkpoint that it was loaded from."""

from __future__ import annotations

from typing import Any

from ...ltx2_core.loading.checkpoint import Checkpoint
from ...ltx2_core.loading.detect import Component
from ...ltx2_core.loading.infer import infer_generation
from ...ltx2_core.run.recipes import DEFAULT, Recipe, generation_of, recipe_for
from .values import Model, Vae

_ATTRIBUTE = "ltx2_recipe"
_NETWORK = "diffusion_model."


def remember_recipe(holder: Any, source: Checkpoint) -> None:
    """Note on ``holder``, a VAE or the ``model`` of a MODEL, the recipe of the file ``source``."""
    version = str(source.metadata.get("model_version", ""))
    setattr(holder, _ATTRIBUTE, recipe_for(generation_of(version, inferred=source.generation)))


def recipe_of_vae(vae: Vae | None) -> Recipe:
    """Return the recipe for full weights of the checkpoint that ``vae`` is from.

    VAEs of other loaders do not say what they are from; for them it is the recipe of the oldest generation.
    """
    recipe: Recipe = getattr(vae, _ATTRIBUTE, DEFAULT)
    return recipe


def recipe_of_model(model: Model) -> Recipe:
    """Return the recipe for full weights of the checkpoint that ``model`` is from.

    The generation of a MODEL of another loader is read from the shapes of its network.
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
    return recipe_for(infer_generation({Component.TRANSFORMER: names}, "") or DEFAULT.generation)
