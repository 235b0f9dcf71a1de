"""Finds what other packs changed in a MODEL, and refuses changes that this pack's network would ignore."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import comfy.ldm.lightricks.av_model
import comfy.ldm.lightricks.model
from comfy.patcher_extension import WrappersMP
from torch import nn

from ...ltx2_core.transformer.layers import FeedForward
from .host_blocks import HostAttention, HostBlock
from .latents import check_shapes
from .notices import USE_CORE, notice_once

KEY = "ltx2_foreign"
NETWORK = "diffusion_model."
CALLED = (HostBlock, HostAttention, FeedForward)
"""Modules with parts whose ``forward`` can be replaced as that of the host's: it is called alike."""

BLOCK = re.compile(r"^diffusion_model\.transformer_blocks\.(\d+)(?:\.(\w+))?\.forward$")


def refuse_changes_without_effect(patcher: Any) -> None:
    """Make every sampling with this MODEL, or a clone of it, check what other node packs changed in it.

    ``patcher`` is the MODEL. If a pack replaced a part that this pack's network does not have or never calls,
    sampling raises ValueError before a weight is loaded; the message names the pack, the part, and what to
    use instead. A pack that replaced methods of ComfyUI's own classes is only named in a notice.
    """
    patcher.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, _check)


def _check(executor: Callable[..., Any], *args: Any, **more: Any) -> Any:
    # The wrapper of a bound method: its class object is the guider, whose MODEL this is.
    guider: Any = executor.class_obj  # type: ignore[attr-defined]
    check_object_patches(guider.model_patcher)
    shapes = more.get("latent_shapes") or ()
    if shapes:
        check_shapes(shapes, guider.model_patcher.model.diffusion_model.in_channels)
    if len(shapes) > 1:
        check_no_areas(guider.conds)
    for change in changed_classes():
        notice_once(f"{change}, which does not change this network. {USE_CORE}")
    return executor(*args, **more)


def check_object_patches(patcher: Any) -> None:
    """Raise ValueError if another pack put something into the MODEL ``patcher`` that has no effect there.

    This is so where an object patch, a replacement by attribute name, is for an attribute that the network of
    this pack does not have or never calls.
    """
    network = patcher.model.diffusion_model
    for name, value in patcher.object_patches.items():
        if name.startswith(NETWORK) and not _acts(network, name.removeprefix(NETWORK), value):
            raise ValueError(
                f"{origin(value)} replaces {name}, which the network LTX-2 does not call: set network to "
                "ComfyUI in LTX-2 Load Checkpoint or LTX-2 Load All"
            )


def check_no_areas(conds: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Raise ValueError if a conditioning of ``conds``, by name, is for an area or a mask of the frames.

    ComfyUI cannot apply these to a latent of video and audio together, which it samples as one row of values.
    """
    for name, entries in conds.items():
        for entry in entries:
            area = entry.get("area")
            # An area in shares of the frame selects everything there.
            limits = "mask" if entry.get("mask") is not None else "area" if area else ""
            if limits and not (area and area[0] == "percentage"):
                raise ValueError(
                    f"the {name} conditioning is for {'an' if limits == 'area' else 'a'} {limits} of the "
                    "frames, which ComfyUI cannot apply to video and audio together: take the node that sets "
                    f"the {limits} out, or sample the video alone (LTX-2 Separate AV Latent)"
                )


def patched_parts(patcher: Any) -> dict[str, str]:
    """Which parts of transformer blocks other packs replaced in the MODEL ``patcher``: part -> the pack.

    A part is an attention by its attribute name, such as "attn1", or "block" for a whole block.
    """
    found = {}
    for name, value in patcher.object_patches.items():
        if match := BLOCK.match(name):
            found[match[2] or "block"] = origin(value)
    return found


def origin(value: Any) -> str:
    """Where ``value``, something that was put into a MODEL, is from: "pack (function or class)"."""
    function = getattr(value, "__func__", value)
    module: str = getattr(function, "__module__", None) or type(value).__module__
    name = getattr(function, "__qualname__", type(value).__name__).split(".<locals>")[0]
    # The host imports a pack under the path of its folder, with the modules behind it.
    pack = re.search(r"custom_nodes[/.\\]([^./\\]+)", module)
    return f"{pack[1] if pack else module} ({name})"


def changed_classes() -> Iterator[str]:
    """Yield a text for each method that a pack replaced in the classes of ComfyUI's own LTX-2 network.

    An example: "SomePack (function) replaces CrossAttention.forward of ComfyUI".
    """
    for module in (comfy.ldm.lightricks.av_model, comfy.ldm.lightricks.model):
        for kind in vars(module).values():
            own = inspect.isclass(kind) and issubclass(kind, nn.Module) and kind.__module__ == module.__name__
            if not own:
                continue
            for name, value in vars(kind).items():
                if inspect.isfunction(value) and value.__module__ != module.__name__:
                    yield f"{origin(value)} replaces {kind.__name__}.{name} of ComfyUI"


def _acts(network: nn.Module, path: str, value: Any) -> bool:
    """Whether ``network`` uses what a pack put at ``path``, the dotted name of an attribute inside it.

    ``value`` is what the pack put there. An attribute that ComfyUI's own network does not have is taken to be
    used: whatever reads it is the pack itself, or nothing there as here.
    """
    owner_path, _, attribute = path.rpartition(".")
    if not owner_path and attribute not in _names_in_core():
        return True
    try:
        owner = network.get_submodule(owner_path)
    except AttributeError:
        return False
    # A compiled or exchanged module, or a weight, is used wherever the original is.
    if attribute in owner._modules or attribute in owner._parameters or attribute in owner._buffers:
        return True
    # The forward of the whole network is called by the host itself, that of a layer by whoever holds it.
    plain = owner is network or not any(True for _ in owner.children())
    return attribute == "forward" and (plain or isinstance(owner, CALLED))


@cache
def _names_in_core() -> frozenset[str]:
    """All names in the code of ComfyUI's LTX-2 network, which are all attributes that it could read."""
    modules = (comfy.ldm.lightricks.av_model, comfy.ldm.lightricks.model)
    return frozenset(word for module in modules for word in re.findall(r"\w+", inspect.getsource(module)))
