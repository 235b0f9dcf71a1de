"""Decodes and encodes by this pack's diffusion video VAE as the host's nodes call it. A script.

``python diffusion_vae.py PACK FILE``, in a checkout of ComfyUI. The last line is JSON: the largest
difference of tiled from whole frames, and, on hosts that know the diffusion VAE, of both from the host's own
VAE of the file.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
from pathlib import Path

PACK, FILE = Path(sys.argv[1]), sys.argv[2]
sys.path.insert(0, str(Path.cwd()))
sys.argv = [sys.argv[0], "--cpu", "--force-fp32", "--fp32-text-enc"]

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

import comfy.sd  # noqa: E402
import comfy.utils  # noqa: E402
import torch  # noqa: E402


def main() -> None:
    spec = importlib.util.spec_from_file_location(
        "pack", PACK / "__init__.py", submodule_search_locations=[str(PACK)]
    )
    pack = importlib.util.module_from_spec(spec)
    sys.modules["pack"] = pack
    spec.loader.exec_module(pack)
    ours = importlib.import_module("pack.nodes.loading.loaders").load_video_vae(FILE)
    latent = torch.randn(1, 128, 3, 3, 6, generator=torch.Generator().manual_seed(2))
    images = torch.rand(9, 96, 160, 3, generator=torch.Generator().manual_seed(3))
    whole = ours.decode(latent)
    report = {
        "shape": list(whole.shape),
        "tiled": _difference(ours.decode_tiled(latent, tile_x=3, tile_y=3, overlap=1, tile_t=2), whole),
        "bytes": ours.memory_used_decode(latent.shape, torch.float32),
        "begins with tiles": getattr(ours.first_stage_model, "comfy_decode_estimate_is_reliable", False),
    }
    decoded_frames = importlib.import_module("pack.nodes.host.video").decoded_frames
    for name, parts in (("one part", (latent,)), ("two parts", latent.split((1, 2), dim=2))):
        frames = torch.cat(list(decoded_frames(ours, parts))).movedim(1, -1)[None]
        report[name] = _difference((frames / 2 + 0.5).clamp(0, 1), whole)
    import nodes as core_nodes

    samples = {"samples": latent}
    for name, node, options in (
        ("VAEDecode", core_nodes.VAEDecode, ()),
        ("VAEDecodeTiled", core_nodes.VAEDecodeTiled, (64, 32, 8, 4)),
    ):
        (images,) = node().decode(ours, samples, *options)
        report[name] = _difference(images, whole.flatten(0, 1))
    decode = importlib.import_module("pack.nodes.clip.decode").LTX2AVDecodeVideo
    images, seeded, again = (decode.execute(ours, samples, seed).result[0] for seed in (0, 7, 0))
    report["node"], report["seeded"] = _difference(images, again), _difference(images, seeded)
    sd, metadata = comfy.utils.load_torch_file(FILE, return_metadata=True)
    try:
        core = comfy.sd.VAE(sd=sd, metadata=metadata)
    except (RuntimeError, ValueError):
        # Hosts before 0.32 take it for a convolutional VAE.
        core = None
    if core is not None:
        report["core decode"] = _difference(core.decode(latent), whole)
        report["core encode"] = _difference(core.encode(images), ours.encode(images))
    print(json.dumps(report))


def _difference(one: torch.Tensor, other: torch.Tensor) -> float:
    assert one.shape == other.shape
    return float((one - other).abs().max())


with torch.inference_mode():
    main()
