"""``ltx2 models export`` lays the embedded set out as ComfyUI's model folders."""

from __future__ import annotations

from click.testing import CliRunner

from ltx2_core.cli.main import main
from ltx2_core.loading import open_checkpoint
from ltx2_core.tiny import embedded_dir
from ltx2_core.tiny.write import TinySet


def export(*arguments: object):
    return CliRunner().invoke(main, ["models", "export", *map(str, arguments)])


def test_every_file_arrives_in_the_folder_of_its_kind(tmp_path) -> None:
    result = export(tmp_path / "models")
    assert result.exit_code == 0, result.output
    for path in embedded_dir().rglob("*.*"):
        copy = tmp_path / "models" / path.relative_to(embedded_dir())
        assert copy.read_bytes() == path.read_bytes()
        assert str(copy) in result.output
    assert open_checkpoint(TinySet.in_folder(tmp_path / "models").checkpoint).generation == "2.3"
    assert export(tmp_path / "models").exit_code == 0


def test_files_of_others_are_not_overwritten_unless_asked(tmp_path) -> None:
    name = TinySet.in_folder(embedded_dir()).checkpoint.relative_to(embedded_dir())
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).write_text("mine")
    result = export(tmp_path)
    assert result.exit_code == 2
    assert name.name in result.output
    assert "--force" in result.output
    assert (tmp_path / name).read_text() == "mine"
    assert len(list(tmp_path.rglob("*.*"))) == 1
    assert export(tmp_path, "--force").exit_code == 0
    assert (tmp_path / name).stat().st_size > 1_000_000


def test_a_folder_that_cannot_be_made_is_named(tmp_path) -> None:
    (tmp_path / "file").write_text("not a folder")
    result = export(tmp_path / "file")
    assert result.exit_code == 2
    assert "choose another folder" in result.output
