"""Tools for LoRA files: each result acts on a model as what it was made of."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ltx2_core.cli.main import main
from ltx2_core.loading import Component, open_checkpoint, open_lora
from ltx2_core.loading.convert import convert, single_parts
from ltx2_core.loading.lora_tools.combine import RankChoice, merge_loras
from ltx2_core.loading.lora_tools.extract import extract_lora
from ltx2_core.loading.lora_tools.figures import compare_loras, lora_figures
from ltx2_core.loading.lora_tools.into_base import merge_into_model
from ltx2_core.loading.lora_tools.products import Product, dense_spectrum, spectrum

EXACT = RankChoice()
F32 = torch.float32
LAYERS = (
    "transformer_blocks.0.attn1.to_q",
    "transformer_blocks.1.audio_attn1.to_k",
    "transformer_blocks.0.audio_to_video_attn.to_v",
)


@pytest.fixture(scope="module")
def tiny(tiny_set):
    return open_checkpoint(tiny_set.checkpoint)


@pytest.fixture
def lora_of(tiny, tmp_path):
    """A LoRA of a name style on some layers, and the change that it makes by layer."""
    shapes = tiny.shapes(Component.TRANSFORMER)

    def make(name, *, rank=3, seed=0, style="official", alpha=None, layers=LAYERS, metadata=None):
        generator, tensors, deltas = torch.Generator().manual_seed(seed), {}, {}
        for layer in layers:
            outputs, inputs = shapes[f"{layer}.weight"]
            a = torch.randn(rank, inputs, generator=generator) / 4
            b = torch.randn(outputs, rank, generator=generator) / 4
            deltas[layer] = b @ a * ((alpha or rank) / rank)
            if style == "official":
                key, down, up = f"diffusion_model.{layer}", "lora_A.weight", "lora_B.weight"
            else:
                key, down, up = "lora_unet_" + layer.replace(".", "_"), "lora_down.weight", "lora_up.weight"
            tensors |= {f"{key}.{down}": a, f"{key}.{up}": b.contiguous()}
            if alpha is not None:
                tensors[f"{key}.alpha"] = torch.tensor(float(alpha))
        path = tmp_path / name
        save_file(tensors, path, metadata=metadata)
        return path, deltas

    return make


def changes(path: Path) -> dict[str, torch.Tensor]:
    """What a file in the official layout adds to each layer."""
    tensors = load_file(path)
    names = {name.rpartition(".lora_")[0] for name in tensors}
    return {
        name.removeprefix("diffusion_model."): tensors[f"{name}.lora_B.weight"].float()
        @ tensors[f"{name}.lora_A.weight"].float()
        for name in names
    }


@pytest.mark.parametrize("style", ["official", "flat"])
@pytest.mark.parametrize("alpha", [None, 1.5])
def test_a_merged_lora_is_the_sum_of_its_parts(lora_of, tmp_path, style, alpha) -> None:
    first, ours = lora_of("a.safetensors", style=style, alpha=alpha)
    second, theirs = lora_of("b.safetensors", seed=1, rank=2, layers=LAYERS[1:])
    out = tmp_path / "out.safetensors"
    loras = [open_lora(first, 0.5, audio_strength=2.0), open_lora(second, -1.0)]
    merge_loras(out, loras, EXACT, dtype=F32)
    found = changes(out)
    # Attention from audio to video updates the video.
    strengths = dict(zip(LAYERS, (0.5, 2.0, 0.5), strict=True))
    for layer in LAYERS:
        expected = strengths[layer] * ours[layer] - theirs.get(layer, torch.zeros_like(ours[layer]))
        torch.testing.assert_close(found[layer], expected, rtol=1e-5, atol=1e-6)
    assert open_lora(out).ranks == (3, 5)


def test_a_truncated_merge_is_the_nearest_of_its_rank(lora_of, tmp_path) -> None:
    paths = [lora_of(f"{seed}.safetensors", seed=seed, rank=4)[0] for seed in range(2)]
    out, exact = tmp_path / "out.safetensors", tmp_path / "exact.safetensors"
    merge_loras(exact, [open_lora(path) for path in paths], EXACT, dtype=F32)
    told = merge_loras(out, [open_lora(path) for path in paths], RankChoice(rank=2), dtype=F32)
    for layer, whole in changes(exact).items():
        values = torch.linalg.svdvals(whole)
        error = (changes(out)[layer] - whole).norm()
        assert float(error) == pytest.approx(float(values[2:].norm()), rel=1e-3)
    assert told.ranks == (2, 2)
    assert 0.2 < min(told.preserved.values()) < 1


def test_a_rank_is_chosen_for_each_layer_by_its_energy(lora_of, tmp_path) -> None:
    path, deltas = lora_of("a.safetensors", rank=6)
    out = tmp_path / "out.safetensors"
    merge_loras(out, [open_lora(path)], RankChoice(energy=0.8), dtype=F32)
    ranks = {n.split(".lora_")[0]: t.shape[0] for n, t in load_file(out).items() if "lora_A" in n}
    for layer, whole in deltas.items():
        squares = torch.linalg.svdvals(whole).square()
        shares = torch.cumsum(squares, 0) / squares.sum()
        assert ranks[f"diffusion_model.{layer}"] == int((shares < 0.8).sum()) + 1
    assert set(ranks.values()) != {6}


def test_a_higher_rank_acts_alike_and_can_be_trained_further(lora_of, tmp_path) -> None:
    path, deltas = lora_of("a.safetensors")
    out = tmp_path / "out.safetensors"
    merge_loras(out, [open_lora(path)], RankChoice(rank=8), dtype=F32)
    for layer, change in changes(out).items():
        torch.testing.assert_close(change, deltas[layer], rtol=1e-5, atol=1e-6)
    a = load_file(out)[f"diffusion_model.{LAYERS[0]}.lora_A.weight"]
    # With B zero a row of A that is zero would never get a gradient.
    assert a.shape[0] == 8
    assert a[3:].abs().amax(dim=1).min() > 0


@pytest.mark.parametrize("stored", ["float32", "fp8"])
def test_a_model_with_a_lora_merged_in_is_that_model_with_the_lora(
    tiny, lora_of, tmp_path, velocities, stored
) -> None:
    lora, _ = lora_of("a.safetensors")
    source = tiny
    if stored == "fp8":
        path = tmp_path / "fp8.safetensors"
        convert(path, [tiny], single_parts([tiny]), fp8=True)
        source = open_checkpoint(path)
    out = tmp_path / "merged.safetensors"
    merge_into_model(out, [source], [open_lora(lora, 0.7)])
    merged = open_checkpoint(out)
    assert merged.components == source.components - {Component.UPSAMPLER}
    loaded = merged.load(Component.TRANSFORMER)
    live = source.load(Component.TRANSFORMER, loras=[open_lora(lora, 0.7)])
    mine, theirs = loaded.state_dict(), live.state_dict()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[n].float(), theirs[n].float()) for n in mine)
    plain = source.load(Component.TRANSFORMER)
    assert not torch.equal(velocities(loaded)[0], velocities(plain)[0])
    with safe_open(out, "pt") as file:
        assert file.metadata()["merged_loras"] == "a.safetensors x 0.7"


def test_the_difference_of_a_tuned_model_is_the_lora_that_tuned_it(tiny, lora_of, tmp_path) -> None:
    lora, deltas = lora_of("a.safetensors")
    tuned, out = tmp_path / "tuned.safetensors", tmp_path / "out.safetensors"
    merge_into_model(tuned, [tiny], [open_lora(lora)])
    told = extract_lora(out, [open_checkpoint(tuned)], [tiny], RankChoice(rank=3), dtype=F32)
    found = changes(out)
    assert found.keys() == deltas.keys()
    for layer, change in found.items():
        torch.testing.assert_close(change, deltas[layer], rtol=1e-3, atol=1e-4)
    assert min(told.written.preserved.values()) > 0.9999
    assert told.unlike == ()
    less = extract_lora(
        out, [open_checkpoint(tuned)], [tiny], RankChoice(rank=1), dtype=F32, targets="audio_attn1"
    )
    assert changes(out).keys() == {LAYERS[1]}
    assert 0 < less.written.preserved["audio"] < 0.9


def test_tensors_that_no_lora_can_change_are_counted(tiny, lora_of, tmp_path) -> None:
    lora, _ = lora_of("a.safetensors")
    tuned = tmp_path / "tuned.safetensors"
    merge_into_model(tuned, [tiny], [open_lora(lora)])
    tensors = load_file(tuned)
    bias = "model.diffusion_model.transformer_blocks.0.attn1.to_q.bias"
    tensors[bias] = tensors[bias] + 1
    with safe_open(tuned, "pt") as file:
        metadata = file.metadata()
    save_file(tensors, tuned, metadata=metadata)
    out = tmp_path / "out.safetensors"
    told = extract_lora(out, [open_checkpoint(tuned)], [tiny], RankChoice(rank=1), dtype=F32)
    assert told.unlike == ("transformer_blocks.0.attn1.to_q.bias",)


def test_random_projection_finds_the_largest_singular_values_of_a_large_matrix() -> None:
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(n, 6, generator=generator) for n in (1100, 1200))
    matrix = left @ right.mT + torch.randn(1100, 1200, generator=generator) * 0.1
    cut = dense_spectrum(matrix, 6).cut(6)
    exact = torch.linalg.svdvals(matrix)
    assert float((matrix - cut.dense()).norm()) == pytest.approx(float(exact[6:].norm()), rel=1e-3)


def test_figures_of_a_change_need_no_product() -> None:
    generator = torch.Generator().manual_seed(0)
    one, other = (
        Product(torch.randn(3, 20, generator=generator), torch.randn(30, 3, generator=generator))
        for _ in range(2)
    )
    assert one.norm == pytest.approx(float(one.dense().norm()), rel=1e-5)
    assert one.dot(other) == pytest.approx(float((one.dense() * other.dense()).sum()), rel=1e-4)
    torch.testing.assert_close(
        spectrum(one).values, torch.linalg.svdvals(one.dense())[:3], rtol=1e-4, atol=1e-4
    )


def test_figures_by_stream(lora_of) -> None:
    path, deltas = lora_of("a.safetensors", rank=4)
    figures = lora_figures(open_lora(path))
    assert list(figures.streams) == ["video", "audio", "cross"]
    assert figures.streams["audio"].norm == pytest.approx(float(deltas[LAYERS[1]].norm()), rel=1e-5)
    assert figures.streams["video"].shares[4] == pytest.approx(1)
    assert 0.2 < figures.streams["video"].shares[1] < 0.7
    assert [layer.rank for layer in figures.layers] == [4, 4, 4]


def test_alike_loras_have_a_cosine_of_one_and_opposite_ones_of_minus_one(lora_of, tmp_path) -> None:
    path, _ = lora_of("a.safetensors")
    other, _ = lora_of("b.safetensors", seed=1, layers=LAYERS[:1])
    minus = tmp_path / "minus.safetensors"
    merge_loras(minus, [open_lora(path, -2.0)], EXACT, dtype=F32)
    same = compare_loras(open_lora(path), open_lora(path))
    opposite = compare_loras(open_lora(path), open_lora(minus))
    unlike = compare_loras(open_lora(path), open_lora(other))
    assert same["video"].cosine == pytest.approx(1)
    assert same["video"].difference == pytest.approx(0, abs=1e-4)
    assert opposite["audio"].cosine == pytest.approx(-1)
    assert opposite["audio"].norms[1] == pytest.approx(2 * opposite["audio"].norms[0])
    assert abs(unlike["video"].cosine) < 0.5
    assert (unlike["audio"].both, unlike["audio"].first_only) == (0, 1)


def run(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["lora", *map(str, words)])
    return result.exit_code, result.output


def test_the_commands_end_to_end(tiny_set, lora_of, tmp_path) -> None:
    lora, _ = lora_of("a.safetensors", metadata={"trigger": "zorb"})
    model, back = tmp_path / "model.safetensors", tmp_path / "back.safetensors"
    assert run("merge", f"{lora}:0.5", "--checkpoint", tiny_set.checkpoint, "-o", model)[0] == 0
    code, told = run("extract", model, tiny_set.checkpoint, "--rank", 3, "-o", back)
    assert (code, "3 layers of rank 3" in told) == (0, True)
    low = tmp_path / "low.safetensors"
    assert run("resize", lora, "--rank", 2, "-o", low)[0] == 0
    assert open_lora(low).metadata["trigger"] == "zorb"
    assert run("merge", lora, f"{low}:-1:0", "-o", tmp_path / "sum.safetensors", "--rank", 2)[0] == 0
    code, told = run("inspect", back, "--layers")
    assert (code, "top 1" in told, LAYERS[0] in told) == (0, True, True)
    figures = json.loads(run("inspect", lora, "--json")[1])
    assert figures["metadata"]["trigger"] == "zorb"
    found = json.loads(run("compare", lora, back, "--json")[1])
    assert found["video"]["cosine"] == pytest.approx(1, abs=1e-3)
    assert found["video"]["norms"][1] == pytest.approx(found["video"]["norms"][0] / 2, rel=1e-2)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["merge", "{lora}", "-o", "out.txt"], r"--output .*out.txt must end in .safetensors"),
        (["merge", "{lora}", "-o", "{lora}"], "the output exists"),
        (["merge", "{lora}", "-o", "{lora}", "--overwrite"], "is one of the files that are read"),
        (["merge", "{lora}", "-o", "new.safetensors", "--rank", "0"], "rank=0 must be from 1 to 4096"),
        (["merge", "{lora}", "-o", "new.safetensors", "--energy", "1.5"], "energy=1.5 must be above 0"),
        (["merge", "{lora}:500", "-o", "new.safetensors"], "must be from -100 to 100"),
        (["merge", "gone.safetensors", "-o", "new.safetensors"], "gone.safetensors"),
        (
            ["merge", "{lora}", "--checkpoint", "{base}", "--rank", "2", "-o", "new.safetensors"],
            "--rank and --energy are of a written LoRA",
        ),
        (["merge", "{lora}:0", "--checkpoint", "{base}", "-o", "new.safetensors"], "nothing would change"),
        (["merge", "{dora}", "-o", "new.safetensors"], "is a DoRA, whose change depends on the weights"),
        (["merge", "{ic1}", "{ic2}", "-o", "new.safetensors"], "two IC-LoRAs are stacked"),
        (["merge", "{v2}", "{v3}", "-o", "new.safetensors"], "different generations of LTX-2"),
        (["merge", "{odd}", "-o", "new.safetensors"], "no LTX-2 has a layer called"),
        (["resize", "{lora}", "-o", "new.safetensors"], "name the new rank with --rank"),
        (["extract", "{base}", "{base}", "-o", "new.safetensors"], "no layer of the two models differs"),
        (
            ["extract", "{lora}", "{base}", "-o", "new.safetensors"],
            "no transformer, connectors or projection",
        ),
        (
            ["extract", "{base}", "{base}", "-o", "new.safetensors", "--targets", "("],
            "is not a regular expression",
        ),
        (["inspect", "{base}"], "is not a LoRA"),
        (["compare", "{lora}", "{dora}"], "is a DoRA"),
    ],
)
def test_bad_input_is_refused_and_nothing_is_written(
    words, message, tiny_set, lora_of, tmp_path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    factor = "reference_downscale_factor"
    files = {
        "base": tiny_set.checkpoint,
        "lora": lora_of("a.safetensors")[0],
        "ic1": lora_of("c.safetensors", metadata={factor: "1"})[0],
        "ic2": lora_of("d.safetensors", metadata={factor: "2"})[0],
        "v2": lora_of("e.safetensors", metadata={"model_version": "2.0"})[0],
        "v3": lora_of("f.safetensors", metadata={"model_version": "2.3"})[0],
        "dora": tmp_path / "dora.safetensors",
        "odd": tmp_path / "odd.safetensors",
    }
    tensors = load_file(files["lora"])
    name = f"diffusion_model.{LAYERS[0]}"
    rows = len(tensors[f"{name}.lora_B.weight"])
    save_file({**tensors, f"{name}.dora_scale": torch.ones(rows, 1)}, files["dora"])
    pair = {f"lora_unet_blocks_0_odd.lora_{end}.weight": torch.ones(2, 2) for end in ("up", "down")}
    save_file(pair, files["odd"])
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    code, told = run(*(word.format(**files) for word in words))
    assert code == 2, told
    assert re.search(message, told), told
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
