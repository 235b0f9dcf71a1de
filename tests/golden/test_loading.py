"""Files in the released layout that another program wrote are recognised and load strictly."""

from __future__ import annotations

import pytest
from safetensors import safe_open

from ltx2_core.loading import Component, open_checkpoint, open_lora
from ltx2_core.video_vae import OPTIONAL_KEYS


@pytest.mark.golden("core_model")
def test_every_component_of_a_released_layout_loads(golden):
    checkpoint = open_checkpoint(golden.path)
    if checkpoint.components == {Component.LORA}:
        stated = golden.metadata.get("reference_downscale_factor", 1)
        assert open_lora(golden.path).reference_downscale_factor == stated
        return
    loaded = set()
    for component in checkpoint.components:
        state = checkpoint.load(component).state_dict()
        loaded |= {checkpoint.infos(component)[name].name for name in state}
    with safe_open(golden.path, "pt") as file:
        assert loaded == {name for name in set(file.keys()) if not name.endswith(OPTIONAL_KEYS)}
    if "model_version" in golden.metadata:
        assert golden.metadata["model_version"].startswith(checkpoint.generation)
