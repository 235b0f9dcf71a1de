"""Records which transformer blocks the host fetches and holds while our network runs. A script.

``python block_fetches.py PACK``, in a checkout of ComfyUI. It replaces the host's copies to the GPU by a
record of them, for the whole process. The last line is JSON: for each kind of call the order of fetches and
runs, such as "f0 r0 f1 r1", and how often each block is still held after the call; null if this host does not
stream weights.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

PACK = Path(sys.argv[1])
sys.path.insert(0, str(Path.cwd()))
sys.argv = [sys.argv[0], "--cpu"]

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

import comfy.memory_management  # noqa: E402
import comfy.model_management as management  # noqa: E402
import comfy.ops  # noqa: E402
import torch  # noqa: E402

LAYERS = 6


class Record:
    """The fetches and runs of the blocks of one network, and what the host holds of them."""

    def __init__(self, blocks: Sequence[Any]) -> None:
        self.events: list[str] = []
        self.held: Counter[int] = Counter()
        self._number: dict[Any, int] = {}
        for number, block in enumerate(blocks):
            layers = [module for module in block.modules() if hasattr(module, "comfy_cast_weights")]
            for layer in layers:
                # What the host puts on the layers that it streams, here the number of their block.
                layer._v, self._number[layer] = number, number
            block.register_forward_pre_hook(lambda *_, n=number: self.events.append(f"r{n}"))

    def fetch(self, modules: Sequence[Any], *_: Any, return_faulted: bool = False) -> Any:
        for module in modules:
            self.held[module._v] += 1
            module._prefetch = {"signature": 1, "resident": True}
        if modules:
            self.events.append(f"f{self._number[modules[0]]}")
        return (None, True) if return_faulted else None

    def release(self, number: int) -> None:
        self.held[number] -= 1

    def taken(self) -> dict[str, Any]:
        """The events since the last call of this method, and the blocks that are held."""
        events, self.events = self.events, []
        return {"events": " ".join(events), "held": sorted(n for n, times in self.held.items() if times)}


def main() -> None:
    try:
        import comfy.model_prefetch
        import comfy_aimdo.model_vbar as vbar
    except ImportError:
        print("null")
        return
    network, config, text = _network()
    record = Record(network.transformer_blocks)
    comfy.ops.cast_modules_with_vbar, vbar.vbar_unpin = record.fetch, record.release
    comfy.memory_management.vram_aligned_size = lambda *_: 0
    # The host would not stream to a CPU.
    management.is_device_cpu = lambda _: False
    management.device_supports_non_blocking = lambda _: True
    management.NUM_STREAMS = 2
    management.sync_stream = lambda *_: None
    management.ensure_pin_registerable = lambda *_: None

    def call(samples: int = 1, **options: Any) -> dict[str, Any]:
        video = torch.randn(samples, config.in_channels, 1, 2, 4)
        audio = torch.randn(samples, 8, 2, config.audio_in_channels // 8)
        context = torch.randn(samples, 4, text.video.dim + text.audio.dim)
        options["prefetch_dynamic_vbars"] = True
        with torch.inference_mode():
            network([video, audio], torch.full((samples,), 0.7), context, transformer_options=options)
        return record.taken()

    from pack.ltx2_core.transformer.perturbations import Perturbation
    from pack.ltx2_core.transformer.tiles import Tiles
    from pack.nodes.host.call import TILES
    from pack.nodes.host.forking import FORK, Fork, Late
    from pack.nodes.host.perturbing import PERTURBATIONS

    fork = Fork(4, 0)
    report = {
        "a step": call(),
        "the next step": call(),
        "in two tiles": call(**{TILES: Tiles(columns=2, overlap=1)}),
        "two passes, of which one is saved": call(
            2, **{FORK: fork, "cond_or_uncond": [0, 1], PERTURBATIONS: (Perturbation(), Perturbation())}
        ),
        "the pass that resumes": call(
            **{
                FORK: Late(fork),
                "cond_or_uncond": [0],
                PERTURBATIONS: (Perturbation(video_self_attention=(4,)),),
            }
        ),
    }
    print(json.dumps(report))


def _network() -> tuple[Any, Any, Any]:
    spec = importlib.util.spec_from_file_location(
        "pack", PACK / "__init__.py", submodule_search_locations=[str(PACK)]
    )
    pack = importlib.util.module_from_spec(spec)
    sys.modules["pack"] = pack
    spec.loader.exec_module(pack)
    from pack.ltx2_core.config import text_config, transformer_config
    from pack.ltx2_core.loading import open_checkpoint
    from pack.ltx2_core.tiny import embedded_set
    from pack.nodes.host.network import HostTransformer

    stored = open_checkpoint(embedded_set().checkpoint).config
    config, text = replace(transformer_config(stored), num_layers=LAYERS), text_config(stored)
    network = HostTransformer(config, text, dtype=torch.float32, operations=comfy.ops.manual_cast)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    return network, config, text


main()
