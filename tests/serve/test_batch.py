"""``ltx2 batch``: lines become clips and lines of results, also after a kill; seeds, prompts and grids."""

from __future__ import annotations

import json
import signal
import sys

import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from ltx2_core.cli.main import main
from ltx2_core.media import read_video
from ltx2_core.run.execution import Execution
from ltx2_core.serve.batch import Batch, forever, state_of
from ltx2_core.serve.batch_jobs import Variants, read_jobs
from ltx2_core.serve.models import read_models
from ltx2_core.serve.service import Settings
from ltx2_core.tiny import embedded_set

from .conftest import SMALL

REQUEST = {"prompt": "a red circle", "seed": 3, **SMALL}


def run(path, *words):
    return CliRunner().invoke(main, ["batch", str(path), "-o", str(path.parent / "out"), *map(str, words)])


def written(folder, *lines):
    path = folder / "jobs.jsonl"
    path.write_text(
        "# jobs\n\n" + "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    )
    return path


def results(folder):
    return [json.loads(line) for line in (folder / "out" / "results.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_lines_become_clips_and_a_second_run_makes_what_failed_and_nothing_twice(tmp_path, photo):
    (tmp_path / "photo.png").write_bytes(photo.read_bytes())
    path = written(
        tmp_path,
        {"request": REQUEST},
        {"name": "from_image", "request": {**REQUEST, "image": "photo.png"}, "format": "webm"},
    )
    ran = run(path)
    assert ran.exit_code == 0, ran.output
    made = {line["name"]: line for line in results(tmp_path)}
    assert {name: (line["line"], line["state"], line["file"]) for name, line in made.items()} == {
        "0003": (3, "succeeded", "0003.mp4"),
        "from_image": (4, "succeeded", "from_image.webm"),
    }
    assert read_video(tmp_path / "out" / "from_image.webm").frame_count == 9
    alone = tmp_path / "alone.mp4"
    fields = "--seed 3 --width 64 --height 64 --frames 9 --fps 8 --steps 2 --stages 1 --cfg 1"
    plain = CliRunner().invoke(
        main, ["generate", "--prompt", "a red circle", *fields.split(), "-o", str(alone)]
    )
    assert plain.exit_code == 0, plain.output
    both = (alone, tmp_path / "out" / "0003.mp4")
    assert torch.equal(*(torch.cat(list(read_video(one).frames())) for one in both))
    # Nothing is made again but what is no longer there.
    before = (tmp_path / "out" / "0003.mp4").stat().st_mtime_ns
    (tmp_path / "out" / "from_image.webm").unlink()
    assert run(path).exit_code == 0
    assert (tmp_path / "out" / "0003.mp4").stat().st_mtime_ns == before
    assert (tmp_path / "out" / "from_image.webm").exists()
    assert len(results(tmp_path)) == 2


def test_seeds_prompts_and_grids_multiply_the_lines_and_a_sheet_shows_them(tmp_path):
    (tmp_path / "prompts.txt").write_text("a red circle\na blue square\n")
    path = written(tmp_path, {"name": "c", "request": {**SMALL, "width": 32, "height": 32, "fps": 24}})
    ran = run(
        *(path, "--prompts-file", tmp_path / "prompts.txt", "--seeds", "1-2", "--grid", "steps=1,2"),
        "--contact-sheet",
    )
    assert ran.exit_code == 0, ran.output
    names = [f"c_p0{p}_steps{steps}_seed{seed}" for p in (1, 2) for steps in (1, 2) for seed in (1, 2)]
    assert sorted(line["name"] for line in results(tmp_path)) == sorted(names)
    assert {path.name for path in (tmp_path / "out").glob("*.mp4")} == {f"{name}.mp4" for name in names}
    with Image.open(tmp_path / "out" / "sheet.png") as sheet:
        assert sheet.height > 8 * 20


@pytest.mark.parametrize(
    ("lines", "words", "says"),
    [
        (["{"], [], "line 3: it is no JSON"),
        (["[]"], [], "line 3: it must be an object"),
        ([{"request": 3}], [], "line 3: request must be an object"),
        ([{"request": {}}], [], "line 3: request.prompt is missing"),
        ([{"request": {**REQUEST, "steps": 0}}], [], "line 3: "),
        ([{"request": {**REQUEST, "other": 0}}], [], "line 3: "),
        ([{"request": REQUEST, "other": 1}], [], "line 3: other"),
        (
            [{"request": REQUEST}, {"request": {**REQUEST, "image": "none.png"}}],
            [],
            "line 4: there is no file",
        ),
        ([{"request": REQUEST, "model": "other"}], [], "line 3: there is no model 'other'"),
        ([{"request": {**REQUEST, "seed": -1}}], [], "line 3: seed -1"),
        ([{"name": "../a", "request": REQUEST}], [], "line 3: name '../a'"),
        ([{"name": "a", "request": REQUEST}] * 2, [], "two clips would be called a.mp4"),
        ([{"request": REQUEST}], ["--grid", "steps"], "--grid steps"),
        ([{"request": REQUEST}], ["--seeds", "x"], "--seeds x"),
        ([{"request": REQUEST}], ["--ray-workers", "2"], "--ray-workers has no effect without --ray"),
        ([{"request": REQUEST}], ["--models", "none.json"], "none.json"),
        ([], [], "holds no job"),
    ],
)
def test_a_wrong_line_is_named_before_anything_is_made(tmp_path, lines, words, says):
    ran = run(written(tmp_path, *lines), *words)
    assert ran.exit_code == 2, ran.output
    assert says in " ".join(ran.output.split())
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_job_that_fails_is_told_ends_the_command_with_1_and_is_tried_again(tmp_path, photo, monkeypatch):
    (tmp_path / "photo.png").write_bytes(photo.read_bytes())
    path = written(tmp_path, {"request": {**REQUEST, "image": "photo.png"}}, {"request": REQUEST})
    check = Batch.check

    def check_and_remove(self) -> None:
        check(self)
        # Between the check and the run.
        (tmp_path / "photo.png").unlink()

    monkeypatch.setattr(Batch, "check", check_and_remove)
    failed = run(path)
    assert failed.exit_code == 1
    assert "photo.png" in failed.output
    assert {line["state"] for line in results(tmp_path)} == {"failed", "succeeded"}
    monkeypatch.undo()
    (tmp_path / "photo.png").write_bytes(photo.read_bytes())
    assert run(path).exit_code == 0
    assert {line["state"] for line in results(tmp_path)} == {"succeeded"}


def batch_of(folder):
    """Run the batch of ``folder``; for a process of its own."""
    models = read_models(None)
    jobs = read_jobs(folder / "jobs.jsonl", "ltx2-tiny", Variants())
    execution = Execution.on("cpu", torch.float32)
    settings = Settings(
        state=state_of(folder / "out"), models=models, execution=execution, retention=forever(3600)
    )
    (folder / "out").mkdir(exist_ok=True)
    Batch(folder / "out", jobs, settings).run()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_a_batch_that_is_killed_is_resumed_with_the_same_clips(tmp_path, share):
    from kill_points import run as killed_run

    embedded_set()
    folders = [tmp_path / name for name in ("whole", "killed")]
    for folder in folders:
        folder.mkdir()
        written(folder, *({"request": {**REQUEST, "seed": seed}} for seed in range(3)))
    whole = killed_run(batch_of, folders[0], folder=tmp_path / "run0")
    assert whole.code == 0, whole.output
    kill_at = int(share * len(whole.events))
    killed = killed_run(batch_of, folders[1], folder=tmp_path / "run1", kill_at=kill_at)
    assert killed.code == -signal.SIGKILL
    again = killed_run(batch_of, folders[1], folder=tmp_path / "run2")
    assert again.code == 0, again.output
    clips = [{path.name: path.read_bytes() for path in (folder / "out").glob("*.mp4")} for folder in folders]
    assert clips[0] == clips[1]
    assert len(results(folders[1])) == len(clips[1]) == 3
