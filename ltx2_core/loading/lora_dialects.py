"""How different trainers name the tensors of a LoRA: tables of endings, prefixes and unsupported kinds.

A flat name has underscores in place of the dots between modules, as in the files of kohya and LyCORIS.
Official names are those of the LTX-2 repository.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from .detect import Component
from .lora_kinds import COMFY_MAGNITUDE, FACTOR, PEFT_MAGNITUDE, Magnitude, factors_problem, kind_of
from .rename import table_for

PREFIXES = (
    "base_model.model.",
    "pipe.dit.",
    "model.diffusion_model.",
    "diffusion_model.",
    "transformer.",
    "connectors.",
    "model.",
    "dit.",
    "unet.",
    "module.",
    "_orig_mod.",
)
"""Prefixes of module names, removed in any order and number; names without prefix are accepted too.

The last two are of distributed and of compiled modules."""

FLAT_PREFIXES = ("lycoris_", "lora_unet_", "lora_transformer_")
"""Prefixes of flat names (kohya, LyCORIS), in which dots are underscores.

Which underscores were dots can only be told by the names of the model's modules."""

ENDINGS: tuple[tuple[re.Pattern[str], str], ...] = (
    (FACTOR, ""),
    (COMFY_MAGNITUDE, "dora"),
    (PEFT_MAGNITUDE, "dora"),
    (re.compile(r"\.(lora_A(\.[^.]+)?|lora_down|lora\.down)\.weight$"), "A"),
    (re.compile(r"\.(lora_B(\.[^.]+)?|lora_up|lora\.up)\.weight$"), "B"),
    (re.compile(r"\.alpha$"), "alpha"),
)
"""Endings of tensor names and their roles, such as "A" for the matrix A.

PEFT inserts the name of the adapter, as in ``lora_A.default``.
The role of a factor of a LoKr or LoHa is its name in the file."""

UNSUPPORTED: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"\.(oft|boft)_"), "OFT"),
    (re.compile(r"\.lora_mid\."), "LoCon with a third factor"),
    (re.compile(r"\.lora_(B|up)(\.[^.]+)?\.bias$"), "LoRA with biases"),
    (re.compile(r"\.diff(_b)?$"), "full differences of weights"),
)
"""Kinds of files that are refused by name, since ignoring their extra tensors would give a wrong result."""

_TEXT_ENCODER = ("lora_te", "text_encoder", "text_encoders", "language_model.", "model.layers.")
_CONNECTORS = ("video_embeddings_connector", "audio_embeddings_connector")
# ComfyUI has the projection in its text encoder, and that of 2.0 without a last name.
_PROJECTION = re.compile(
    r"^(?:text_encoders\.)?(?:text_embedding_projection|"
    r"(?:text_embedding_projection[._])?((?:video_|audio_)?aggregate_embed))$"
)

_TO_DIFFUSERS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"^(audio_|)patchify_proj$", r"\1proj_in"),
        (r"^(audio_|)adaln_single\.", r"\1time_embed."),
        (r"^(audio_|)prompt_adaln_single\.", r"\1prompt_adaln."),
        (r"^av_ca_(video|audio)_scale_shift_adaln_single\.", r"av_cross_attn_\1_scale_shift."),
        (r"^av_ca_a2v_gate_adaln_single\.", "av_cross_attn_video_a2v_gate."),
        (r"^av_ca_v2a_gate_adaln_single\.", "av_cross_attn_audio_v2a_gate."),
        (
            r"^(video|audio)_embeddings_connector\.transformer_1d_blocks\.",
            r"\1_connector.transformer_blocks.",
        ),
        (r"^(video_|audio_|)aggregate_embed$", r"\1text_proj_in"),
        (r"\.([qk])_norm$", r".norm_\1"),
    )
)


@dataclass(frozen=True)
class LoraLayer:
    """Names of the file's tensors that change one module of the network, by adding ``scale * (B @ A)``.

    ``a`` and ``b`` are the names of A and B. A LoKr or LoHa has ``factors`` instead, which maps the role of
    each factor, such as "lokr_w1", to the tensor's name; its ``a`` and ``b`` are "".
    """

    a: str = ""
    b: str = ""
    alpha: str | None = None
    """Name of a scalar tensor; if present, its value divided by the rank replaces ``scale``."""
    raw: str = ""
    """The module's name as in the file, without prefixes."""
    scale: float = 1.0
    factors: Mapping[str, str] = field(default_factory=dict)
    magnitude: Magnitude | None = None
    """Present for a DoRA."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the tensors whose product is the change: A and B, or the factors of a LoKr or LoHa."""
        return tuple(self.factors.values()) or (self.a, self.b)

    @property
    def kind(self) -> str:
        """The kind of the layer: "LoRA", "LoKr", "LoHa", "DoRA", "LoKr with DoRA" or "LoHa with DoRA"."""
        kind = kind_of(self.factors) if self.factors else "LoRA"
        if self.magnitude is None:
            return kind
        return "DoRA" if kind == "LoRA" else f"{kind} with DoRA"


def find_layers(path: object, names: Iterable[str]) -> dict[str, LoraLayer]:
    """Find the layers of a LoRA among the tensor names of a file, by official name of the module.

    Flat names, which have underscores in place of dots, stay flat. Raises ValueError, naming ``path``, for a
    file without layers, with an incomplete layer, with two for one module, or of an unsupported kind.
    """
    found: dict[str, dict[str, str]] = {}
    raws: dict[str, str] = {}
    other: list[str] = []
    for name in names:
        # Unsupported kinds are refused before their tensors are taken for something else.
        for pattern, kind in UNSUPPORTED:
            if pattern.search(name):
                raise ValueError(
                    f"{path} is of the kind {kind} (it has {name}), which is not supported; merge it into a "
                    "checkpoint with the tool that made it, or use a LoRA, DoRA, LoKr or LoHa"
                )
        for pattern, role in ENDINGS:
            if match := pattern.search(name):
                raw = _stripped(name[: match.start()])
                module = official_name(raw)
                roles = found.setdefault(module, {})
                role = role or match[1]
                if role in roles:
                    # Two tensors for one role would silently overwrite each other.
                    raise ValueError(f"{path} changes {module} twice: {roles[role]} and {name}")
                roles[role], raws[module] = name, raw
                break
        else:
            other.append(name)
    factors = {m: {r: n for r, n in roles.items() if r not in _OF_A_PAIR} for m, roles in found.items()}
    _check_complete(path, found, factors, other)
    return {m: _layer(roles, factors[m], raws[m]) for m, roles in found.items()}


def _check_complete(
    path: object,
    found: Mapping[str, Mapping[str, str]],
    factors: Mapping[str, dict[str, str]],
    other: list[str],
) -> None:
    """Raise ValueError for a file without layers, with tensors of other kinds, or with an incomplete layer.

    ``path`` is the file, for the message. ``found`` maps each module to its tensor names by role, such as
    "A". ``factors`` has only those that are factors of a LoKr or LoHa. ``other`` are the names of tensors
    that belong to no module.
    """
    if not any(roles.keys() & {"A", "B"} or factors[module] for module, roles in found.items()):
        raise ValueError(
            f"{path} is not a LoRA: none of its tensors ends in lora_A/lora_B.weight (found {few(other)})"
        )
    # To ignore them would merge only a part of the change.
    if other:
        raise ValueError(
            f"{path} holds tensors of an unsupported LoRA kind: {few(other)}; "
            "LoRA, DoRA, LoKr and LoHa are read"
        )
    halves = [m for m, roles in found.items() if not factors[m] and not {"A", "B"} <= roles.keys()]
    if halves:
        raise ValueError(f"{path}: one half of the pair is missing for {few(halves)}; the file is damaged")
    for module, own in factors.items():
        pair = sorted({"A", "B"} & found[module].keys())
        problem = "it also has a pair of LoRA" if pair else factors_problem(own)
        if own and problem:
            raise ValueError(f"{path}: {module} is no {kind_of(own)}: {problem}; the file is damaged")


_OF_A_PAIR = ("A", "B", "alpha", "dora")


def _layer(roles: Mapping[str, str], factors: Mapping[str, str], raw: str) -> LoraLayer:
    dora = roles.get("dora")
    magnitude = None if dora is None else Magnitude(dora, merged_norm=not COMFY_MAGNITUDE.search(dora))
    return LoraLayer(
        roles.get("A", ""),
        roles.get("B", ""),
        roles.get("alpha"),
        raw,
        factors=factors,
        magnitude=magnitude,
    )


def official_name(module: str) -> str:
    """Convert a module's name in diffusers to the official one, without prefix.

    An official name does not change. A flat name, with underscores in place of dots, only loses its prefix.
    """
    for prefix in FLAT_PREFIXES:
        module = module.removeprefix(prefix)
    name = f"{module}."
    for class_name in ("LTX2VideoTransformer3DModel", "LTX2TextConnectors"):
        table = table_for(class_name)
        assert table is not None
        name = table.rename(name).removeprefix("model.diffusion_model.")
    # A trailing dot lets the rules for tensor names match a module's name.
    return name.removesuffix(".")


def diffusers_name(module: str) -> str:
    """Convert the official name of a module to its name in diffusers."""
    for pattern, replacement in _TO_DIFFUSERS:
        module = pattern.sub(replacement, module)
    return module


def target_of(module: str) -> tuple[Component, str]:
    """The component of the model that a LoRA's module belongs to, and the module's name in that component.

    ``module`` is the official name of the module.
    """
    if match := _PROJECTION.match(module):
        return Component.TEXT_PROJECTION, match[1] or "aggregate_embed"
    if module.startswith(_TEXT_ENCODER):
        return Component.TEXT_ENCODER, module
    if module.startswith(_CONNECTORS):
        return Component.TEXT_CONNECTORS, module
    return Component.TRANSFORMER, module


class ModuleNames:
    """Looks up which module of a model a LoRA's module name stands for.

    Some trainers write an underscore for each dot of a name, ``blocks_0_attn_to_q``; these are known too.
    """

    def __init__(self, weights: Mapping[str, tuple[int, ...]]) -> None:
        """Index the modules of a model.

        ``weights`` maps the official names of the model's tensors to shapes; a module is one that has a
        ``weight``.
        """
        self._own = {name.removesuffix(".weight") for name in weights if name.endswith(".weight")}
        self._flat: dict[str, set[str]] = {}
        for name in self._own:
            # Trainers with flat names start from official or from diffusers names.
            for spelling in {name, diffusers_name(name)}:
                self._flat.setdefault(spelling.replace(".", "_"), set()).add(name)

    def find(self, module: str) -> str | None:
        """Return the model's name for ``module``, a LoRA's name of a module.

        Returns None if the model has no such module, or if several fit a name with underscores in place of
        dots.
        """
        if module in self._own:
            return module
        candidates = self._flat.get(module, set())
        # A flat name is ambiguous where underscores of the names themselves collide with the dots.
        return next(iter(candidates)) if len(candidates) == 1 else None


def few(names: Iterable[str], limit: int = 3) -> str:
    """Join the first ``limit`` names to a text, followed by "and N more" if there are more."""
    listed = list(names)
    more = f" and {len(listed) - limit} more" if len(listed) > limit else ""
    return ", ".join(listed[:limit]) + more


def _stripped(name: str) -> str:
    # Without its "model." a layer of a text encoder would be taken for one of the transformer.
    while prefix := next(
        (prefix for prefix in PREFIXES if name.startswith(prefix) and not name.startswith(_TEXT_ENCODER)), ""
    ):
        name = name.removeprefix(prefix)
    return name
