"""Other places that a run logs to, with stand-ins for their libraries, and the library that cuts scenes."""

from __future__ import annotations

import sys
from dataclasses import replace
from types import ModuleType, SimpleNamespace

import pytest

from ltx2_core.trainer import loggers, scenes
from ltx2_core.trainer.dataset import plan_dataset
from ltx2_core.trainer.lora_run import train_lora
from ltx2_core.trainer.open_run import open_run
from ltx2_core.trainer.rows import read_rows

from .conftest import OPTIONS, write_clip


class _Told:
    """Notes what it is called with, in place of a writer of TensorBoard and of a run of wandb."""

    def __init__(self, *_: object, **how: object) -> None:
        self.how, self.values, self.closed = how, [], False

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.values.append((step, name))

    def log(self, values: dict, *, step: int) -> None:
        self.values += [(step, name) for name in values]

    def close(self) -> None:
        self.closed = True

    finish = close


@pytest.fixture
def told(monkeypatch) -> list[_Told]:
    made: list[_Told] = []

    def make(*args: object, **how: object) -> _Told:
        made.append(_Told(*args, **how))
        return made[-1]

    tensorboard, wandb = ModuleType("torch.utils.tensorboard"), ModuleType("wandb")
    tensorboard.SummaryWriter, wandb.init = make, make
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", tensorboard)
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.setattr(loggers, "find_spec", lambda _: True)
    return made


def test_every_step_is_sent_to_the_loggers_that_are_asked_for(short_run, told) -> None:
    train_lora(open_run(replace(short_run, steps=2, log=("tensorboard", "wandb"))))
    assert len(told) == 2
    for one in told:
        assert {(1, "loss"), (2, "loss"), (2, "video_loss")} <= {*one.values}
        assert one.closed
    assert told[1].how["name"] == "run"
    assert told[1].how["config"]["rank"] == 2


def test_a_resumed_run_continues_its_curves_and_not_those_of_a_folder_of_the_same_name(
    short_run, told, tmp_path, monkeypatch
) -> None:
    run = replace(short_run, log=("tensorboard", "wandb"))
    train_lora(open_run(run), stop_at=2)
    train_lora(open_run(run))
    assert [one.how["purge_step"] for one in told[::2]] == [1, 3]
    (tmp_path / "other" / "run").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "other" / "run")
    train_lora(open_run(replace(run, output_dir=".")), stop_at=1)
    first, resumed, other = (one.how for one in told[1::2])
    assert first["id"] == resumed["id"] != other["id"]
    assert other["name"] == "run"


def test_loggers_are_closed_when_a_run_fails(short_run, told) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("the disk is full")

    with pytest.raises(RuntimeError, match="disk is full"):
        train_lora(open_run(replace(short_run, log=("tensorboard", "wandb"))), on_step=fail)
    assert [one.closed for one in told] == [True, True]


def test_a_logger_that_is_missing_or_unknown_is_named(short_run, monkeypatch) -> None:
    monkeypatch.setattr(loggers, "find_spec", lambda _: None)
    with pytest.raises(ValueError, match="pip install wandb"):
        open_run(replace(short_run, log=("wandb",)))
    with pytest.raises(ValueError, match="log='paper' must be one of tensorboard, wandb"):
        open_run(replace(short_run, log=("paper",)))


def test_a_video_is_cut_where_its_scenes_change(tmp_path, monkeypatch) -> None:
    write_clip(tmp_path / "long.mp4", frames=40)
    (tmp_path / "long.txt").write_text("two scenes and a bit")
    cuts = [(0.0, 0.4), (0.4, 0.56), (0.56, 1.6)]
    library = ModuleType("scenedetect")
    library.ContentDetector = object
    library.detect = lambda *_: [tuple(SimpleNamespace(get_seconds=lambda s=s: s) for s in c) for c in cuts]
    monkeypatch.setitem(sys.modules, "scenedetect", library)
    monkeypatch.setattr(scenes, "find_spec", lambda _: True)
    rows = read_rows(tmp_path)
    # The second scene has four frames, fewer than the bucket.
    clips = plan_dataset(rows, replace(OPTIONS, scenes=True)).clips
    assert [clip.start_s for clip in clips] == pytest.approx([0, 0.56])
    clips = plan_dataset(rows, replace(OPTIONS, scenes=True, chunks=True)).clips
    assert [clip.start_s for clip in clips] == pytest.approx([0, 0.56, 0.92])
    assert all(clip.audio_s == pytest.approx(9 / 25) for clip in clips)


def test_cutting_scenes_without_the_library_is_refused(tmp_path, monkeypatch) -> None:
    write_clip(tmp_path / "long.mp4")
    (tmp_path / "long.txt").write_text("a clip")
    monkeypatch.setattr(scenes, "find_spec", lambda _: None)
    with pytest.raises(ValueError, match=r"pip install scenedetect\[opencv\], or use --chunks"):
        plan_dataset(read_rows(tmp_path), replace(OPTIONS, scenes=True))
