"""Datasets: what is read, how it is cut, what is cached and when it is encoded again."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import sys
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from ltx2_core.cli.dataset import dataset
from ltx2_core.cli.main import main
from ltx2_core.media import write_wav
from ltx2_core.run.codecs import Codecs
from ltx2_core.trainer.buckets import latent_mask, parse_buckets
from ltx2_core.trainer.cache import Index, stale_files
from ltx2_core.trainer.captions import clean_caption, with_trigger
from ltx2_core.trainer.dataset import encode_dataset, plan_dataset
from ltx2_core.trainer.media_clips import PlannedClip, plan_clips, probe, read_clip_audio, read_frames
from ltx2_core.trainer.report import report
from ltx2_core.trainer.rows import paragraphs, read_rows
from ltx2_core.trainer.samples import Samples
from ltx2_core.training.objective import GeneratorDraws, prepare
from ltx2_core.training.objective.objective import objective_of

from .conftest import OPTIONS, write_clip


@pytest.mark.parametrize("kind", ["csv", "json", "jsonl"])
def test_a_file_lists_the_same_clips_whatever_its_kind(folder, tmp_path, kind) -> None:
    rows = [{"video": str(folder / "loud.mp4"), "caption": "a fox", "seed": "3"}]
    text = {
        "csv": "video,caption,seed\n" + ",".join(rows[0].values()),
        "json": json.dumps(rows),
        "jsonl": json.dumps(rows[0]) + "\n",
    }[kind]
    (tmp_path / f"d.{kind}").write_text(text)
    (row,) = read_rows(tmp_path / f"d.{kind}")
    assert (row.video, row.captions, row.audio) == (folder / "loud.mp4", ("a fox",), None)


def test_every_problem_of_a_dataset_is_named_by_file_and_line(folder, tmp_path) -> None:
    loud = str(folder / "loud.mp4")
    entries = [
        {"video": "gone.mp4", "caption": "a"},
        {"video": loud, "caption": ""},
        {"video": loud, "prompt": "b"},
        {"media_path": loud, "prompt": "c"},
        {"caption": "d"},
    ]
    file = tmp_path / "d.jsonl"
    file.write_text("\n".join([*map(json.dumps, entries), "{"]))
    with pytest.raises(ValueError, match="no file at") as error:
        read_rows(file)
    lines = str(error.value).splitlines()
    for line, text in [
        (1, "no file"),
        (2, "caption is missing"),
        (4, "used already"),
        (5, "neither"),
        (6, "JSON"),
    ]:
        assert any(f"d.jsonl:{line}: " in found and text in found for found in lines), (line, lines)


@pytest.mark.parametrize(
    "caption",
    ["a fox,\nthen a bear", "a fox\u2028a bear", "a fox\x0ca bear\x85", 'a "fox"', "ein Wei\u00dffuchs"],
)
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("kind", ["csv", "json", "jsonl"])
def test_a_caption_may_hold_any_text(folder, tmp_path, kind, mark, caption) -> None:
    row = {"caption": caption, "video": str(folder / "loud.mp4")}
    table = io.StringIO()
    csv.writer(table).writerows([row.keys(), row.values()])
    lines = {"csv": table.getvalue(), "json": json.dumps([row], ensure_ascii=False)}
    text = lines.get(kind, json.dumps(row, ensure_ascii=False) + "\n")
    (tmp_path / f"d.{kind}").write_bytes((mark + text).encode())
    (found,) = read_rows(tmp_path / f"d.{kind}")
    assert found.captions == (caption.strip(),)


def test_a_caption_file_may_begin_with_a_byte_order_mark(folder, tmp_path) -> None:
    shutil.copy(folder / "loud.mp4", tmp_path / "a.mp4")
    (tmp_path / "a.txt").write_text("\ufeffa fox", encoding="utf-8")
    assert read_rows(tmp_path)[0].captions == ("a fox",)


@pytest.mark.parametrize(
    ("text", "column", "message"),
    [
        ("video,caption\nloud.mp4," + "a" * 200_000, None, r"d\.csv:2: it cannot be read: field larger"),
        ("video,caption\nloud.mp4,a", "texts", r"d\.csv:2: the column 'texts' is missing or empty"),
        ("video,texts\nloud.mp4,", "texts", r"d\.csv:2: the column 'texts' is missing or empty"),
        ("video,texts\nloud.mp4,a", None, r"d\.csv:2: the caption is missing \(column caption or"),
    ],
)
def test_a_file_whose_captions_cannot_be_read_says_why(folder, tmp_path, text, column, message) -> None:
    shutil.copy(folder / "loud.mp4", tmp_path)
    (tmp_path / "d.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_rows(tmp_path / "d.csv", caption_column=column)


def test_a_folder_without_a_caption_and_a_folder_without_media_are_refused(tmp_path, folder) -> None:
    with pytest.raises(ValueError, match="holds no media"):
        read_rows(tmp_path)
    shutil.copy(folder / "loud.mp4", tmp_path)
    with pytest.raises(ValueError, match=r"no caption loud\.txt"):
        read_rows(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_rows(tmp_path / "nowhere")


def test_captions_are_paragraphs_with_the_trigger_once() -> None:
    assert paragraphs("a fox\nruns\n\n\na bear\n") == ("a fox runs", "a bear")
    assert with_trigger("a fox", "zorb ") == "zorb a fox"
    assert with_trigger("a zorb fox", "zorb") == "a zorb fox"
    assert with_trigger("zorbs", "zorb") == "zorb zorbs"
    assert clean_caption(" This clip depicts snow ") == "snow"
    assert clean_caption("A fox. The video shows it.") == "A fox. The video shows it."


def test_a_clip_is_cut_by_time_and_its_audio_is_as_long_as_its_frames(folder) -> None:
    row = next(row for row in read_rows(folder) if row.video.stem == "loud")
    source = probe(row)
    assert (source.width, source.height, source.frames) == (96, 64, 12)
    (own,) = plan_clips(row, source, parse_buckets("64x64x9"))
    (slow,) = plan_clips(row, source, parse_buckets("64x64x1;64x64x9"), fps=12.5)
    assert (own.bucket.frames, slow.bucket.frames, slow.fps) == (9, 1, 12.5)
    frames = read_frames(own)
    assert frames.shape == (9, 3, 64, 64)
    brightness = frames.mean(dim=(1, 2, 3))
    assert (brightness.diff() > 0.05).all()
    waveform, rate = read_clip_audio(own)
    assert waveform.shape[1] == int(9 / 25 * rate)
    assert len(plan_clips(row, source, parse_buckets("64x64x1"), chunks=True)) == 12
    (half,) = plan_clips(row, source, parse_buckets("64x64x1"), chunks=True)[6:7]
    torch.testing.assert_close(read_frames(half)[0].mean(), brightness[6], atol=0.02, rtol=0)


def test_a_mask_keeps_its_first_frame_apart() -> None:
    frames = torch.zeros(9, 1, 32, 64)
    frames[0, :, :, :32] = 1
    assert latent_mask(frames).tolist() == [[[1, 0]], [[0, 0]]]
    assert latent_mask(frames, official=True).tolist() == [[[1, 0]], [[0, 0]]]
    frames = frames.roll(8, dims=0)
    assert latent_mask(frames).tolist() == [[[0, 0]], [[1, 0]]]


def test_a_mask_of_audio_says_which_latents_are_known(tmp_path, networks) -> None:
    write_clip(tmp_path / "clip.mp4")
    (tmp_path / "clip.txt").write_text("a tone of which the beginning is known")
    (tmp_path / "audio_mask").mkdir()
    known = torch.zeros(1, 16000)
    known[:, :2400] = 1
    write_wav(tmp_path / "audio_mask" / "clip.wav", known, 16000)
    out = tmp_path / "out"
    index, _ = encode_dataset(Codecs(networks), plan_dataset(read_rows(tmp_path), OPTIONS), OPTIONS, out)
    tensors = load_file(out / index.entries[0].file)
    # Nine frames at 25 a second: 0.36 s and 9 latents, of which 0.15 s are the first 3.75.
    assert tensors["audio_mask"].tolist() == [1, 1, 1, 1, 0, 0, 0, 0, 0]
    objective = objective_of("t2v", ["audio.mask"])
    clips = Samples(out, index, objective).first(1)[0].clips
    assert clips.audio_mask is not None
    step = prepare(objective, clips, GeneratorDraws(torch.Generator()))
    assert step.audio is not None
    assert step.audio.in_loss.tolist() == [[False] * 4 + [True] * 5]


@pytest.mark.parametrize("text", ["64x64", "60x64x9", "64x64x8", "0x64x9", "axbxc"])
def test_a_bucket_off_the_grid_is_refused(text) -> None:
    with pytest.raises(ValueError, match="bucket"):
        parse_buckets(text)


def test_the_report_names_what_looks_wrong(folder) -> None:
    lines = "\n".join(report(plan_dataset(read_rows(folder), OPTIONS), OPTIONS))
    for text in ("64x64x9", "audio: 1 of 2", "mute.mp4", "captions without 'zorb'", "cut away: 2"):
        assert text in lines
    with pytest.raises(ValueError, match=r"mute\.mp4: it has no audio, and audio is required"):
        plan_dataset(read_rows(folder), replace(OPTIONS, audio="required"))
    with pytest.raises(ValueError, match="12 frames are fewer"):
        plan_dataset(read_rows(folder), replace(OPTIONS, buckets=parse_buckets("64x64x17")))
    with pytest.raises(ValueError, match="divided by reference_downscale=3"):
        plan_dataset(read_rows(folder), replace(OPTIONS, downscale=3))


def test_the_report_tells_how_loud_clips_are_and_which_are_silent(tmp_path) -> None:
    for name in ("loud", "quiet"):
        write_clip(tmp_path / f"{name}.mp4")
        (tmp_path / f"{name}.txt").write_text("a rising tone")
    write_wav(tmp_path / "quiet.wav", torch.zeros(2, 24000), 48000)
    lines = "\n".join(report(plan_dataset(read_rows(tmp_path), OPTIONS), OPTIONS))
    # A sine of amplitude 0.5 has 9 dB less than full scale.
    assert "loudness: -9 dB, from -9 to -9" in lines
    assert f"train the video alone): 1\n  {tmp_path / 'quiet.mp4'}" in lines


def test_all_clips_whose_audio_is_damaged_are_named_once(tmp_path, monkeypatch) -> None:
    def damaged(clip: PlannedClip) -> None:
        raise ValueError(f"cannot decode the audio in {clip.source.path.name}")

    for name in ("first", "second"):
        write_clip(tmp_path / f"{name}.mp4", frames=20)
        (tmp_path / f"{name}.txt").write_text("a rising tone")
    monkeypatch.setattr("ltx2_core.trainer.report.read_clip_audio", damaged)
    options = replace(OPTIONS, chunks=True)
    with pytest.raises(ValueError, match="cannot decode") as error:
        list(report(plan_dataset(read_rows(tmp_path), options), options))
    assert [line.rpartition(" ")[2] for line in str(error.value).splitlines()] == ["first.mp4", "second.mp4"]


def test_encoded_clips_have_their_streams_and_are_encoded_once(cache, folder, networks, tmp_path) -> None:
    index = Index.load(cache)
    loud, mute = index.entries
    tensors = load_file(cache / loud.file)
    assert {name: tuple(t.shape) for name, t in tensors.items()} == {
        "video": (128, 2, 2, 2),
        "audio": (8, 9, 16),
    }
    assert set(load_file(cache / mute.file)) == {"video"}
    assert (loud.captions[0], len(loud.texts)) == ("zorb a red circle bounces", 2)
    plan, codecs = plan_dataset(read_rows(folder), OPTIONS), Codecs(networks)
    assert encode_dataset(codecs, plan, OPTIONS, cache)[1] == 0
    # An entry that was cut short is encoded again, alone.
    out = tmp_path / "again"
    shutil.copytree(cache, out)
    os.truncate(out / mute.file, 100)
    assert encode_dataset(codecs, plan, OPTIONS, out)[1] == 1
    # Another cut gives other files; the old ones are noticed.
    other = replace(OPTIONS, buckets=parse_buckets("32x32x9"))
    changed, made = encode_dataset(codecs, plan_dataset(read_rows(folder), other), other, out)
    assert made == 2
    assert {path.name for path in stale_files(out, changed)} == {loud.file[6:], mute.file[6:]}


@pytest.mark.parametrize(
    "changes",
    [
        {"entries": None},
        {"entries": []},
        {"entries": [5]},
        {"entries": [{"file": "a"}]},
        {"models": []},
        {"reference": [1]},
        {"reference": ["a", "b"]},
        {"trigger": 3},
        *({name: wrong} for name in ("texts", "captions") for wrong in ([], "ab", [1], 5)),
        *({"file": wrong} for wrong in (None, 5)),
        *({"sources": wrong} for wrong in ([], {"a": 5}, {"a": ["b", "c"]})),
        {"fps": "fast"},
        {"has_audio": "no"},
    ],
)
def test_a_damaged_index_is_refused_by_the_name_of_its_file(cache, tmp_path, changes) -> None:
    values = json.loads((cache / "dataset.json").read_text())
    at = values if changes.keys() <= values.keys() else values["entries"][1]
    at.update(changes)
    (tmp_path / "dataset.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match=r"dataset\.json is damaged .*: run ltx2 dataset again"):
        Index.load(tmp_path)
    at.pop(next(iter(changes)))
    (tmp_path / "dataset.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match=r"dataset\.json is damaged"):
        Index.load(tmp_path)


@pytest.mark.parametrize("repeats", [0, -1, "two"])
def test_an_index_with_an_impossible_number_of_repeats_is_damaged(cache, tmp_path, repeats) -> None:
    values = json.loads((cache / "dataset.json").read_text())
    values["entries"][0]["repeats"] = repeats
    (tmp_path / "dataset.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match=r"dataset\.json is damaged"):
        Index.load(tmp_path)


def test_an_index_from_before_repeats_is_read(cache, tmp_path) -> None:
    values = json.loads((cache / "dataset.json").read_text())
    for entry in values["entries"]:
        del entry["repeats"]
    (tmp_path / "dataset.json").write_text(json.dumps(values))
    found, written = Index.load(tmp_path), Index.load(cache)
    assert (found, found.fingerprint) == (written, written.fingerprint)


@pytest.mark.parametrize("column", ["repeats", "num_repeats"])
@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_an_epoch_has_a_clip_as_often_as_it_is_repeated(folder, cache, tmp_path, kind, column) -> None:
    loud, mute = (str(folder / name) for name in ("loud.mp4", "mute.mp4"))
    rows = [{"video": loud, "caption": "a", column: "3"}, {"video": mute, "caption": "b", column: ""}]
    lines = {
        "csv": [",".join(rows[0]), *(",".join(row.values()) for row in rows)],
        "jsonl": [json.dumps(rows[0] | {column: 3}), json.dumps(rows[1])],
    }[kind]
    (tmp_path / f"d.{kind}").write_text("\n".join(lines))
    found = read_rows(tmp_path / f"d.{kind}")
    assert [row.repeats for row in found] == [3, 1]
    plan = plan_dataset(found, OPTIONS)
    assert any("loud.mp4" in line or "3 times" in line for line in report(plan, OPTIONS))
    index = Index.load(cache)
    whole = replace(index, entries=(replace(index.entries[0], repeats=3), index.entries[1]))
    samples = Samples(cache, whole, objective_of("t2v"))
    assert samples.per_epoch == 4
    names = [samples.batch(number, torch.Generator()).names[0] for number in range(4)]
    assert sorted(map(names.count, {*names})) == [1, 3]
    assert len(samples.first(9)) == 2
    assert whole.fingerprint != index.fingerprint


@pytest.mark.parametrize("repeats", ["0", "-2", "1.5", "often", "10000000"])
def test_an_impossible_number_of_repeats_is_named_with_its_line(folder, tmp_path, repeats) -> None:
    text = f"video,caption,repeats\n{folder / 'loud.mp4'},a,{repeats}\n"
    (tmp_path / "d.csv").write_text(text)
    with pytest.raises(ValueError, match=r"d\.csv:2: repeats must be a whole number from 1 on, not"):
        read_rows(tmp_path / "d.csv")


@pytest.mark.parametrize(
    ("max_pixels", "downscale", "size"),
    [
        (96 * 64, 1, (96, 64)),
        (10**6, 1, (96, 64)),
        (64 * 64, 1, (64, 32)),
        (32 * 32, 1, (32, 32)),
        (10**6, 2, (64, 64)),
    ],
)
def test_clips_of_their_own_size_have_at_most_so_many_pixels(folder, max_pixels, downscale, size) -> None:
    options = replace(OPTIONS, max_pixels=max_pixels, downscale=downscale)
    plan = plan_dataset(read_rows(folder), options)
    assert {clip.bucket for clip in plan.clips} == {(*size, 9)}
    (clip, _) = plan.clips
    assert read_frames(clip).shape[-2:] == size[::-1]


def test_of_the_buckets_only_lengths_count_for_clips_of_their_own_size(folder) -> None:
    options = replace(OPTIONS, buckets=parse_buckets("512x512x9;32x32x1"), max_pixels=10**6)
    assert {clip.bucket.name for clip in plan_dataset(read_rows(folder), options).clips} == {"96x64x9"}


def test_a_long_name_of_any_script_is_encoded(folder, networks, tmp_path) -> None:
    stem = "\N{CJK UNIFIED IDEOGRAPH-5B57}" * 80
    shutil.copy(folder / "mute.mp4", tmp_path / f"{stem}.mp4")
    (tmp_path / f"{stem}.txt").write_text("a fox")
    plan = plan_dataset(read_rows(tmp_path), OPTIONS)
    index, _ = encode_dataset(Codecs(networks), plan, OPTIONS, tmp_path / "out")
    assert (tmp_path / "out" / index.entries[0].file).is_file()


def test_a_source_that_changed_is_noticed(cache, folder) -> None:
    index = Index.load(cache)
    assert index.changed() == []
    status = (folder / "loud.mp4").stat()
    os.utime(folder / "loud.mp4", ns=(status.st_atime_ns, status.st_mtime_ns + 10**9))
    try:
        assert index.changed() == [f"{folder / 'loud.mp4'}: loud.mp4 changed since it was encoded"]
    finally:
        os.utime(folder / "loud.mp4", ns=(status.st_atime_ns, status.st_mtime_ns))


def test_the_command_checks_without_models_and_needs_a_folder_to_encode(folder) -> None:
    runner = CliRunner()
    done = runner.invoke(main, ["dataset", str(folder), "--check", "--buckets", "64x64x9"])
    assert (done.exit_code, "2 clips of 2 entries" in done.output) == (0, True)
    assert runner.invoke(main, ["dataset", str(folder)]).exit_code == 2
    done = runner.invoke(main, ["dataset", str(folder), "--check", "--buckets", "64x64"])
    assert (done.exit_code, "WIDTHxHEIGHTxFRAMES" in done.output) == (2, True)


def test_the_line_of_progress_is_ended_before_anything_else_is_printed(folder, tmp_path, monkeypatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    shutil.copytree(folder, tmp_path / "clips")
    (tmp_path / "clips" / "mute.mp4").write_bytes(b"no video")
    for source, problem in ((folder, None), (tmp_path / "clips", r"mute\.mp4")):
        monkeypatch.setattr(sys, "stderr", Terminal())
        with nullcontext() if problem is None else pytest.raises(ValueError, match=problem):
            dataset.main([str(source), "--check", "--buckets", "64x64x9"], standalone_mode=False)
        assert sys.stderr.getvalue().startswith("\rread 1/2 \rread 2/2 \n")


def test_the_command_prints_each_problem_on_a_line(tmp_path) -> None:
    (tmp_path / "d.csv").write_text("video,caption\ngone.mp4,a\nalso.mp4,b\n")
    done = CliRunner().invoke(main, ["dataset", str(tmp_path / "d.csv"), "--check"])
    assert done.exit_code == 2
    lines = done.output.splitlines()
    assert ["d.csv:2: " in lines[0], "d.csv:3: " in lines[1], "listed above" in lines[2]] == [True] * 3
