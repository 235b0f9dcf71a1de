"""Saves sampled latents until the output file is written, so that a failed decode needs no new sampling."""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..loading.detect import Component
from ..sampling.caching import Evaluations
from ..shapes import Snap, plan_clip
from ..storage.files import ParsedJson
from ..storage.header import read_header
from ..storage.private import check_private, private_folder, prune_saved
from ..storage.writing import write_tensors
from ..types import AVLatent, Numerics
from ..video_vae import VolumeNoise
from .codecs import Codecs
from .generation import Generation
from .request import Request
from .request_json import in_memory

KEY = "ltx2_kept"
"""The key of the metadata in a file of saved latents; its name is that of version 0.1."""
# Ends like every file of tensors, so that other tools open it.
SUFFIX = ".latents.safetensors"
# Hidden, since it stands among the user's own files.
_SPARE = ".ltx2-latents"

_log = logging.getLogger(__name__)


def saved_folder() -> Path:
    """The folder for saved latents: a folder of this user inside the system's temporary folder."""
    # Users of one machine share the temporary folder, and Windows has no user ids.
    user = os.getuid() if hasattr(os, "getuid") else "user"
    return Path(tempfile.gettempdir()) / f"ltx2-latents-{user}"


def spare_folder(output: str | os.PathLike[str]) -> Path:
    """The hidden folder next to the file ``output`` for its latents, if the usual folder cannot be used."""
    return Path(output).resolve().parent / _SPARE


def saved_windows(output: str | os.PathLike[str]) -> Path:
    """The folder for finished windows of the run that writes ``output``, until that file is written.

    Windows are the parts in which a long clip, or the audio of a long video, is sampled.
    """
    path = Path(output).resolve()
    # Outputs of the same name in different folders differ by the digest of the whole path.
    return saved_folder() / f"{path.stem}-{sha256(os.fspath(path).encode()).hexdigest()[:8]}.windows"


def save_latents(
    generation: Generation,
    output: str | os.PathLike[str],
    *,
    files: Mapping[str, Any] | None = None,
    edit: Mapping[str, Any] | None = None,
    encoding: Mapping[str, Any] | None = None,
    folder: Path | None = None,
) -> Path:
    """Save the latents of a run that will be written to ``output``; returns the path of the saved file.

    ``files`` are JSON values that resuming needs, such as the paths of the checkpoints; ``edit`` are the
    settings of the edit that the run belongs to (``EditTask.settings``), None if it is no edit; ``encoding``
    are the chosen settings of the file's encoding (``Encoding.settings``). The latents are saved in
    ``folder``; if that is None, in :func:`saved_folder`, or if they cannot be written there, for example
    because it is full or belongs to another user, in :func:`spare_folder`.

    Raises OSError if no folder has room for the latents.
    """
    tensors: dict[str, Tensor] = {}
    for name in ("video", "audio"):
        stream = getattr(generation.latents, name)
        if stream is not None:
            tensors[name] = stream
    if generation.after_sampling is not None and generation.after_sampling.start is not None:
        generator = generation.after_sampling.start
        tensors["generator"], noise_device = generator.get_state(), generator.device.type
    else:
        noise_device = None
    rate = None
    if generation.input_audio is not None:
        # Input audio becomes part of the clip unchanged, and its file may be gone when the run is resumed.
        tensors["waveform"], rate = generation.input_audio[0], generation.input_audio[1]
    about = {
        "output": _absolute(output),
        "settings": generation.settings(),
        "rate": rate,
        "noise_device": noise_device,
        "files": dict(files or {}),
        "edit": None if edit is None else dict(edit),
        "encoding": dict(encoding or {}),
        "models": generation.codecs.networks.identity(),
    }
    # A random part preserves the latents of an earlier run of the same output.
    name = f"{Path(output).stem}-{uuid4().hex[:8]}{SUFFIX}"
    metadata = {KEY: json.dumps(about)}
    if folder is not None:
        return _written(folder, name, tensors, metadata)
    try:
        return _written(saved_folder(), name, tensors, metadata)
    # After minutes of sampling no fault of a folder may end the run.
    except (OSError, ValueError) as error:
        _log.warning("the sampled latents are saved next to the output instead: %s", error)
        return _written(spare_folder(output), name, tensors, metadata)


def remove_saved(path: Path) -> None:
    """Remove a file of saved latents that is no longer needed.

    Its folder is removed too if that is a hidden one next to an output and is empty now.
    """
    path.unlink(missing_ok=True)
    if path.parent.name == _SPARE:
        with suppress(OSError):
            path.parent.rmdir()


def _written(folder: Path, name: str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Path:
    private_folder(folder)
    prune_saved(folder)
    write_tensors(folder / name, tensors, metadata)
    return folder / name


def _absolute(output: str | os.PathLike[str]) -> str:
    """The absolute path of an output, as text; "-" (stdout) is returned unchanged.

    A slash at the end, which means a folder of images, is preserved.
    """
    text = os.fspath(output)
    if text == "-":
        return text
    return str(Path(text).resolve()) + (os.sep if text.endswith(("/", os.sep)) else "")


def find_saved(output: str | os.PathLike[str] | None = None, *, folder: Path | None = None) -> Path:
    """The path of the newest file of saved latents; if ``output`` is not None, the newest of that output.

    It is looked for in ``folder``; if that is None, in the folders in which :func:`save_latents` saves.
    Raises ValueError if there is none.
    """
    folders = [folder] if folder is not None else [saved_folder(), spare_folder(output or "output")]
    folder = folders[0]
    for one in folders:
        if one.is_dir():
            # Another user could have made this folder first and placed files of their own in it.
            check_private(one)
    found = [path for one in folders for path in one.glob(f"*{SUFFIX}")]
    # By time and not by name, whose last part is random.
    files = sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)
    target = None if output is None else _absolute(output)
    outputs = {path: output for path in files if (output := _output_of(path)) is not None}
    for path, saved in outputs.items():
        if target is None or saved == target:
            return path
    of = "" if target is None else f" of {target}"
    others = ", ".join(list(outputs.values())[:5])
    raise ValueError(
        f"no latents{of} are saved in {folder}: a run leaves them only if its file was not written"
        + (f". There are those of {others}" if others else "")
    )


def read_saved(path: str | os.PathLike[str]) -> ParsedJson:
    """Read the JSON values that :func:`save_latents` stored with the latents, such as "settings".

    Raises ValueError if ``path`` holds no saved latents or is damaged.
    """
    metadata = read_header(path).metadata
    if KEY not in metadata:
        raise ValueError(f"{path} holds no latents of a run; give a file that ends in {SUFFIX}")
    about = metadata[KEY]
    if not isinstance(about, dict):
        raise ValueError(f"{path} is damaged: what it says about its run is a {type(about).__name__}")
    return about


def _output_of(path: Path) -> str | None:
    """The output path that saved latents belong to; None, with a warning in the log, for a damaged file."""
    try:
        return str(read_saved(path)["output"])
    except (ValueError, LookupError, OSError, SafetensorError) as error:
        _log.warning("%s is damaged and left out: %s", path, error)
        return None


def _check_models(about: ParsedJson, codecs: Codecs) -> None:
    """Raise ValueError if the decoders of ``codecs`` are not those of the run that sampled the latents.

    ``about`` is what :func:`read_saved` returned. Other networks are not compared, because decoding does not
    use them.
    """
    saved = about.get("models")
    if saved is None:
        _log.warning("these latents do not say which models they are of (they are of an earlier version)")
        return
    now = codecs.networks.digests()
    # Only these decide how the latents decode; the other networks are not used again.
    decoders = (Component.VIDEO_DECODER, Component.AUDIO_DECODER, Component.VOCODER)
    changed = [str(c) for c in decoders if saved["files"].get(str(c)) != now.get(str(c))]
    if changed:
        raise ValueError(
            f"the latents were sampled for other files: {', '.join(changed)} changed since. Use the "
            "checkpoints of the run, with --checkpoint if they have moved"
        )


def _check_shapes(path: str | os.PathLike[str], tensors: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless ``tensors`` are latents of one clip: "video" of 5 axes, "audio" of 4, batch 1.

    ``path`` is their file, which the message names.
    """
    for name, axes in (("video", 5), ("audio", 4)):
        shape = tuple(tensors[name].shape) if name in tensors else (1,) * axes
        if len(shape) != axes or shape[0] != 1:
            raise ValueError(
                f"{path}: the latent of the {name} is {shape}; a run saves one clip, with a first axis of 1 "
                f"and {axes} axes in all. Remove the file, or save each clip by itself"
            )
    if not {"video", "audio"} & tensors.keys():
        raise ValueError(f"{path} holds no latents of video or audio; remove it")


def resume(path: str | os.PathLike[str], codecs: Codecs) -> Generation:
    """Load saved latents as a generation that ``codecs`` can decode; nothing is sampled again.

    Raises ValueError for a damaged file, and for latents that were sampled for other decoders.
    """
    about = read_saved(path)
    try:
        _check_models(about, codecs)
        return _generation(path, about, codecs)
    # A damaged file may hold values of any type where others are expected.
    except (LookupError, TypeError, AttributeError, ArithmeticError, SafetensorError) as error:
        raise ValueError(f"{path} is damaged ({error!r}): sample the clip again") from None


def _generation(path: str | os.PathLike[str], about: Mapping[str, Any], codecs: Codecs) -> Generation:
    with safe_open(os.fspath(path), "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    _check_shapes(path, tensors)
    settings = about["settings"]
    # Inputs that were in memory are gone, and decoding does not need them.
    fields = {name: value for name, value in settings["request"].items() if not in_memory(value)}
    width, height, frames, fps = settings["clip"]
    clip = plan_clip(
        width, height, frames=frames, fps=fps, snap=Snap.ERROR, numerics=Numerics(settings["numerics"])
    )
    video, audio = tensors.get("video"), tensors.get("audio")
    for latent, shape in ((video, clip.video_shape()), (audio, clip.audio_shape())):
        if latent is not None and tuple(latent.shape) != shape:
            raise ValueError(f"{path} is damaged: latents {tuple(latent.shape)} for a clip of {shape}")
    return Generation(
        codecs=codecs,
        latents=AVLatent(video, audio),
        clip=clip,
        request=Request.from_settings(fields),
        sigmas=tuple(tuple(sigmas) for sigmas in settings["sigmas"]),
        input_audio=(tensors["waveform"], about["rate"]) if "waveform" in tensors else None,
        evaluations=tuple(Evaluations(**used) for used in settings["evaluations"]),
        recorded=settings,
        after_sampling=_after_sampling(tensors.get("generator"), about.get("noise_device")),
    )


def _after_sampling(state: Tensor | None, device: str | None) -> VolumeNoise | None:
    """The noise of a run's generator on ``device``, from its ``state`` after sampling on.

    None if the state is not saved, as in files of earlier versions, or if this machine has no such device.
    """
    if state is None or device is None or (device == "cuda" and not torch.cuda.is_available()):
        return None
    try:
        generator = torch.Generator(device)
    except RuntimeError:
        return None
    generator.set_state(state)
    return VolumeNoise(start=generator)
