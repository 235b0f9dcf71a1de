"""Counts where our MODEL makes the CPU wait for a GPU in a step of the host, on a pretended GPU. A script.

``python fake_cuda_waits.py PACK``, in a checkout of ComfyUI. The last line is JSON: for each kind of call the
waits of its third step, and whether it gives what a call gives that reads masks and guides anew.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

PACK = Path(sys.argv[1])
sys.path[:0] = [str(Path.cwd()), str(PACK / "tests" / "cuda_fake")]
sys.argv = [sys.argv[0], "--cpu"]

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

import comfy.samplers  # noqa: E402
import comfy.utils  # noqa: E402
import torch  # noqa: E402
import transformers.models.gemma3.modeling_gemma3  # noqa: E402, F401 found by torch before it is patched
from fake_cuda import on_cuda, pretend  # noqa: E402

FRAMES, ROWS, COLUMNS, STEPS = 3, 2, 3, 8
KINDS = ("plain", "mask", "guide", "mask and reference", "plain tiles", "mask and guide in tiles")
KNOWN = "ltx2_known_clip"
GUIDE = {"pre_filter_count": ROWS * COLUMNS, "strength": 0.5, "pixel_mask": None, "latent_shape": [1, 2, 3]}


def conditioning(model: Any, kind: str) -> dict[str, Any]:
    """What the host passes to ``extra_conds`` once a run."""
    torch.manual_seed(0)
    frames = FRAMES + ("guide" in kind)
    shapes = [(1, 128, frames, ROWS, COLUMNS), (1, 8, STEPS, 16)]
    width = model.diffusion_model.text_config.video.dim + model.diffusion_model.text_config.audio.dim
    given: dict[str, Any] = {
        "cross_attn": torch.randn(1, 1024, width),
        "noise": torch.zeros(1, 1, sum(torch.Size(s).numel() for s in shapes)),
        "latent_shapes": shapes,
    }
    if not kind.startswith("plain"):
        masks = [torch.ones(shapes[0]), torch.ones(shapes[1])]
        masks[0][:, :, -1 if "guide" in kind else 0] = 0
        given["denoise_mask"] = comfy.utils.pack_latents(masks)[0]
    if "guide" in kind:
        cells = torch.cartesian_prod(torch.arange(1), torch.arange(ROWS), torch.arange(COLUMNS)).float()
        starts = cells.T[None, ..., None] * torch.tensor([1, 32, 32])[None, :, None, None]
        given["keyframe_idxs"] = torch.cat((starts, starts + torch.tensor([1, 32, 32])[:, None, None]), dim=3)
        given["guide_attention_entries"] = [GUIDE]
    if "reference" in kind:
        given["ref_audio"] = {"tokens": torch.randn(1, 4, 128)}
    return {**on_cuda(given), "latent_shapes": shapes, "device": torch.device("cuda")}


def run(model: Any, device: Any, kind: str, passes: int, tiles: object) -> dict[str, Any]:
    """The waits of the third of three steps: place -> times. Kinds "in tiles" are computed in ``tiles``."""
    conds = [model.extra_conds(**conditioning(model, kind)) for _ in range(passes)]
    packed = torch.randn(conditioning(model, kind)["noise"].shape).repeat(passes, 1, 1).to("cuda")
    before = device.waits.copy()
    for _ in range(3):
        before = device.waits.copy()
        processed = [{k: c.process_cond(batch_size=1, area=None) for k, c in one.items()} for one in conds]
        joined = comfy.samplers.cond_cat(processed)
        options = {"cond_or_uncond": list(range(passes))}
        if "tiles" in kind:
            options["ltx2_tiles"] = tiles
        sigma = torch.full((passes,), 0.7, device="cuda")
        found = model.apply_model(packed, sigma, **joined, transformer_options=options)
    waits = device.waits - before
    joined.pop(KNOWN, None)
    anew = model.apply_model(packed, sigma, **joined, transformer_options=options)
    return {
        "waits": {f"{why} at {place}": times for (why, place), times in waits.items()},
        "same": bool(torch.equal(found.cpu(), anew.cpu())),
    }


def main() -> None:
    spec = importlib.util.spec_from_file_location(
        "pack", PACK / "__init__.py", submodule_search_locations=[str(PACK)]
    )
    pack = importlib.util.module_from_spec(spec)
    sys.modules["pack"] = pack
    spec.loader.exec_module(pack)
    from pack.ltx2_core.tiny import embedded_set
    from pack.ltx2_core.transformer.tiles import Tiles
    from pack.nodes.host.model import load_model

    model = load_model(embedded_set().checkpoint, disable_dynamic=True).model
    tiles = Tiles(columns=2, overlap=1)
    report: dict[str, dict[str, Any]] = {}
    with pretend() as device, torch.inference_mode():
        model.to("cuda")
        for passes in (1, 2):
            for kind in KINDS:
                report[f"{kind}, {passes} a call"] = run(model, device, kind, passes, tiles)
    print(json.dumps(report))


main()
