"""What other trainers encoded: read without running anything in it, checked, and trained on."""

from __future__ import annotations

import math
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from ltx2_core.cli.main import main
from ltx2_core.run.codecs import Codecs
from ltx2_core.storage.torch_file import Foreign, read_torch_file
from ltx2_core.trainer.cache import Index
from ltx2_core.trainer.cache_import import import_cache
from ltx2_core.trainer.foreign_caches import foreign_clips
from ltx2_core.trainer.lora_run import train_lora
from ltx2_core.trainer.open_run import open_run
from ltx2_core.trainer.samples import Samples
from ltx2_core.training.objective.objective import objective_of


class Harmful:
    """Would make a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def save(path: Path, values: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(values, path)


def test_a_torch_file_is_read_as_data_and_nothing_in_it_is_run(tmp_path) -> None:
    base = torch.arange(24.0).view(4, 6)
    values = {
        "view": base[1:3, ::2],
        "half": base.bfloat16(),
        "mask": base > 3,
        "nested": [1, 2.5, "text", None, True, (2**40, ())],
        "parameter": torch.nn.Parameter(base),
        "harmful": Harmful(tmp_path / "made"),
    }
    save(tmp_path / "a.pt", values)
    found = read_torch_file(tmp_path / "a.pt")
    for name in ("view", "half", "mask", "parameter"):
        assert torch.equal(found[name], values[name])
        assert found[name].dtype == values[name].dtype
    assert found["nested"] == values["nested"]
    assert isinstance(found["harmful"], Foreign)
    assert not (tmp_path / "made").exists()


def test_a_torch_file_with_any_byte_changed_is_read_or_named_as_damaged(tmp_path) -> None:
    save(tmp_path / "a.pt", {"latents": torch.randn(2, 3), "fps": 24.0, "names": ["a", ("b",)]})
    whole = (tmp_path / "a.pt").read_bytes()
    for place in range(0, len(whole), 7):
        (tmp_path / "b.pt").write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        try:
            read_torch_file(tmp_path / "b.pt")
        except ValueError as error:
            assert "b.pt" in str(error)  # noqa: PT017 most changes are in values, and are no errors


def official(folder: Path, cache: Path, networks, *, old: bool = False) -> Path:
    """The clips of an encoded dataset as the official trainer stores them."""
    index = Index.load(cache)
    for number, entry in enumerate(index.entries):
        tensors = load_file(cache / entry.file)
        video = tensors["video"].bfloat16()
        sizes = dict(zip(("num_frames", "height", "width"), video.shape[1:], strict=True))
        stored = video.flatten(1).T.contiguous() if old else video
        name = f"latent_{number}.pt" if old else f"inner/{number}.pt"
        save(folder / "latents" / name, {"latents": stored, **sizes, "fps": entry.fps})
        if "audio" in tensors:
            save(folder / "audio_latents" / name, {"latents": tensors["audio"], "duration": 0.4})
        features = networks.encode([entry.captions[0]])
        texts = {
            "video_prompt_embeds": features.video[0].clone(),
            "audio_prompt_embeds": features.audio[0].clone(),
            "prompt_attention_mask": features.mask[0].clone(),
        }
        if old:
            texts["prompt_embeds"] = texts.pop("video_prompt_embeds")
        save(folder / "conditions" / name.replace("latent", "condition"), texts)
    return folder


def diffsynth(folder: Path, cache: Path) -> Path:
    """The clips of an encoded dataset as DiffSynth stores them, with an object of a class."""
    index = Index.load(cache)
    for number, entry in enumerate(index.entries):
        tensors, text = load_file(cache / entry.file), load_file(cache / entry.texts[0])
        shared = {"input_latents": tensors["video"][None], "frame_rate": 25, "object": Harmful(folder / "x")}
        if "audio" in tensors:
            shared["audio_input_latents"] = tensors["audio"][None]
        context = {f"{name}_context": text[name][None] for name in ("video", "audio")}
        save(folder / "0" / f"{number}.pth", (shared, context, {}))
    return folder


@pytest.mark.parametrize("kind", ["official", "old official", "diffsynth"])
def test_the_clips_of_another_cache_are_those_of_ours(cache, networks, tmp_path, kind) -> None:
    source = tmp_path / "theirs"
    if kind == "diffsynth":
        diffsynth(source, cache)
    else:
        official(source / ".precomputed", cache, networks, old=kind != "official")
    index, made = import_cache(Codecs(networks), source, tmp_path / "out")
    own = Index.load(cache)
    assert (made, index.models) == (4, own.models)
    for found, entry in zip(index.entries, own.entries, strict=True):
        assert (found.bucket, found.fps, found.has_audio) == (entry.bucket, entry.fps, entry.has_audio)
        ours, theirs = load_file(cache / entry.file), load_file(tmp_path / "out" / found.file)
        assert ours.keys() == theirs.keys()
        precision = {} if kind == "diffsynth" else {"rtol": 0.01, "atol": 0.01}
        for name, tensor in ours.items():
            torch.testing.assert_close(theirs[name].float(), tensor, **precision)
        ours, theirs = load_file(cache / entry.texts[0]), load_file(tmp_path / "out" / found.texts[0])
        for name, tensor in ours.items():
            torch.testing.assert_close(theirs[name], tensor, rtol=1e-4, atol=1e-4)
    assert import_cache(Codecs(networks), source, tmp_path / "out")[1] == 0
    assert not (source / "x").exists()


def test_a_lora_is_trained_on_the_cache_of_another_trainer(cache, networks, tmp_path, short_run) -> None:
    official(tmp_path / "theirs", cache, networks)
    out = tmp_path / "out"
    done = CliRunner().invoke(
        main, ["dataset", str(tmp_path / "theirs"), "--from-cache", "--out", str(out), "--device", "cpu"]
    )
    assert (done.exit_code, "has 2 clips, taken as encoded by" in done.output) == (0, True), done.output
    run = replace(short_run, dataset=str(out), steps=1, caption_dropout_audio=0.5)
    assert train_lora(open_run(run)).is_file()
    # Without a text encoder there is no empty caption.
    index = replace(Index.load(out), empty_text="")
    with pytest.raises(ValueError, match="has no empty caption"):
        Samples(out, index, objective_of("t2v"), caption_dropout=0.1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s, t: (s, {**t, "video_context": t["video_context"][..., :5]}), r"not \(1, tokens"),
        (
            lambda s, t: (s, {**t, "audio_context": t["audio_context"][0, 0, 0]}),
            "audio_context has the shape",
        ),
        (lambda s, t: ({**s, "input_latents": torch.tensor(1.0)}, t), "input_latents has the shape"),
        (lambda s, t: ({**s, "input_latents": s["input_latents"].repeat(2, 1, 1, 1, 1)}, t), "one clip has"),
        (
            lambda s, t: ({"in_context_video_latents": s["input_latents"], **_audio}, t),
            r"reference_video .* and no video",
        ),
    ],
)
def test_a_file_of_diffsynth_that_the_networks_cannot_take_is_named(
    cache, networks, tmp_path, change, message
) -> None:
    diffsynth(tmp_path / "theirs", cache)
    path = tmp_path / "theirs" / "0" / "0.pth"
    shared, text, _ = read_torch_file(path)
    save(path, (*change(shared, text), {}))
    with pytest.raises(ValueError, match=message) as error:
        import_cache(Codecs(networks), tmp_path / "theirs", tmp_path / "out")
    assert str(path) in str(error.value)


_audio = {"audio_input_latents": torch.zeros(1, 8, 3, 16)}


def test_references_and_masks_that_do_not_fit_their_clip_are_named(cache, networks, tmp_path) -> None:
    root = official(tmp_path / "theirs", cache, networks)
    save(root / "video_masks" / "inner" / "0.pt", {"mask": torch.ones(5, 2, 2)})
    with pytest.raises(ValueError, match=r"inner/0: video_mask has the shape \(5, 2, 2\)"):
        import_cache(Codecs(networks), root, tmp_path / "out")
    shutil.rmtree(root / "video_masks")
    shutil.move(root / "latents", root / "reference_latents")
    with pytest.raises(ValueError, match=r"reference_video \(reference_latents\) and no video"):
        import_cache(Codecs(networks), root, tmp_path / "out")


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("latents", lambda v: {**v, "latents": v["latents"][:16]}, r"shape \(16, 2, 2, 2\) and not \(128"),
        ("latents", lambda v: {**v, "latents": v["latents"] * math.nan}, "not finite"),
        ("latents", lambda v: {"video": v["latents"]}, "no tensor latents; its tensors are video"),
        ("latents", lambda _: [1], "a list and no dict"),
        ("latents", lambda v: {"latents": v["latents"].flatten(1).T}, "need num_frames, height and width"),
        ("audio_latents", lambda v: {"latents": v["latents"][..., :8]}, r"not \(8, frames, 16\)"),
        ("conditions", lambda v: {**v, "prompt_attention_mask": torch.ones(3)}, "text of shapes"),
        (
            "conditions",
            lambda v: {**v, "audio_prompt_embeds": v["audio_prompt_embeds"][:, :5]},
            "text features are 5 wide",
        ),
    ],
)
def test_a_file_that_the_networks_cannot_take_is_named(
    cache, networks, tmp_path, file, change, message
) -> None:
    official(tmp_path / "theirs", cache, networks)
    path = tmp_path / "theirs" / file / "inner" / "0.pt"
    save(path, change(read_torch_file(path)))
    with pytest.raises(ValueError, match=message) as error:
        import_cache(Codecs(networks), tmp_path / "theirs", tmp_path / "out")
    assert str(path) in str(error.value)
    assert not (tmp_path / "out" / "dataset.json").exists()


def test_clips_without_text_and_folders_without_a_cache_are_named(cache, networks, tmp_path) -> None:
    with pytest.raises(ValueError, match="is no cache of the official trainer"):
        import_cache(Codecs(networks), tmp_path, tmp_path / "out")
    for number, (name, trainer) in enumerate(
        (("a_1024x0576_ltx2.safetensors", "musubi-tuner"), ("_latent_cache/a.safetensors", "ai-toolkit"))
    ):
        path = tmp_path / str(number) / name
        path.parent.mkdir(parents=True)
        path.touch()
        with pytest.raises(ValueError, match=f"is a cache of {trainer} .* encode its clips again"):
            foreign_clips(tmp_path / str(number))
    official(tmp_path / "theirs", cache, networks)
    (tmp_path / "theirs" / "conditions" / "inner" / "1.pt").unlink()
    with pytest.raises(ValueError, match="has no text for inner/1"):
        import_cache(Codecs(networks), tmp_path / "theirs", tmp_path / "out")
    shutil.rmtree(tmp_path / "theirs" / "latents")
    shutil.rmtree(tmp_path / "theirs" / "audio_latents")
    with pytest.raises(ValueError, match=r"has no \.pt files"):
        import_cache(Codecs(networks), tmp_path / "theirs", tmp_path / "out")
