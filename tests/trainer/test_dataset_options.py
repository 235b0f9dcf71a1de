"""Options of a dataset: crops, repeats, columns, workers, audio that ends early, contact sheets, dropout."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import load_file

from ltx2_core.cli.main import main
from ltx2_core.loading import Component
from ltx2_core.media import write_wav
from ltx2_core.media.audio_in import audio_end_s
from ltx2_core.run.codecs import Codecs
from ltx2_core.trainer.buckets import crop_of, parse_buckets
from ltx2_core.trainer.cache import Index
from ltx2_core.trainer.dataset import encode_dataset, plan_dataset
from ltx2_core.trainer.media_clips import read_frames
from ltx2_core.trainer.report import report
from ltx2_core.trainer.rows import read_rows
from ltx2_core.trainer.samples import Samples
from ltx2_core.training.objective import GeneratorDraws, losses, prepare, velocities
from ltx2_core.training.objective.objective import TASKS, objective_of

from .conftest import OPTIONS, write_clip


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*.safetensors"))}


@pytest.mark.parametrize("workers", [1, 3])
def test_the_files_of_a_dataset_do_not_depend_on_the_number_of_workers(
    cache, folder, networks, tmp_path, workers
) -> None:
    plan = plan_dataset(read_rows(folder), OPTIONS)
    encode_dataset(Codecs(networks), plan, OPTIONS, tmp_path, workers=workers)
    assert bytes_of(tmp_path) == bytes_of(cache)


def test_a_clip_that_cannot_be_read_by_a_worker_is_named(folder, networks, tmp_path) -> None:
    shutil.copytree(folder, tmp_path / "clips")
    plan = plan_dataset(read_rows(tmp_path / "clips"), OPTIONS)
    plan = replace(plan, clips=tuple(replace(clip, start_s=9.0) for clip in plan.clips))
    with pytest.raises(ValueError, match=r"loud\.mp4"):
        encode_dataset(Codecs(networks), plan, OPTIONS, tmp_path / "out", workers=2)


def test_random_crops_lie_within_the_frames_and_depend_on_the_seed_alone(folder) -> None:
    options = replace(OPTIONS, crop="random")

    def places(seed: int) -> list[tuple[float, float]]:
        return [c.place for c in plan_dataset(read_rows(folder), replace(options, crop_seed=seed)).clips]

    assert places(0) == places(0) != places(1)
    assert len({*places(0)}) == 2
    (clip, _) = plan_dataset(read_rows(folder), options).clips
    crop = crop_of(96, 64, clip.bucket, clip.place)
    assert 0 <= crop.left <= 32 == crop.columns - clip.bucket.width
    assert read_frames(clip).shape == (9, 3, 64, 64)


def test_another_crop_is_encoded_again(folder, cache, networks, tmp_path) -> None:
    options = replace(OPTIONS, crop="random")
    index, made = encode_dataset(
        Codecs(networks), plan_dataset(read_rows(folder), options), options, tmp_path
    )
    own = {entry.file for entry in Index.load(cache).entries}
    assert not own & {entry.file for entry in index.entries}
    assert made == 6


def test_numbered_folders_repeat_their_clips_and_the_option_repeats_all(folder, networks, tmp_path) -> None:
    for name, inner in (("loud", "3_subject"), ("mute", "")):
        (tmp_path / "clips" / inner).mkdir(parents=True, exist_ok=True)
        for end in ("mp4", "txt"):
            shutil.copy(folder / f"{name}.{end}", tmp_path / "clips" / inner)
    rows = read_rows(tmp_path / "clips")
    assert sorted((Path(row.where).stem, row.repeats) for row in rows) == [("loud", 3), ("mute", 1)]
    options = replace(OPTIONS, repeats=2)
    index, _ = encode_dataset(
        Codecs(networks), plan_dataset(rows, options), options, tmp_path / "out", workers=1
    )
    assert sorted(entry.repeats for entry in index.entries) == [2, 6]


@pytest.mark.parametrize(
    ("keys", "audio", "message"),
    [
        (["video"], False, None),
        (["video", "input_audio"], True, None),
        (["video", "control_video"], False, "--data-file-keys 'control_video' is no column of media"),
        (["video", "audio"], False, r"d\.jsonl:1: there is no column audio, which --data-file-keys names"),
    ],
)
def test_the_columns_of_media_can_be_named(folder, tmp_path, keys, audio, message) -> None:
    write_wav(tmp_path / "a.wav", torch.zeros(1, 16000), 16000)
    row = {"video": str(folder / "mute.mp4"), "prompt": "a fox", "input_audio": "a.wav"}
    (tmp_path / "d.jsonl").write_text(json.dumps(row))
    if message is not None:
        with pytest.raises(ValueError, match=message):
            read_rows(tmp_path / "d.jsonl", file_columns=keys)
        return
    (found,) = read_rows(tmp_path / "d.jsonl", file_columns=keys)
    assert (found.audio is not None) == audio


BROKEN = [
    ("csv", "video,caption\n,a\n", 2, "neither a video nor audio"),
    ("csv", 'video,caption\n{loud},"a\nb"\ngone.mp4,b\n', 4, "no file at"),
    ("csv", "video;caption\n{loud};a\n", 2, "caption is missing"),
    ("csv", "video,caption,video_mask\n{loud},a,gone.png\n", 2, "video_mask: no file at"),
    ("csv", "video,caption,reference_audio\n{loud},a,gone.wav\n", 2, "reference_audio: no file at"),
    ("json", '{{"video": "{loud}"}}', 1, "it must be a list"),
    ("json", '[\n{{"video": "{loud}",}}]', 2, "not JSON"),
    ("json", '[{{"video": "{loud}", "caption": "a"}}, 3]', 2, "entry 2 is no object"),
    ("json", '[{{"video": ["{loud}", "{loud}"], "caption": "a"}}]', 1, "video must be one path"),
    ("json", '[{{"video": {{}}, "audio": 3, "caption": "a"}}]', 1, "audio must be one path"),
    ("jsonl", '{{"video": "{loud}", "caption": "a"}}\n\n[]\n', 3, "must be an object"),
    ("jsonl", '{{"video": "{loud}", "caption": []}}\n', 1, "caption is missing"),
    (
        "jsonl",
        '{{"video": "{loud}", "caption": "a"}}\n{{"video": "{loud}", "caption": "b"}}\n',
        2,
        "used already",
    ),
]


@pytest.mark.parametrize(("kind", "text", "line", "message"), BROKEN)
def test_a_broken_table_is_named_by_its_file_and_line(folder, tmp_path, kind, text, line, message) -> None:
    (tmp_path / f"d.{kind}").write_text(text.format(loud=folder / "loud.mp4"))
    with pytest.raises(ValueError, match=message) as error:
        read_rows(tmp_path / f"d.{kind}")
    assert any(f"d.{kind}:{line}: " in found for found in str(error.value).splitlines()), error.value


def short_audio(folder: Path) -> Path:
    """A clip of 36 frames at 25 a second whose audio file has 0.7 seconds."""
    folder.mkdir()
    write_clip(folder / "a.mp4", frames=36, audio=False)
    (folder / "a.txt").write_text("a rising tone")
    write_wav(folder / "a.wav", torch.rand(1, 11200) - 0.5, 16000)
    return folder


def test_clips_behind_the_end_of_the_audio_train_the_video_alone(tmp_path, networks) -> None:
    options = replace(OPTIONS, chunks=True)
    rows = read_rows(short_audio(tmp_path / "clips"))
    plan = plan_dataset(rows, options)
    assert [clip.audio_s is not None for clip in plan.clips] == [True, True, False, False]
    lines = "\n".join(report(plan, options))
    assert "audio: 2 of 4 clips" in lines
    assert "a.mp4 from 0.72 s" in lines
    assert "ends before" not in lines
    index, _ = encode_dataset(Codecs(networks), plan, options, tmp_path / "out")
    assert [entry.has_audio for entry in index.entries] == [True, True, False, False]
    for change in ({"missing_audio": "skip"}, {"audio": "required"}):
        left = plan_dataset(rows, replace(options, **change))
        assert len(left.clips) == 2
        assert all("it has no audio from" in reason for reason in left.skipped)
    whole = plan_dataset(rows, replace(OPTIONS, buckets=parse_buckets("64x64x33")))
    assert "a.mp4: the last 0.62 s" in "\n".join(report(whole, OPTIONS))


def test_the_end_of_audio_is_found_in_containers_that_do_not_state_it(tmp_path) -> None:
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        video, audio = container.add_stream("mpeg4", rate=25), container.add_stream("pcm_s16le", rate=16000)
        video.width, video.height, video.pix_fmt = 64, 64, "yuv420p"
        for _ in range(50):
            container.mux(video.encode(av.VideoFrame(64, 64, "yuv420p")))
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), format="s16", layout="mono")
        samples.sample_rate = 16000
        container.mux(audio.encode(samples))
        for stream in (video, audio):
            container.mux(stream.encode(None))
    assert audio_end_s(path) == pytest.approx(0.5, abs=0.05)


def test_silence_is_measured_on_the_cut_that_is_trained(tmp_path) -> None:
    folder = short_audio(tmp_path / "clips")
    waveform = torch.rand(1, 24000) - 0.5
    waveform[:, 6000:] = 0
    write_wav(folder / "a.wav", waveform, 16000)
    options = replace(OPTIONS, chunks=True)
    lines = "\n".join(report(plan_dataset(read_rows(folder), options), options))
    assert "train the video alone): 2\n" in lines
    assert "a.mp4 from 0.72 s" in lines


def test_the_report_says_that_audio_is_off_and_lists_no_clip_for_lacking_it(folder) -> None:
    options = replace(OPTIONS, audio="off")
    lines = "\n".join(report(plan_dataset(read_rows(folder), options), options))
    assert "audio: 0 of 2 clips; that of videos is off, they train the video alone" in lines
    assert "without audio" not in lines


def test_contact_sheets_show_each_clip_as_it_is_trained(folder, tmp_path) -> None:
    words = ["dataset", str(folder), "--check", "--buckets", "64x64x9", "--sheets", str(tmp_path / "sheets")]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    with Image.open(tmp_path / "sheets" / "64x64x9_1.png") as sheet:
        # Three square frames of 192 pixels a clip, two clips under each other.
        assert sheet.width > 3 * 192
        assert sheet.height > 2 * 192


@pytest.mark.parametrize(
    ("share", "empty"), [((1.0, 0.0), ("video",)), ((0.0, 1.0), ("audio",)), ((1.0, 1.0), ("video", "audio"))]
)
def test_a_caption_can_be_empty_for_one_stream(cache, share, empty) -> None:
    index = Index.load(cache)
    plain = Samples(cache, index, objective_of("t2v"))
    dropped = Samples(cache, index, objective_of("t2v"), stream_dropout=share)
    with pytest.raises(ValueError, match="which both streams"):
        Samples(cache, replace(index, text="features"), objective_of("t2v"), stream_dropout=share)
    nothing = load_file(cache / index.empty_text)
    number = next(n for n in range(2) if plain.batch(n, torch.Generator()).objective.audio is not None)
    own, found = (samples.batch(number, torch.Generator()).clips.context for samples in (plain, dropped))
    for name in ("video", "audio"):
        expected = nothing[name][None] if name in empty else getattr(own, name)
        assert torch.equal(getattr(found, name), expected)


@pytest.fixture(scope="module")
def everything(tmp_path_factory, networks) -> Path:
    """An encoded dataset of one clip that has every reference and mask."""
    folder = tmp_path_factory.mktemp("everything")
    for name in ("a.mp4", "reference_video/a.mp4"):
        (folder / name).parent.mkdir(exist_ok=True)
        write_clip(folder / name, frames=18)
    (folder / "a.txt").write_text("a rising tone")
    for name in ("reference_audio", "audio_mask", "video_mask"):
        (folder / name).mkdir()
    known = torch.zeros(1, 16000)
    known[:, :4000] = 1
    write_wav(folder / "audio_mask" / "a.wav", known, 16000)
    write_wav(folder / "reference_audio" / "a.wav", torch.rand(1, 16000) - 0.5, 16000)
    mask = Image.new("L", (96, 64))
    mask.paste(255, (0, 0, 48, 64))
    mask.save(folder / "video_mask" / "a.png")
    options = replace(OPTIONS, buckets=parse_buckets("64x64x17"), downscale=2, temporal=2)
    out = tmp_path_factory.mktemp("everything_cache")
    encode_dataset(Codecs(networks), plan_dataset(read_rows(folder), options), options, out)
    return out


CONDITIONS = [
    ("t2v", ["first_frame:0.5"]),
    ("t2v", ["prefix=1:0.5", "suffix=1:0.5", "mask:0.5"]),
    ("t2v", ["crop=0,0,32,64:0.7", "first_frame:0.5", "reference:0.5"]),
    ("t2v", ["audio.prefix=3", "audio.suffix=2:0.5", "audio.mask:0.5", "audio.reference:0.5"]),
    ("i2v", ["audio.prefix=3:0.5", "reference:0.5", "audio.reference:0.5"]),
    ("av2av", ["first_frame:0.3", "audio.suffix=2"]),
    ("a2v", ["first_frame:0.3", "audio.reference"]),
    ("v2a", ["audio.prefix=4:0.5", "reference"]),
    ("t2a", ["audio.mask", "audio.reference"]),
    ("extend", ["first_frame:0.2"]),
    ("inpaint", ["suffix=1:0.5"]),
    ("outpaint", ["crop=0,0,64,32"]),
    *((name, []) for name in TASKS),
]


@pytest.mark.parametrize(("task", "conditions"), CONDITIONS)
def test_every_task_and_condition_trains_alone_and_with_others(
    everything, networks, task, conditions
) -> None:
    objective = objective_of(task, conditions)
    batch = Samples(everything, Index.load(everything), objective).batch(0, torch.Generator())
    with networks.use(Component.TRANSFORMER) as transformer:
        for seed in range(2):
            step = prepare(objective, batch.clips, GeneratorDraws(torch.Generator().manual_seed(seed)))
            found = losses(objective, step, velocities(transformer, step))
            assert found.total.isfinite().all()
            assert (found.video is None) == (objective.video is None or not objective.video.generated)
            assert (found.audio is None) == (objective.audio is None or not objective.audio.generated)


@pytest.mark.parametrize(
    ("changes", "starts"),
    [
        ({}, [0]),
        ({"chunks": True}, [0]),
        ({"slide": 1}, [0, 1, 2, 3]),
        ({"slide": 2}, [0, 2]),
        ({"slide": 9}, [0]),
        ({"uniform": 1}, [0]),
        ({"uniform": 2}, [0, 3]),
        ({"uniform": 3}, [0, 1, 3]),
        ({"uniform": 99}, [0, 1, 2, 3]),
    ],
)
def test_clips_begin_at_the_frames_that_are_asked_for(folder, changes, starts) -> None:
    # Twelve frames at 25 fps, of which a clip takes nine.
    plan = plan_dataset(read_rows(folder), replace(OPTIONS, **changes))
    found = [round(clip.start_s * 25) for clip in plan.clips if "loud" in clip.row.where]
    assert found == starts
    for clip in plan.clips:
        assert read_frames(clip).shape[0] == 9


@pytest.mark.parametrize(("trigger", "ordinary"), [("zorb", False), ("a cat", True), ("zorb cat", False)])
def test_a_trigger_of_ordinary_words_is_named(folder, trigger, ordinary) -> None:
    options = replace(OPTIONS, trigger=trigger)
    lines = list(report(plan_dataset(read_rows(folder), options), options))
    assert any("is an ordinary word" in line for line in lines) == ordinary
