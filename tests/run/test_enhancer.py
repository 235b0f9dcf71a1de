"""The language model of a pipeline rewrites prompts: its own text encoder, or a separate Gemma."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from ltx2_core import LTX2Pipeline
from ltx2_core.cli.main import main
from ltx2_core.media import read_metadata
from ltx2_core.run import devices
from ltx2_core.run import enhancer as module
from ltx2_core.run.enhancer import check_enhancer, enhance_alone
from ltx2_core.text import enhance_checks
from ltx2_core.text.enhance import RULES, WritingRules
from ltx2_core.tiny.write import TinySet, write_tiny_set

sys.path.insert(0, str(Path(__file__).parents[1]))

from seeing_gemma import in_one_file, written
from talking_gemma import with_marks

CLIP = "--width 64 --height 64 --frames 9 --fps 8 --steps 1 --stages 1 --device cpu"


@pytest.fixture(scope="module")
def talking(tiny_set: TinySet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("talking") / "gemma"
    shutil.copytree(tiny_set.text_encoder, folder)
    return with_marks(folder)


@pytest.fixture(autouse=True)
def short_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RULES, 3, WritingRules(max_tokens=8, temperature=0.7))  # type: ignore[arg-type]


def test_the_text_encoder_and_a_separate_model_write_the_same(tiny_set: TinySet, talking: Path) -> None:
    own = LTX2Pipeline(tiny_set.checkpoint, text_encoder=talking, device="cpu")
    apart = LTX2Pipeline(
        tiny_set.checkpoint, text_encoder=tiny_set.text_encoder, enhancer=talking, device="cpu"
    )
    first = own.enhance_prompt("a ball rolls", check=False)
    assert first == apart.enhance_prompt("a ball rolls", check=False)
    assert first != own.enhance_prompt("a ball rolls", seed=1, check=False)


@pytest.mark.slow
def test_a_file_records_the_prompt_that_was_written(
    tiny_set: TinySet, talking: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A random model writes no caption.
    monkeypatch.setattr(enhance_checks, "fault_of", lambda *_: "")
    clip = tmp_path / "clip.mp4"
    call = (
        f"generate --checkpoint {tiny_set.checkpoint} --text-encoder {tiny_set.text_encoder} "
        f"--enhance-prompt --enhancer {talking} --prompt ball {CLIP} -o {clip}"
    )
    planned = CliRunner().invoke(main, f"{call} --dry-run".split())
    assert planned.exit_code == 0, planned.output
    assert "rewritten by a language model" in planned.output
    result = CliRunner().invoke(main, call.split())
    assert result.exit_code == 0, result.output
    pipeline = LTX2Pipeline(tiny_set.checkpoint, enhancer=talking, device="cpu")
    recorded = json.loads(read_metadata(clip)["ltx2"])["request"]["prompt"]
    assert recorded == pipeline.enhance_prompt("ball") != "ball"


def test_a_prompt_stays_as_it_is_if_the_language_model_writes_no_caption(
    tiny_set: TinySet, talking: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pipeline = LTX2Pipeline(tiny_set.checkpoint, text_encoder=talking, device="cpu")
    assert pipeline.enhance_prompt("a ball rolls") == "a ball rolls"
    assert "the prompt stays as it is" in caplog.text


def test_a_gemma_alone_writes_the_same_again(
    talking: Path, tiny_set: TinySet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(enhance_checks, "fault_of", lambda *_: "")
    first, again, other = (
        enhance_alone(talking, "a ball rolls", seed=seed, device="cpu").prompt for seed in (1, 1, 2)
    )
    assert first == again != other
    with pytest.raises(ValueError, match="has no <start_of_turn>"):
        enhance_alone(tiny_set.text_encoder, "a ball")


@pytest.mark.parametrize(
    ("asked", "device", "dtype"), [("cpu", "cpu", torch.float32), (None, "mps", torch.bfloat16)]
)
def test_a_gemma_alone_computes_where_and_how_a_run_does(
    talking: Path, monkeypatch: pytest.MonkeyPatch, asked: str | None, device: str, dtype: torch.dtype
) -> None:
    loaded: dict[str, object] = {}

    def load(_: Path, **options: object) -> None:
        loaded.update(options)
        raise InterruptedError

    monkeypatch.setattr(devices, "_count", lambda kind: kind in ("cpu", "mps"))
    monkeypatch.setattr(module, "load_gemma", load)
    with pytest.raises(InterruptedError):
        enhance_alone(talking, "a ball rolls", device=asked)
    assert loaded == {"device": torch.device(device), "dtype": dtype}


def test_what_cannot_write_is_refused_before_a_weight_is_read(
    tiny_set: TinySet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "load_gemma", lambda *a, **k: pytest.fail("weights were read"))
    silent = LTX2Pipeline(tiny_set.checkpoint, text_encoder=tiny_set.text_encoder, device="cpu")
    with pytest.raises(ValueError, match="has no <start_of_turn>"):
        silent.enhance_prompt("a ball")
    with pytest.raises(ValueError, match="no text encoder is named"):
        LTX2Pipeline(tiny_set.checkpoint, device="cpu").enhance_prompt("a ball")
    later = write_tiny_set(tmp_path, generation="2.5")
    encoder = LTX2Pipeline(later.checkpoint, text_encoder=later.text_encoder, device="cpu")
    with pytest.raises(ValueError, match=r"of LTX-2\.5 cannot write text"):
        check_enhancer(encoder.networks, None)


@pytest.fixture(scope="module")
def later_set(tmp_path_factory: pytest.TempPathFactory) -> TinySet:
    return write_tiny_set(tmp_path_factory.mktemp("later"), generation="2.5")


@pytest.mark.parametrize("single", [False, True])
def test_a_separate_model_sees_the_image(
    later_set: TinySet, tmp_path: Path, monkeypatch, single: bool
) -> None:
    transformers = pytest.importorskip("transformers")
    if not hasattr(transformers, "Gemma4ForConditionalGeneration"):
        pytest.skip("this transformers has no Gemma 4")
    monkeypatch.setitem(RULES, 4, WritingRules(max_tokens=8))  # type: ignore[arg-type]
    folder = written(tmp_path / "e2b", 4)
    enhancer = in_one_file(folder) if single else folder
    images = [tmp_path / f"{shade}.png" for shade in (0, 255)]
    for image, shade in zip(images, (0, 255), strict=True):
        Image.new("RGB", (64, 64), (shade, 0, 0)).save(image)
    pipeline = LTX2Pipeline(
        later_set.checkpoint, text_encoder=later_set.text_encoder, enhancer=enhancer, device="cpu"
    )
    prompts = {pipeline.enhance_prompt("a ball", image=image, check=False) for image in (*images, None)}
    assert len(prompts) == 3


@pytest.mark.parametrize(("sighted", "how"), [(True, "which sees the image"), (False, "which does not see")])
def test_a_dry_run_says_whether_the_image_is_seen(
    tiny_set: TinySet, talking: Path, tmp_path: Path, sighted: bool, how: str
) -> None:
    enhancer = written(tmp_path / "gemma3", 3) if sighted else talking
    image = tmp_path / "a.png"
    Image.new("RGB", (64, 64)).save(image)
    call = (
        f"generate --checkpoint {tiny_set.checkpoint} --text-encoder {tiny_set.text_encoder} --image {image} "
        f"--enhance-prompt --enhancer {enhancer} --prompt ball {CLIP} --dry-run"
    )
    planned = CliRunner().invoke(main, call.split())
    assert planned.exit_code == 0, planned.output
    assert how in planned.output
