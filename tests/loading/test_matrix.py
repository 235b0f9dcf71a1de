"""Every generation in every layout and number format loads as the plain file does, or says why not."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ltx2_core.loading import Component, open_checkpoint
from ltx2_core.storage.dequantize import Format, decode
from ltx2_core.storage.quantize import encode
from ltx2_core.storage.quantized import QuantizedLinear

DIT = "model.diffusion_model."
CONNECTORS = (f"{DIT}video_embeddings_connector.", f"{DIT}audio_embeddings_connector.")
APART = (Component.UPSAMPLER, Component.LORA, Component.TEXT_ENCODER, Component.DURATION_HEAD)
PARTS = frozenset(Component) - frozenset(APART)
GENERATIONS = ["2.0", "2.3", "2.5"]

Rename = Callable[[str], "str | None"]


def keep(*prefixes: str, without: tuple[str, ...] = ("?",), strip: str = "", add: str = "") -> Rename:
    def rename(name: str) -> str | None:
        chosen = name.startswith(prefixes) and not name.startswith(without)
        return add + name.removeprefix(strip) if chosen else None

    return rename


REPACKAGE = {
    "transformer": keep(DIT, without=CONNECTORS),
    "text_encoder_post_modules": keep(*CONNECTORS, "text_embedding_projection."),
    "video_vae_encoder": keep("vae.encoder.", "vae.per_channel_statistics."),
    "video_vae_decoder": keep("vae.decoder.", "vae.per_channel_statistics."),
    "audio_vae_encoder": keep("audio_vae.encoder.", "audio_vae.per_channel_statistics."),
    "audio_vae_decoder": keep("audio_vae.decoder.", "audio_vae.per_channel_statistics."),
    "audio_vocoder": keep("vocoder."),
}
COMMUNITY = {
    "transformer_only": keep(DIT, without=CONNECTORS, strip=DIT),
    "embeddings_connector": keep(*CONNECTORS, "text_embedding_projection."),
    "video_vae": keep("vae.", strip="vae."),
    "audio_vae": keep("audio_vae.", "vocoder."),
}
STRIPPED = {
    "transformer": keep(DIT, without=CONNECTORS, strip=DIT),
    "connectors": keep(*CONNECTORS, strip=DIT),
    "projection": keep("text_embedding_projection.", strip="text_embedding_projection."),
    "vae": keep("vae.", strip="vae."),
    "audio_vae": keep("audio_vae.", strip="audio_vae."),
    "vocoder": keep("vocoder.", strip="vocoder."),
}
NEWEST = {
    "diffusion_models": keep(DIT),
    "text_encoders": keep("text_embedding_projection."),
    "video_vae": keep("vae."),
    "audio_vae": keep("audio_vae.", "vocoder."),
}
SPLITS = {
    "official split files": (NEWEST, True),
    "DiffSynth repackage": (REPACKAGE, False),
    "one file a component": (COMMUNITY, True),
    "without prefixes": (STRIPPED, True),
}
"""Layout -> (file -> names, whether the header has its configuration)."""


@pytest.fixture(scope="module")
def plain_state(generations) -> Callable[[str, Component], dict[str, Tensor]]:
    """The weights of a component in the single file of a generation; read once."""
    return cache(lambda generation, part: open_checkpoint(generations[generation]).load(part).state_dict())


@pytest.fixture(scope="module")
def plain_velocities(generations, velocities) -> Callable[[str], tuple[Tensor, Tensor]]:
    """What the transformer of a generation computes as it is; computed once."""
    return cache(lambda name: velocities(open_checkpoint(generations[name]).load(Component.TRANSFORMER)))


def split(source: Path, folder: Path, files: dict[str, Rename], *, metadata: bool) -> list[Path]:
    tensors = load_file(source)
    stated = {"config": json.dumps(open_checkpoint(source).config)} if metadata else None
    for file, rename in files.items():
        own = {new: tensor for name, tensor in tensors.items() if (new := rename(name))}
        save_file(own, folder / f"{file}.safetensors", metadata=stated)
    return sorted(folder.iterdir())


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("layout", SPLITS)
def test_split_layouts_load_as_the_single_file_does(layout, generation, generations, plain_state, tmp_path):
    source = generations[generation]
    files, metadata = SPLITS[layout]
    opened = [open_checkpoint(path) for path in split(source, tmp_path, files, metadata=metadata)]
    found = set()
    for checkpoint in opened:
        for component in checkpoint.components:
            found.add(component)
            if not metadata and component in AMBIGUOUS[generation]:
                with pytest.raises(ValueError, match=r"\.safetensors: .*(does not follow|belong together)"):
                    checkpoint.load(component)
                continue
            ours, plain = checkpoint.load(component).state_dict(), plain_state(generation, component)
            assert ours.keys() == plain.keys()
            assert all(torch.equal(ours[name], plain[name]) for name in plain)
    assert found == PARTS


AMBIGUOUS = {
    "2.0": (Component.TRANSFORMER, Component.TEXT_CONNECTORS, Component.TEXT_PROJECTION),
    "2.3": (Component.TEXT_PROJECTION,),
    "2.5": (Component.TEXT_PROJECTION,),
}
"""What needs the configuration at these widths: 2.0 has its number of heads in no tensor, and none holds the
width of the text encoder since 2.3. Released widths determine both."""


@pytest.mark.parametrize("generation", GENERATIONS)
def test_the_generation_is_detected_from_tensors_alone(generation, generations, tmp_path):
    path = tmp_path / "ltx-2.1-misnamed.safetensors"
    save_file(load_file(generations[generation]), path)
    assert open_checkpoint(path).generation == generation


@pytest.mark.parametrize("generation", GENERATIONS)
def test_a_folder_of_split_files_is_one_checkpoint(
    generation, generations, tmp_path, velocities, plain_state, plain_velocities
):
    split(generations[generation], tmp_path, REPACKAGE, metadata=True)
    folder = open_checkpoint(tmp_path)
    assert folder.components == PARTS
    assert folder.generation == generation
    for component in PARTS:
        ours, plain = folder.load(component).state_dict(), plain_state(generation, component)
        assert ours.keys() == plain.keys()
        assert all(torch.equal(ours[name], plain[name]) for name in plain)
    # Products of matrices begin their sums elsewhere where the memory is aligned otherwise, as it is in
    # another file, so equal weights give velocities that are equal but for rounding.
    ours, plain = velocities(folder.load(Component.TRANSFORMER)), plain_velocities(generation)
    for a, b in zip(ours, plain, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_two_models_in_one_folder_are_refused(generations, tmp_path):
    for name in ("a", "b"):
        save_file(load_file(generations["2.3"]), tmp_path / f"{name}.safetensors")
    with pytest.raises(ValueError, match=r"a\.safetensors and .*b\.safetensors both hold"):
        open_checkpoint(tmp_path)


FORMATS: dict[str, tuple[tuple[Format | None, ...], float]] = {
    "fp8 scaled": ((Format("float"),), 0.1),
    "int8": ((Format("int8"),), 0.05),
    "int8 rotated": ((Format("int8", 16),), 0.03),
    "mxfp8": ((Format("mxfp8"),), 0.1),
    "nvfp4": ((Format("nvfp4"),), 0.4),
    "mixture": ((Format("nvfp4"), None, Format("float"), Format("int8", 16)), 0.4),
}
"""Number formats in turn over the linear layers (None: left alone); how far the velocity may be off."""
MARKS = {"float": "float8_e4m3fn", "nvfp4": "nvfp4", "mxfp8": "mxfp8", "int8": "int8_tensorwise"}


def linears(tensors: dict[str, Tensor]) -> list[str]:
    """The layers that released files quantise: matrices of the blocks."""
    return [
        name.removesuffix(".weight")
        for name, tensor in tensors.items()
        if name.startswith(f"{DIT}transformer_blocks.") and tensor.ndim == 2 and name.endswith(".weight")
    ]


def quantised(
    tensors: dict[str, Tensor], forms: tuple[Format | None, ...], style: str
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, str]]:
    """(stored, the same decoded, metadata), marked by tensors, in the header, or in the older way."""
    stored, decoded, entries = dict(tensors), dict(tensors), {}
    for index, layer in enumerate(linears(tensors)):
        form, weight = forms[index % len(forms)], tensors[f"{layer}.weight"]
        if form is None:
            continue
        parts = encode(form, weight)
        decoded[f"{layer}.weight"] = decode(layer, form, parts, tuple(weight.shape)).to(weight.dtype)
        names = {"weight_scale": "scale_weight"} if style == "older" else {}
        stored |= {f"{layer}.{names.get(key, key)}": value.contiguous() for key, value in parts.items()}
        entry = {"format": MARKS[form.kind]}
        if form.rotation:
            entry |= {"convrot": True, "convrot_groupsize": form.rotation}
        entries[layer] = entry
        if style == "tensors":
            mark = torch.tensor(list(json.dumps(entry).encode()), dtype=torch.uint8)
            stored[f"{layer}.comfy_quant"] = mark
        stored[f"{layer}.input_scale"] = torch.tensor(0.5)
    if style == "older":
        stored[f"{DIT}scaled_fp8"] = torch.zeros(2, dtype=torch.float8_e4m3fn)
    metadata = {"_quantization_metadata": json.dumps({"layers": entries})} if style == "header" else {}
    return stored, decoded, metadata


def of_mixture(kind: str) -> tuple[pytest.MarkDecorator, ...]:
    """The mark slow for the rows whose format a row of the mixture has too."""
    return (pytest.mark.slow,) if kind in ("fp8 scaled", "int8 rotated", "nvfp4") else ()


CASES = [
    *((kind, "tensors", generation) for kind in FORMATS for generation in ("2.0", "2.3")),
    *(pytest.param(kind, "tensors", "2.5", marks=of_mixture(kind)) for kind in FORMATS),
    *(pytest.param(kind, "header", "2.3", marks=of_mixture(kind)) for kind in FORMATS),
    ("fp8 scaled", "older", "2.0"),
    *((kind, "none", "2.3") for kind in ("fp8 scaled", "mxfp8", "nvfp4", "int8")),
]


@pytest.mark.parametrize(("kind", "style", "generation"), CASES)
def test_quantised_transformers_give_the_velocity_of_their_decoded_weights(
    kind, style, generation, generations, tmp_path, velocities, plain_velocities
):
    source = generations[generation]
    forms, tolerance = FORMATS[kind]
    stored, decoded, metadata = quantised(load_file(source), forms, style)
    metadata["config"] = json.dumps(open_checkpoint(source).config)
    save_file(stored, tmp_path / "stored.safetensors", metadata=metadata)
    save_file(decoded, tmp_path / "decoded.safetensors", metadata={"config": metadata["config"]})
    checkpoint = open_checkpoint(tmp_path / "stored.safetensors")
    network = checkpoint.load(Component.TRANSFORMER, dtype=torch.float32)
    assert isinstance(network.transformer_blocks[0].attn1.to_q, QuantizedLinear)
    ours = velocities(network)
    exact = velocities(open_checkpoint(tmp_path / "decoded.safetensors").load(Component.TRANSFORMER))
    plain = plain_velocities(generation)
    for a, b, c in zip(ours, exact, plain, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
        assert 0 < (a - c).norm() / c.norm() < tolerance
    checkpoint.load(Component.VOCODER)


@pytest.mark.parametrize(("kind", "tolerance"), [("int8", 0.02), ("int8 rotated", 0.02)])
def test_int8_files_multiply_as_stored_near_their_decoded_weights(
    kind, tolerance, generations, tmp_path, velocities
):
    source = generations["2.3"]
    stored, decoded, metadata = quantised(load_file(source), FORMATS[kind][0], "tensors")
    metadata["config"] = json.dumps(open_checkpoint(source).config)
    save_file(stored, tmp_path / "stored.safetensors", metadata=metadata)
    save_file(decoded, tmp_path / "decoded.safetensors", metadata={"config": metadata["config"]})
    checkpoint = open_checkpoint(tmp_path / "stored.safetensors")
    ours = velocities(checkpoint.load(Component.TRANSFORMER, dtype=torch.float32, int8_matmul=True))
    exact = velocities(open_checkpoint(tmp_path / "decoded.safetensors").load(Component.TRANSFORMER))
    for a, b in zip(ours, exact, strict=True):
        assert 0 < (a - b).norm() / b.norm() < tolerance


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_a_plain_cast_of_everything_to_fp8_loads(dtype, generation, generations, tmp_path, velocities):
    tensors = {name: tensor.to(dtype) for name, tensor in load_file(generations[generation]).items()}
    metadata = {"config": json.dumps(open_checkpoint(generations[generation]).config)}
    save_file(tensors, tmp_path / "cast.safetensors", metadata=metadata)
    save_file({n: t.float() for n, t in tensors.items()}, tmp_path / "back.safetensors", metadata=metadata)
    cast, back = (open_checkpoint(tmp_path / f"{name}.safetensors") for name in ("cast", "back"))
    for component in PARTS:
        cast.load(component, dtype=torch.float32)
    ours, plain = (velocities(c.load(Component.TRANSFORMER, dtype=torch.float32)) for c in (cast, back))
    for a, b in zip(ours, plain, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_a_quantised_layer_holds_what_the_file_holds_and_computes_in_the_input_dtype(generations, tmp_path):
    stored, _, metadata = quantised(load_file(generations["2.3"]), (Format("nvfp4"),), "tensors")
    config = {"config": json.dumps(open_checkpoint(generations["2.3"]).config)}
    save_file(stored, tmp_path / "x.safetensors", metadata={**metadata, **config})
    network = open_checkpoint(tmp_path / "x.safetensors").load(Component.TRANSFORMER, dtype=torch.bfloat16)
    layer = network.transformer_blocks[0].ff.net[2]
    assert layer.weight.dtype == torch.uint8
    assert layer.bias.dtype == torch.bfloat16
    assert layer.weight.numel() * 2 == layer.in_features * layer.out_features
    x = torch.randn(2, 3, layer.in_features, dtype=torch.bfloat16)
    assert layer(x).dtype == torch.bfloat16
    assert layer(x).shape == (2, 3, layer.out_features)


def test_a_quantised_text_projection_is_decoded_because_it_is_read_slice_by_slice(generations, tmp_path):
    tensors = load_file(generations["2.3"])
    layer = "text_embedding_projection.video_aggregate_embed"
    plain = tensors[f"{layer}.weight"]
    tensors |= {f"{layer}.{key}": value for key, value in encode(Format("float"), plain).items()}
    config = json.dumps(open_checkpoint(generations["2.3"]).config)
    save_file(tensors, tmp_path / "x.safetensors", metadata={"config": config})
    network = open_checkpoint(tmp_path / "x.safetensors").load(Component.TEXT_PROJECTION, dtype=torch.float32)
    torch.testing.assert_close(network.video_aggregate_embed.weight, plain, atol=0.02, rtol=0.07)
