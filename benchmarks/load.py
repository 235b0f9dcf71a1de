"""Time and peak memory of loading a transformer, against safetensors, diffusers and reading the file.

    python benchmarks/load.py --gb 3

Writes a random bf16 transformer of about ``--gb`` gigabytes to a temporary folder, removed afterwards, and
runs each case in a process of its own. Each case ends by touching all pages, so that a memory map cannot win
by not reading. ``x read`` is the time over that of reading the file, ``peak/size`` and ``private/size`` are
memory above that after the imports over the size of the file; private memory does not include pages that
mirror the file. The exit code is 1 if a limit is exceeded.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

CASES = {
    "read the file": "plain read() into one buffer",
    "torch copy": "load_file, then load_state_dict into allocated layers",
    "load_file": "safetensors' own load_file, no network",
    "diffusers": "from_pretrained of a folder with the same tensors (needs diffusers)",
    "ltx2_core": "Checkpoint.load: meta, memory map, assign",
    "ltx2_core folder": "Checkpoint.load of that diffusers folder",
}
BASELINE = "read the file"
PEAK_LIMIT = 1.1
PRIVATE_LIMIT = 0.1
SECONDS_LIMIT = 0.3
"""Limit at 3 GB of the seconds above those of ``load_file`` with all pages touched."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--gb", type=float, default=2.0, help="size of the checkpoint (default 2; the targets are for 3)"
    )
    parser.add_argument("--dir", type=Path, help="folder for the temporary file (default: the system's)")
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        print(json.dumps(measure(options.case, options.file)))
        return
    with tempfile.TemporaryDirectory(prefix="ltx2-load-", dir=options.dir) as folder:
        path = Path(folder) / "transformer.safetensors"
        write_transformer(path, options.gb)
        cases = dict(CASES)
        if importlib.util.find_spec("diffusers") is None:
            cases = {case: text for case, text in CASES.items() if "diffusers" not in text}
        else:
            write_folder(path, Path(folder) / "transformer")
        results = {case: run(case, path) for case in cases}
        table(results, path.stat().st_size)


def write_transformer(path: Path, gigabytes: float) -> None:
    """Write a 2.3 transformer with as many blocks of released width as ``gigabytes`` allow, at least one."""
    import torch
    from safetensors.torch import save_file

    from ltx2_core.config import TransformerConfig
    from ltx2_core.transformer import Transformer

    width = 4096 if gigabytes >= 1.5 else 2048
    config = TransformerConfig(
        heads=width // 128, caption_projection=False, gated_attention=True, cross_attention_adaln=True
    )

    def state(layers: int) -> dict[str, torch.Tensor]:
        network = Transformer(replace(config, num_layers=layers), device="meta", dtype=torch.bfloat16)
        return network.state_dict()

    one, two = (sum(t.nbytes for t in state(layers).values()) for layers in (1, 2))
    layers = max(1, round((gigabytes * 1e9 - one) / (two - one)) + 1)
    generator = torch.Generator().manual_seed(0)
    tensors = {
        name: torch.empty(shape.shape, dtype=shape.dtype).random_(0, 2, generator=generator)
        for name, shape in state(layers).items()
    }
    save_file({f"model.diffusion_model.{name}": tensor for name, tensor in tensors.items()}, path)


def write_folder(path: Path, folder: Path) -> None:
    """Write the same transformer as diffusers saves it, as a folder."""
    import torch
    from diffusers import LTX2VideoTransformer3DModel
    from safetensors.torch import load_file

    from ltx2_core.config import transformer_config
    from ltx2_core.loading import open_checkpoint
    from ltx2_core.loading.rename import table_for

    c = transformer_config(open_checkpoint(path).config)
    with torch.device("meta"):
        network = LTX2VideoTransformer3DModel(
            num_layers=c.num_layers,
            num_attention_heads=c.heads,
            attention_head_dim=c.head_dim,
            cross_attention_dim=c.dim,
            audio_num_attention_heads=c.heads,
            audio_attention_head_dim=c.audio_head_dim,
            audio_cross_attention_dim=c.audio_dim,
            rope_type=c.rope.rope_type,
            gated_attn=True,
            audio_gated_attn=True,
            cross_attn_mod=True,
            audio_cross_attn_mod=True,
            use_prompt_embeddings=False,
        )
    table, tensors = table_for("LTX2VideoTransformer3DModel"), load_file(path)
    assert table is not None
    network.load_state_dict({n: tensors[table.rename(n)] for n in network.state_dict()}, assign=True)
    network.save_pretrained(folder, max_shard_size="100GB")


def run(case: str, path: Path) -> dict[str, float]:
    command = [sys.executable, __file__, "--case", case, "--file", str(path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout))


def measure(case: str, path: Path) -> dict[str, float]:  # noqa: C901 one closure for each case
    import torch

    from ltx2_core.loading import Component, open_checkpoint
    from ltx2_core.transformer import Transformer

    torch.set_num_threads(1)
    checkpoint = open_checkpoint(path)
    folder = path.with_name("transformer")
    if case == "diffusers":
        from diffusers import LTX2VideoTransformer3DModel

    def read() -> object:
        return path.read_bytes()

    def copy() -> object:
        from safetensors.torch import load_file

        from ltx2_core.config import transformer_config

        state = load_file(path)
        network = Transformer(transformer_config(checkpoint.config), dtype=torch.bfloat16)
        network.load_state_dict({n.removeprefix("model.diffusion_model."): t for n, t in state.items()})
        return touched(network)

    def file() -> object:
        from safetensors.torch import load_file

        state = load_file(path)
        touch(state.values())
        return state

    def pretrained() -> object:
        return touched(LTX2VideoTransformer3DModel.from_pretrained(folder, torch_dtype=torch.bfloat16))

    def load() -> object:
        return touched(checkpoint.load(Component.TRANSFORMER))

    def load_folder() -> object:
        return touched(open_checkpoint(folder).load(Component.TRANSFORMER))

    def touched(network: torch.nn.Module) -> object:
        touch(network.state_dict().values())
        return network

    def touch(tensors: Iterable[torch.Tensor]) -> None:
        for tensor in tensors:
            tensor.contiguous().view(torch.uint8).flatten()[::4096].sum()

    work: dict[str, Callable[[], object]] = {
        "read the file": read,
        "torch copy": copy,
        "load_file": file,
        "diffusers": pretrained,
        "ltx2_core": load,
        "ltx2_core folder": load_folder,
    }
    with watching() as peak:
        start = time.perf_counter()
        result = work[case]()
        seconds = time.perf_counter() - start
    del result
    return {"seconds": seconds, **peak}


@contextmanager
def watching():  # noqa: ANN201
    """Yields a dict; when the context ends it has the peak resident and private bytes above the start."""
    import psutil

    process = psutil.Process()

    def memory() -> tuple[int, int]:
        info = process.memory_info()
        return info.rss, info.rss - getattr(info, "shared", 0)

    start, peaks, stop = memory(), list(memory()), threading.Event()

    def watch() -> None:
        while not stop.wait(0.005):
            peaks[:] = map(max, peaks, memory())

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    result: dict[str, float] = {}
    try:
        yield result
    finally:
        peaks[:] = map(max, peaks, memory())
        stop.set()
        thread.join()
        result["peak"], result["private"] = (peak - first for peak, first in zip(peaks, start, strict=True))


def table(results: dict[str, dict[str, float]], size: int) -> None:
    baseline = results[BASELINE]["seconds"]
    print(f"checkpoint of {size / 1e9:.2f} GB\n")
    print(f"{'case':<18}{'seconds':>9}{'x read':>8}{'peak/size':>11}{'private/size':>14}   what")
    for case, result in results.items():
        print(
            f"{case:<18}{result['seconds']:>9.2f}{result['seconds'] / baseline:>8.2f}"
            f"{result['peak'] / size:>11.2f}{result['private'] / size:>14.2f}   {CASES[case]}"
        )
    ours = results["ltx2_core"]
    beyond = ours["seconds"] - results["load_file"]["seconds"]
    checks = (
        ("peak", ours["peak"] / size, PEAK_LIMIT, "of the file"),
        ("private memory", ours["private"] / size, PRIVATE_LIMIT, "of the file"),
        ("time beyond load_file with all pages touched", beyond, SECONDS_LIMIT, "s"),
    )
    print()
    for what, value, limit, unit in checks:
        verdict = "met" if value <= limit else "MISSED"
        print(f"{what} of ltx2_core {value:.2f} {unit}, limit {limit:g}: {verdict}")
    sys.exit(any(value > limit for _, value, limit, _ in checks))


if __name__ == "__main__":
    main()
