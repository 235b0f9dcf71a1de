"""Options of a MODEL that the network of this pack reads in every call."""

from __future__ import annotations

from typing import Any

from .network import HostTransformer


def with_option(model: Any, name: str, value: Any, *, what: str) -> Any:
    """Clone a MODEL and set the entry ``name`` in its ``transformer_options`` to ``value``.

    Raises ValueError for ComfyUI's own network, which does not read such entries; the message begins with
    ``what``, a plural that says what was to be set, such as "tiles".
    """
    if not isinstance(model.model.diffusion_model, HostTransformer):
        raise ValueError(
            f"{what} need the model of LTX-2 Load Checkpoint or LTX-2 Load All, with its network set to "
            "LTX-2: connect that in place of this one"
        )
    # The MODEL may be connected to other nodes, which must not see the option.
    clone = model.clone()
    options = clone.model_options
    clone.model_options = {
        **options,
        "transformer_options": {**options.get("transformer_options", {}), name: value},
    }
    return clone
