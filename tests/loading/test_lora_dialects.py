"""One LoRA in the names of every trainer: each gives the same merged weights, on every layer."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from ltx2_core.loading import Component, open_checkpoint, open_lora
from ltx2_core.loading.detect import find_components
from ltx2_core.loading.lora_dialects import (
    ModuleNames,
    diffusers_name,
    find_layers,
    official_name,
    target_of,
)

COMPONENTS = (Component.TRANSFORMER, Component.TEXT_CONNECTORS, Component.TEXT_PROJECTION)
RANK = 2


def linears(path, component):
    """Every linear layer of a component: own name -> shape."""
    shapes = open_checkpoint(path).shapes(component)
    return {
        name.removesuffix(".weight"): shape
        for name, shape in shapes.items()
        if name.endswith(".weight") and len(shape) == 2
    }


@pytest.fixture(scope="module")
def changes(generations):
    """Pairs for every linear layer of the transformer and the connectors, by generation and own name."""
    result = {}
    for generation, path in generations.items():
        generator = torch.Generator().manual_seed(0)
        result[generation] = {
            (component, name): (
                torch.randn(RANK, shape[1], generator=generator),
                torch.randn(shape[0], RANK, generator=generator),
            )
            for component in COMPONENTS
            for name, shape in linears(path, component).items()
        }
    return result


def plain(component, name):
    return ("text_embedding_projection." if component is Component.TEXT_PROJECTION else "") + name


def spelt_by_diffusers(component, name):
    return ("transformer." if component is Component.TRANSFORMER else "connectors.") + diffusers_name(name)


DIALECTS = {
    "official": (lambda c, n: f"diffusion_model.{plain(c, n)}", ".lora_A.weight", ".lora_B.weight"),
    "full prefix": (
        lambda c, n: f"model.diffusion_model.{plain(c, n)}",
        ".lora_down.weight",
        ".lora_up.weight",
    ),
    "bare": (plain, ".lora_A.weight", ".lora_B.weight"),
    "ai-toolkit of old": (lambda c, n: f"transformer.{plain(c, n)}", ".lora_A.weight", ".lora_B.weight"),
    "diffusers": (spelt_by_diffusers, ".lora_A.weight", ".lora_B.weight"),
    "PEFT": (lambda c, n: f"base_model.model.{plain(c, n)}", ".lora_A.mine.weight", ".lora_B.mine.weight"),
    "PEFT over diffusers": (
        lambda c, n: f"base_model.model.{diffusers_name(n)}",
        ".lora_A.weight",
        ".lora_B.weight",
    ),
    "attention processors": (spelt_by_diffusers, ".lora.down.weight", ".lora.up.weight"),
    "kohya": (
        lambda c, n: "lora_unet_" + plain(c, n).replace(".", "_"),
        ".lora_down.weight",
        ".lora_up.weight",
    ),
    "kohya over diffusers": (
        lambda c, n: (
            "lora_unet_"
            + (diffusers_name(n) if c is Component.TRANSFORMER else plain(c, n)).replace(".", "_")
        ),
        ".lora_down.weight",
        ".lora_up.weight",
    ),
}


@pytest.mark.parametrize("generation", ["2.0", "2.3", "2.5"])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_dialect_reaches_every_layer_and_merges_to_the_same_weights(
    dialect, generation, generations, changes, write
):
    spell, down, up = DIALECTS[dialect]
    tensors = {}
    for (component, name), (a, b) in changes[generation].items():
        module = spell(component, name)
        tensors |= {module + down: a, module + up: b}
        if dialect.startswith("kohya"):
            tensors[f"{module}.alpha"] = torch.tensor(float(RANK))
    checkpoint, lora = open_checkpoint(generations[generation]), open_lora(write(tensors), 0.1)
    assert len(lora.layers) == len(changes[generation])
    for component in COMPONENTS:
        report = checkpoint.lora_report(component, lora)
        own = {name for c, name in changes[generation] if c is component}
        assert set(report.matched) == own
        assert report.is_clean
        before = checkpoint.load(component).state_dict()
        after = checkpoint.load(component, loras=[lora]).state_dict()
        for name in own:
            a, b = changes[generation][component, name]
            expected = torch.addmm(before[f"{name}.weight"], b, a, alpha=0.1)
            assert torch.equal(after[f"{name}.weight"], expected), name


@pytest.mark.parametrize("generation", ["2.0", "2.3", "2.5"])
def test_official_and_diffusers_names_map_to_each_other_both_ways(generation, generations):
    for component in COMPONENTS:
        names = linears(generations[generation], component)
        theirs = {diffusers_name(name) for name in names}
        assert len(theirs) == len(names)
        for name in names:
            assert target_of(official_name(diffusers_name(name))) == (component, name)
            assert target_of(official_name(plain(component, name))) == (component, name)


@pytest.mark.parametrize("generation", ["2.0", "2.3", "2.5"])
def test_no_flat_name_fits_two_modules(generation, generations):
    for component in COMPONENTS:
        names = linears(generations[generation], component)
        found = ModuleNames({f"{name}.weight": shape for name, shape in names.items()})
        for name in names:
            assert found.find(name.replace(".", "_")) == name


def test_a_flat_name_that_fits_two_modules_is_not_guessed():
    names = ModuleNames({"a.b_c.weight": (2, 2), "a_b.c.weight": (2, 2), "d.weight": (2, 2)})
    assert names.find("a_b_c") is None
    assert names.find("a.b_c") == "a.b_c"
    assert names.find("d") == "d"


def test_ranks_may_differ_by_module_and_alpha_is_divided_by_each(generations, write):
    path, tensors = generations["2.0"], {}
    modules = {"transformer_blocks.0.attn1.to_q": 1, "transformer_blocks.1.ff.net.2": 5}
    names = linears(path, Component.TRANSFORMER)
    for module, rank in modules.items():
        out, inner = names[module]
        tensors[f"{module}.lora_A.weight"] = torch.ones(rank, inner)
        tensors[f"{module}.lora_B.weight"] = torch.ones(out, rank)
        tensors[f"{module}.alpha"] = torch.tensor(3.0)
    checkpoint, lora = open_checkpoint(path), open_lora(write(tensors))
    assert lora.ranks == (1, 5)
    before = checkpoint.load(Component.TRANSFORMER).state_dict()
    after = checkpoint.load(Component.TRANSFORMER, loras=[lora]).state_dict()
    for module in modules:
        change = after[f"{module}.weight"] - before[f"{module}.weight"]
        torch.testing.assert_close(change, torch.full_like(change, 3.0))


@pytest.mark.parametrize(
    ("settings", "scales"),
    [
        ({"lora_alpha": 8, "r": 4}, (2.0, 2.0)),
        ({"lora_alpha": 8, "r": 4, "use_rslora": True}, (4.0, 4.0)),
        ({"lora_alpha": 8, "r": 4, "alpha_pattern": {"attn1.to_q": 2}}, (0.5, 2.0)),
        ({"lora_alpha": 8, "r": 4, "alpha_pattern": {"proj_in": 12}}, (2.0, 3.0)),
    ],
)
@pytest.mark.parametrize("where", ["in the file", "next to it"])
def test_the_scale_of_peft_is_read_in_the_file_and_next_to_it(settings, scales, where, write, tmp_path):
    prefix = "transformer." if where == "in the file" else "base_model.model."
    names = ("transformer_blocks.0.attn1.to_q", "proj_in")
    tensors = {}
    for name in names:
        tensors[f"{prefix}{name}.lora_A.weight"] = torch.zeros(4, 8)
        tensors[f"{prefix}{name}.lora_B.weight"] = torch.zeros(8, 4)
    if where == "in the file":
        stored = {f"transformer.{key}": value for key, value in settings.items()}
        lora = open_lora(write(tensors, {"lora_adapter_metadata": json.dumps(stored)}))
    else:
        path = write(tensors, name="folder/adapter_model.safetensors")
        path.with_name("adapter_config.json").write_text(json.dumps(settings))
        lora = open_lora(path.parent)
        assert lora.path == path
    assert [lora.layers[official_name(name)].scale for name in names] == pytest.approx(scales)


def test_two_adapters_in_one_file_are_not_mixed(write):
    tensors = {
        f"x.lora_{half}.{adapter}.weight": torch.zeros(4, 4) for half in "AB" for adapter in ("one", "two")
    }
    with pytest.raises(ValueError, match="changes x twice"):
        open_lora(write(tensors))


def test_a_file_that_peft_and_diffusers_wrote_merges_to_the_weights_that_peft_merges(generations, tmp_path):
    peft = pytest.importorskip("peft")
    diffusers = pytest.importorskip("diffusers")

    checkpoint = open_checkpoint(generations["2.3"])
    names = linears(generations["2.3"], Component.TRANSFORMER)

    class Shapes(torch.nn.Module):
        """Linear layers with the names of diffusers and our weights, which is all that PEFT needs."""

    root, state = Shapes(), checkpoint.load(Component.TRANSFORMER).state_dict()
    for name, (out, inner) in names.items():
        *parents, leaf = diffusers_name(name).split(".")
        parent = root
        for part in parents:
            if part not in dict(parent.named_children()):
                parent.add_module(part, Shapes())
            parent = parent.get_submodule(part)
        linear = torch.nn.Linear(inner, out, bias=False)
        linear.weight.data.copy_(state[f"{name}.weight"])
        parent.add_module(leaf, linear)
    config = peft.LoraConfig(
        r=4,
        lora_alpha=6,
        target_modules=r".*(to_q|to_out\.0|proj_in|linear_1|net\.2)$",
        init_lora_weights=False,
    )
    model = peft.get_peft_model(root, config)
    model.save_pretrained(tmp_path / "peft")
    metadata = {k: v for k, v in config.to_dict().items() if isinstance(v, (int, float, str, bool, dict))}
    diffusers.LTX2Pipeline.save_lora_weights(
        tmp_path / "diffusers",
        transformer_lora_layers={
            name.removeprefix("base_model.model."): tensor
            for name, tensor in peft.get_peft_model_state_dict(model).items()
        },
        transformer_lora_adapter_metadata=metadata,
    )
    merged = {
        name.removeprefix("base_model.model."): tensor
        for name, tensor in model.merge_and_unload().state_dict().items()
    }
    for folder in ("peft", "diffusers"):
        lora = open_lora(tmp_path / folder)
        report = checkpoint.lora_report(Component.TRANSFORMER, lora)
        assert report.is_clean
        assert len(report.matched) == len(lora.layers) > 20
        ours = checkpoint.load(Component.TRANSFORMER, loras=[lora]).state_dict()
        for name in names:
            torch.testing.assert_close(ours[f"{name}.weight"], merged[f"{diffusers_name(name)}.weight"])


def test_our_official_files_get_the_names_that_diffusers_gives_them(generations, changes):
    conversion = pytest.importorskip("diffusers.loaders.lora_conversion_utils")
    tensors = {
        f"diffusion_model.{name}.lora_A.weight": a
        for (component, name), (a, _) in changes["2.3"].items()
        if component is Component.TRANSFORMER
    }
    theirs = conversion._convert_non_diffusers_ltx2_lora_to_diffusers(tensors)
    own = {
        f"transformer.{diffusers_name(name)}.lora_A.weight"
        for component, name in changes["2.3"]
        if component is Component.TRANSFORMER
    }
    assert theirs.keys() == own


def test_files_of_our_own_training_match_completely(tiny23):
    report = open_checkpoint(tiny23.checkpoint).lora_report(Component.TRANSFORMER, open_lora(tiny23.lora))
    assert 2 * len(report.matched) == len(load_file(tiny23.lora))
    assert report.is_clean


PAIRS = (
    ("lora_A.weight", "lora_B.weight"),
    ("lora_down.weight", "lora_up.weight"),
    ("lora.down.weight", "lora.up.weight"),
    ("lokr_w1", "lokr_w2"),
    ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"),
)


@pytest.mark.parametrize("endings", PAIRS)
@pytest.mark.parametrize(
    "prefix",
    [
        "transformer.base_model.model.",
        "base_model.model.transformer.",
        "diffusion_model.base_model.model.",
        "base_model.model.model.diffusion_model.",
        "model.diffusion_model.base_model.model.",
        "module.transformer.",
        "transformer._orig_mod.",
        "_orig_mod.module.base_model.model.",
        "base_model.model._orig_mod.",
        "model.",
        "unet.",
        "dit.",
        "pipe.dit.",
        "lycoris_",
        "lora_unet_",
        "lora_transformer_",
    ],
)
def test_prefixes_are_removed_in_any_order_and_the_file_is_detected_as_a_lora(prefix, endings):
    module = "transformer_blocks.0.attn1.to_q"
    # Only the names of a model resolve a flat name.
    flat = prefix.endswith("_")
    module = module.replace(".", "_") if flat else module
    names = [f"{prefix}{module}.{ending}" for ending in endings]
    assert find_layers("a.safetensors", names).keys() == {module}
    assert find_components(names).keys() == {Component.LORA}


@pytest.mark.parametrize(
    "name", ["base_model.model.model.layers.0.self_attn.q_proj", "model.language_model.layers.3.mlp.up_proj"]
)
def test_a_layer_of_the_text_encoder_is_not_taken_for_one_of_the_transformer(name):
    (module,) = find_layers("a.safetensors", [f"{name}.{half}.weight" for half in ("lora_A", "lora_B")])
    assert target_of(module)[0] is Component.TEXT_ENCODER
