"""Checks the installation; ``ltx2 doctor`` prints the results.

Heavy packages are imported inside the checks. No check raises: a failure becomes a result.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module, metadata
from pathlib import Path
from typing import Literal, TypeAlias

from ..tiny import embedded_dir

State: TypeAlias = Literal["ok", "note", "problem"]

REQUIRED = {
    "torch": "2.4",
    "numpy": "1.25",
    "einops": "0.7",
    "safetensors": "0.4.3",
    "transformers": "4.50.3",
    "tokenizers": "0.21",
    "av": "15.1",
    "Pillow": "10",
    "tqdm": "4.62",
    "click": "8.1",
    "pydantic": "2.4",
}
"""Lowest versions of the packages needed, the same as in pyproject.toml."""

FAULTY_CONVOLUTIONS = {(2, 9, 0), (2, 9, 1)}
"""Releases of torch whose bfloat16 3D convolutions are faulty with cuDNN before 9.15."""


@dataclass(frozen=True, kw_only=True)
class Fact:
    """One result of a check of the installation: the name of what was checked, and a text for the user.

    ``state`` is "ok", "note" if something works only in part, or "problem" if something has to be repaired.
    """

    name: str
    state: State
    text: str


def examine() -> Iterator[Fact]:
    """Run all checks of the installation and yield their results; one check may yield several."""
    yield _python()
    # Packages come first, since the checks after them import these.
    yield from _packages()
    for name, check in (
        ("resampling", _resampling),
        ("devices", _devices),
        ("pinned memory", _pinned_memory),
        ("convolutions", _convolutions),
        ("kernels", _kernels),
        ("products", _products),
        ("attention", _attention),
        ("ComfyUI", _comfyui),
        ("video and audio", _codecs),
        ("embedded model", _embedded_set),
        ("memory", _memory),
    ):
        yield from _guarded(name, check)


def installed_version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _release(version: str) -> tuple[int, ...]:
    """The leading numbers of a version: "2.11.0+cu130" -> (2, 11, 0)."""
    # Suffixes such as +cu128 or rc1 are left out; they are no part of the release.
    found = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in found.group().split(".")) if found else ()


def _python() -> Fact:
    text = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    return Fact(name="python", state="ok", text=text)


def _packages() -> Iterator[Fact]:
    for package, lowest in REQUIRED.items():
        version = installed_version(package)
        if version is None:
            yield Fact(name=package, state="problem", text=f"not installed; pip install {package}")
        elif _release(version) < _release(lowest):
            text = f'{version} is too old; pip install "{package}>={lowest}"'
            yield Fact(name=package, state="problem", text=text)
        else:
            yield Fact(name=package, state="ok", text=version)


def _guarded(name: str, check: Callable[[], Fact | Iterator[Fact]]) -> list[Fact]:
    """Run ``check`` and return its results; an exception is returned as a result of the state "problem".

    ``name`` is the name of that result.
    """
    try:
        found = check()
        return [found] if isinstance(found, Fact) else list(found)
    # A report on a broken installation must not break itself.
    except Exception as error:  # noqa: BLE001 the error is the finding
        return [Fact(name=name, state="problem", text=f"{type(error).__name__}: {error}")]


def _resampling() -> Fact:
    from ..audio.dsp import in_use

    return Fact(name="resampling", state="ok", text=in_use())


def _devices() -> Fact:
    import torch

    if torch.cuda.is_available():
        found = []
        for index in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(index)
            found.append(f"{torch.cuda.get_device_name(index)} ({_gib(free)} free of {_gib(total)})")
        if torch.version.hip is not None:
            known = "kernels and graphs were never tried on AMD, fp8 and NVFP4 products are off"
            text = f"ROCm {torch.version.hip}: {', '.join(found)}; {known}"
            return Fact(name="devices", state="note", text=text)
        return Fact(name="devices", state="ok", text=f"CUDA {torch.version.cuda}: " + ", ".join(found))
    if torch.backends.mps.is_available():
        known = "steps of res_2s in float32, no kernels, graphs or fp8 products; never tried on one"
        return Fact(name="devices", state="note", text=f"Apple GPU (mps): {known}")
    if hasattr(torch, "xpu") and torch.xpu.is_available():
        names = ", ".join(torch.xpu.get_device_name(index) for index in range(torch.xpu.device_count()))
        known = "no graphs or fp8 products; never tried on one"
        return Fact(name="devices", state="note", text=f"Intel GPU (xpu), {names}: {known}")
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU"
    return Fact(
        name="devices",
        state="note",
        text=f"no GPU is usable, everything runs on the CPU (this is a {build} build of torch)",
    )


def _pinned_memory() -> Fact:
    """Whether the system gives the memory from which CUDA copies weights while it computes."""
    import torch

    from ..memory.transfers import pinned_buffers

    name = "pinned memory"
    if not torch.cuda.is_available():
        return Fact(name=name, state="ok", text="not needed without CUDA")
    size = sum(buffer.nbytes for buffer in pinned_buffers())
    if not size:
        text = (
            "refused by the system: a model that is larger than the GPU runs, but is copied to it more slowly"
        )
        return Fact(name=name, state="note", text=text)
    return Fact(name=name, state="ok", text=f"{_gib(size)} for copies of weights while the GPU computes")


def _convolutions() -> Fact:
    """Whether this torch has the fault of 2.9.0 and 2.9.1, whose 3D convolutions need far too much memory."""
    import torch

    name = "convolutions"
    cudnn = torch.backends.cudnn.version() if torch.cuda.is_available() else None
    if _release(torch.__version__)[:3] in FAULTY_CONVOLUTIONS and cudnn is not None and cudnn < 91500:
        text = (
            f"torch {torch.__version__} with cuDNN {cudnn} needs several times the memory for bfloat16 3D "
            'convolutions, as in the video decoder; pip install -U torch, or "nvidia-cudnn-cu12>=9.15"'
        )
        return Fact(name=name, state="note", text=text)
    return Fact(name=name, state="ok", text="no known fault")


def _kernels() -> Fact:
    """Whether Triton can join operations of the transformer into fewer kernels on the GPU of this machine."""
    import torch

    from ..kernels.language import problem, triton

    gpu = next((name for name in ("cuda", "xpu") if getattr(torch, name).is_available()), None)
    if gpu is None:
        return Fact(name="kernels", state="ok", text="not needed without a GPU")
    why = problem(torch.device(gpu))
    if why is not None:
        text = f"several operations of PyTorch in place of each, which is slower, as {why}"
        return Fact(name="kernels", state="note", text=text)
    tried = f"Triton {triton.__version__}, tried in the first step of a run"
    return Fact(name="kernels", state="ok", text=f"{tried}, and products timed against PyTorch's")


def _products() -> Iterator[Fact]:
    """What multiplies quantised layers as they are stored: comfy-kitchen if installed, or PyTorch."""
    import torch

    from ..storage.kitchen import PRODUCTS, kitchen_problem

    if not torch.cuda.is_available():
        text = "quantised layers are multiplied by PyTorch; comfy-kitchen is for NVIDIA GPUs"
        yield Fact(name="products", state="ok", text=text)
        return
    for kind in PRODUCTS:
        problem = kitchen_problem(kind, torch.device("cuda"))
        text = "comfy-kitchen" if problem is None else f"PyTorch and our kernels, as {problem}"
        yield Fact(name=f"{kind} products", state="ok", text=text)


def _attention() -> Iterator[Fact]:
    """The backend of attention in a usual run, and for a GPU each choice of ``--attention``."""
    import torch

    from ..attention import NAMES, attention_backend, why_not

    # The backend depends on device and dtype: these are the ones of a usual run.
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    text = f"{attention_backend(device, torch.bfloat16)} in bfloat16 on {device.type}"
    if device.type != "cuda":
        others = ", ".join(choice for choice in NAMES if why_not(choice, device) is not None)
        yield Fact(name="attention", state="ok", text=f"{text}; {others} need an NVIDIA GPU")
        return
    yield Fact(name="attention", state="ok", text=f"{text}, unless --attention names another:")
    for choice, backend in NAMES.items():
        problem = why_not(choice, device)
        yield Fact(
            name=f"attention {choice}",
            state="ok" if problem is None else "note",
            text=f"{backend} works" if problem is None else problem,
        )


def _comfyui() -> Fact:
    """Which options of the command line for speed the nodes do not have, and why."""
    text = (
        "the nodes have no CUDA graphs, --fp8-blocks and --keep-text-keys, because ComfyUI moves and patches "
        "weights between steps; the other ways to be faster are there"
    )
    return Fact(name="ComfyUI", state="ok", text=text)


def _codecs() -> Fact:
    import av

    name = "video and audio"
    lacking = [f"{codec} encoder" for codec in ("libx264", "aac") if not _has_codec(codec, "w")]
    lacking += [f"{codec} decoder" for codec in ("h264", "aac", "mp3", "flac") if not _has_codec(codec, "r")]
    libraries = ", ".join(
        f"{library} {'.'.join(map(str, version))}"
        for library, version in av.library_versions.items()
        if library in ("libavcodec", "libavformat")
    )
    if lacking:
        fix = "reinstall PyAV from its binary wheel: pip install --force-reinstall av"
        return Fact(name=name, state="problem", text=f"PyAV lacks {', '.join(lacking)} ({libraries}); {fix}")
    return Fact(name=name, state="ok", text=f"H.264 and AAC in and out ({libraries})")


def _has_codec(name: str, mode: Literal["r", "w"]) -> bool:
    import av

    try:
        av.codec.Codec(name, mode)
    except ValueError:
        return False
    return True


def _embedded_set() -> Fact:
    folder = embedded_dir()
    files = sorted(folder.rglob("*.safetensors"))
    if not files:
        fix = "reinstall this package, or name a checkpoint on the command line"
        return Fact(name="embedded model", state="note", text=f"no files in {folder}; {fix}")
    size = sum(file.stat().st_size for file in files) / 2**20
    return Fact(
        name="embedded model", state="ok", text=f"{', '.join(file.name for file in files)} ({size:.1f} MiB)"
    )


def _memory() -> Fact:
    free = free_memory()
    if free is None:
        return Fact(name="memory", state="note", text="unknown; to find out, pip install psutil")
    return Fact(name="memory", state="ok", text=f"{_gib(free)} available")


def free_memory() -> int | None:
    """Bytes of main memory that are available to a new program; None if the system does not tell."""
    try:
        return int(import_module("psutil").virtual_memory().available)
    except ImportError:
        pass
    # Linux counts here what it would give back of its cache, which is most of what looks used.
    found = re.search(r"^MemAvailable:\s+(\d+) kB", _text_of(Path("/proc/meminfo")), re.MULTILINE)
    if found:
        return 1024 * int(found.group(1))
    # macOS and Windows do not have this value.
    if "SC_AVPHYS_PAGES" not in getattr(os, "sysconf_names", {}):
        return None
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _text_of(path: Path) -> str:
    """The text of a small file, "" if it cannot be read."""
    try:
        return path.read_text()
    except OSError:
        return ""


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
