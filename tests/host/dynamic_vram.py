"""Loads every component with the host's linear layers as they are where dynamic VRAM is on. A script.

``python dynamic_vram.py PACK MODELS UPSCALER linux|windows``, in a checkout of ComfyUI; UPSCALER is the name
of a file. It sets switches of the whole process: layers then have no parameters until their state dict is
loaded. Hosts up to 0.29 do that on Windows only. The last line is JSON: whether layers were lazy, and for
each component whether it equals one loaded without the switches.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

PACK, MODELS, UPSCALER, PLATFORM = Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:5]
sys.path.insert(0, str(Path.cwd()))
sys.argv = [sys.argv[0], "--cpu", "--force-fp32", "--fp32-text-enc"]

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

import comfy.memory_management  # noqa: E402
import comfy.model_management  # noqa: E402
import comfy.ops  # noqa: E402
import comfy.utils  # noqa: E402
import safetensors.torch  # noqa: E402
import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402

PROMPT = "a red ball rolls to the left, low hum"


def main() -> None:
    host = _import_pack()
    plain = {name: load() for name, load in _loads(host).items()}
    features = _encode(plain["clip"])
    comfy.memory_management.aimdo_enabled = True
    comfy.model_management.WINDOWS = PLATFORM == "windows"
    # With the switch on, the host reads files through a native library that needs a GPU.
    comfy.utils.load_torch_file = lambda path, **_: safetensors.torch.load_file(path)
    report: dict[str, Any] = {"lazy": comfy.ops.manual_cast.Linear(2, 2).weight is None}
    for name, load in _loads(host).items():
        try:
            loaded = load()
            report[name] = _equal(_state(loaded), _state(plain[name]))
            if name == "clip":
                report["prompt"] = torch.equal(_encode(loaded), features)
        except Exception as error:  # noqa: BLE001 the report carries it to the test
            report[name] = f"{type(error).__name__}: {error}"
    print(json.dumps(report))


def _import_pack() -> dict[str, Any]:
    spec = importlib.util.spec_from_file_location(
        "pack", PACK / "__init__.py", submodule_search_locations=[str(PACK)]
    )
    pack = importlib.util.module_from_spec(spec)
    sys.modules["pack"] = pack
    spec.loader.exec_module(pack)
    names = ("clip", "model", "upscaler", "video_vae", "audio_vae")
    return {name: importlib.import_module(f"pack.nodes.host.{name}") for name in names}


def _loads(host: dict[str, Any]) -> dict[str, Callable[[], Any]]:
    checkpoint = str(MODELS / "checkpoints" / "ltx2-tiny-2.3.safetensors")
    upscaler = MODELS / "latent_upscale_models" / UPSCALER
    return {
        "model": lambda: host["model"].load_model(checkpoint),
        "host's model": lambda: host["model"].load_host_model(checkpoint),
        "video vae": lambda: host["video_vae"].load_video_vae(checkpoint),
        "audio vae": lambda: host["audio_vae"].load_audio_vae(checkpoint),
        "clip": lambda: host["clip"].load_clip(str(MODELS / "text_encoders" / "gemma-tiny"), checkpoint),
        "upscaler": lambda: host["upscaler"].load_upscaler(str(upscaler)),
    }


def _state(loaded: Any) -> dict[str, Tensor]:
    """The weights of a MODEL, VAE, CLIP or upscaler."""
    patcher = getattr(loaded, "patcher", loaded)
    network: nn.Module = getattr(patcher, "model", patcher)
    return network.state_dict()


def _equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(tensor, b[name]) for name, tensor in a.items())


def _encode(clip: Any) -> Tensor:
    return clip.encode_from_tokens(clip.tokenize(PROMPT))


main()
