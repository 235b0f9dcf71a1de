"""A language model that is given an image: its answers are those of transformers."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from ltx2_core.loading.describe import describe
from ltx2_core.text import load_gemma, load_tokenizer
from ltx2_core.text.enhance import WritingRules, conversation, enhanced
from ltx2_core.text.gemma import find_encoder
from ltx2_core.text.tokenizer import IMAGE_MARKERS
from ltx2_core.text.vision import LONG_SIDE, find_vision, image_inputs, takes_images, with_soft_tokens
from ltx2_core.text.writer import VisionInput, write_text, writer_of

sys.path.insert(0, str(Path(__file__).parents[1]))

from seeing_gemma import in_one_file, written
from talking_gemma import with_marks

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.skipif(
    not hasattr(transformers, "Gemma4ForConditionalGeneration"), reason="this transformers has no Gemma 4"
)

RULES = WritingRules(max_tokens=12, no_repeat=3)


@pytest.fixture(scope="module", params=[3, 4])
def seeing(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    return written(tmp_path_factory.mktemp("seeing") / "gemma", request.param), request.param


@pytest.fixture(scope="module")
def e2b_file(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A folder like E2B and the same model in one file, as ComfyUI packs it: without a configuration."""
    folder = written(tmp_path_factory.mktemp("e2b") / "gemma", 4)
    return folder, in_one_file(folder)


IMAGE = torch.rand(3, 40, 70, generator=torch.Generator().manual_seed(0))


def answer(path: Path, generation: int, image: torch.Tensor | None) -> str:
    gemma, tokenizer = load_gemma(path, dtype=torch.float32), load_tokenizer(path)
    parts = find_vision(path, generation)
    assert takes_images(parts, tokenizer)
    assert parts is not None
    text = conversation("a ball rolls", gemma.generation, from_image=True, sees=image is not None)
    vision = None if image is None else VisionInput(parts=parts, image=image)
    return write_text(gemma, tokenizer, text, RULES, vision=vision)


def of_transformers(folder: Path, generation: int) -> str:
    """What transformers' own loader and image processor give for the same conversation and image."""
    tokenizer = load_tokenizer(folder)
    model = getattr(transformers, f"Gemma{generation}ForConditionalGeneration")
    model = model.from_pretrained(folder, dtype=torch.float32).eval()
    pixels = Image.fromarray((IMAGE * 255).round().byte().permute(1, 2, 0).numpy())
    pixels = pixels.resize((LONG_SIDE, 512), Image.Resampling.BICUBIC)
    if generation == 3:
        from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

        seen = {
            "pixel_values": Gemma3ImageProcessorPil(size={"height": 56, "width": 56})(
                pixels, return_tensors="pt"
            )["pixel_values"]
        }
        count = 4
    else:
        from transformers.models.gemma4.image_processing_pil_gemma4 import Gemma4ImageProcessorPil

        made = Gemma4ImageProcessorPil()(pixels, return_tensors="pt")
        count = int(made.pop("num_soft_tokens_per_image")[0])
        seen = dict(made)
    text = with_soft_tokens(
        conversation("a ball rolls", generation, from_image=True, sees=True), generation, count
    )
    ids = torch.tensor([tokenizer.conversation_ids(text)])
    kinds = (ids == tokenizer.special[IMAGE_MARKERS[generation][1]]).long()
    seen["token_type_ids" if generation == 3 else "mm_token_type_ids"] = kinds
    made = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        **seen,
        max_new_tokens=RULES.max_tokens,
        do_sample=False,
        no_repeat_ngram_size=RULES.no_repeat,
        eos_token_id=[1, *(tokenizer.special[end] for end in tokenizer.ends)],
        pad_token_id=0,
    )[0, ids.shape[1] :].tolist()
    return tokenizer.decode([token for token in made if token not in tokenizer.special.values()])


def test_an_answer_to_an_image_is_that_of_transformers(seeing) -> None:
    folder, generation = seeing
    ours = answer(folder, generation, IMAGE)
    assert ours == of_transformers(folder, generation)
    assert ours != answer(folder, generation, 1 - IMAGE.flip(1))
    assert ours != answer(folder, generation, None)


def test_a_single_file_of_e2b_is_read_like_its_folder(e2b_file) -> None:
    folder, path = e2b_file
    config, infos, _ = find_encoder(path)
    assert config["model_type"] == "gemma4_text"
    expected = json.loads((folder / "config.json").read_text(encoding="utf-8"))["text_config"]
    names = ("num_kv_shared_layers", "use_double_wide_mlp", "layer_types", "head_dim", "sliding_window")
    assert {name: config[name] for name in names} == {name: expected[name] for name in names}
    assert len(infos) == len(find_encoder(folder)[1])
    assert "--enhancer" in describe(path)["kind"]
    for image in (None, IMAGE):
        assert answer(path, 4, image) == answer(folder, 4, image)


def test_a_damaged_file_says_what_it_lacks(e2b_file, tmp_path: Path) -> None:
    _, path = e2b_file
    tensors = load_file(path)
    for name, message in (
        ("model.layers.0.self_attn.q_proj.weight", "incomplete Gemma 4"),
        ("model.layers.3.mlp.up_proj.weight", "missing"),
    ):
        damaged = tmp_path / "damaged.safetensors"
        save_file({key: tensor for key, tensor in tensors.items() if key != name}, damaged)
        with pytest.raises(ValueError, match=message):
            load_gemma(damaged, dtype=torch.float32)


def test_a_language_model_without_vision_takes_no_image(seeing, tmp_path: Path) -> None:
    folder, generation = seeing
    blind = tmp_path / "blind"
    shutil.copytree(folder, blind)
    tensors = load_file(blind / "model.safetensors")
    save_file({name: t for name, t in tensors.items() if "language" in name}, blind / "model.safetensors")
    assert find_vision(blind, generation) is None
    # Without the tokens of an image the tokenizer cannot place it.
    without = tmp_path / "without"
    shutil.copytree(folder, without)
    with_marks(without)
    assert not takes_images(find_vision(without, generation), load_tokenizer(without))


@pytest.mark.parametrize("size", [(1, 90), (90, 1), (900, 9), (16, 16)])
def test_an_image_of_any_shape_has_as_many_tokens_as_places(seeing, size: tuple[int, int]) -> None:
    folder, generation = seeing
    parts = find_vision(folder, generation)
    assert parts is not None
    inputs, count = image_inputs(parts, torch.rand(3, *size))
    assert 1 <= count <= parts.tokens
    assert all(torch.isfinite(tensor.float()).all() for tensor in inputs.values())
    with pytest.raises(ValueError, match="takes no image of 9x1000"):
        image_inputs(parts, torch.rand(3, 1000, 9))


def test_a_prompt_is_enhanced_with_the_image_and_without_a_warning(seeing, caplog) -> None:
    folder, generation = seeing
    parts = find_vision(folder, generation)
    assert parts is not None
    gemma = load_gemma(folder, dtype=torch.float32)
    write = writer_of(gemma, load_tokenizer(folder), vision=VisionInput(parts=parts, image=IMAGE))
    text = enhanced(
        "a ball", gemma.generation, lambda text, _: write(text, RULES), from_image=True, sees=True
    )
    assert text
    assert "does not see" not in caplog.text
