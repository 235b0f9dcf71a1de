"""How much memory of the GPU a run may use, which more than what is free now may be."""

from __future__ import annotations

import comfy.model_management


def free_budget() -> int:
    """Bytes of the GPU that a run may use: what is free, and what ComfyUI's own models hold."""
    # Less than the total memory: other programs have the rest.
    device = comfy.model_management.get_torch_device()
    free = int(comfy.model_management.get_free_memory(device))
    # A model whose memory is the device's own, as on a computer without a GPU, frees nothing by leaving it.
    held = [one.model for one in list(comfy.model_management.current_loaded_models) if one.device == device]
    return free + sum(
        int(one.loaded_size()) for one in held if one is not None and one.offload_device != device
    )
