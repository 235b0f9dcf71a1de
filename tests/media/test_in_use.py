"""A file that is open or memory-mapped is not replaced on Windows: nothing that was made is lost."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from ltx2_core.cli.main import main
from ltx2_core.storage.writing import write_tensors


def in_use(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """As on Windows, where a file that is open or memory-mapped is not replaced."""
    replace = os.replace

    def refuse(source, target, **options) -> None:
        if Path(target).name == name:
            raise PermissionError(errno.EACCES, "Access is denied", str(target))
        replace(source, target, **options)

    monkeypatch.setattr(os, "replace", refuse)


def test_a_file_in_use_stays_and_the_new_one_is_put_beside_it(tmp_path, monkeypatch) -> None:
    path = tmp_path / "weights.safetensors"
    write_tensors(path, {"x": torch.zeros(2)})
    mapped = load_file(path)["x"]
    in_use(monkeypatch, path.name)
    for number in (1, 2):
        with pytest.raises(
            OSError, match=rf"open or loaded; the new one is weights-new{number}\.safetensors"
        ):
            write_tensors(path, {"x": torch.full((2,), float(number))})
        assert load_file(tmp_path / f"weights-new{number}.safetensors")["x"].tolist() == [number] * 2
    assert mapped.tolist() == load_file(path)["x"].tolist() == [0, 0]
    assert len(list(tmp_path.iterdir())) == 3, "no unfinished file remains"


def test_the_command_line_says_where_the_new_file_is(tmp_path, monkeypatch) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"an older clip")
    in_use(monkeypatch, path.name)
    request = ["generate", "--prompt", "a ball", "--width", "64", "--height", "64", "--frames", "9"]
    result = CliRunner().invoke(main, [*request, "--steps", "1", "--device", "cpu", "-o", str(path)])
    assert result.exit_code != 0
    assert "the new one is clip-new1.mp4 next to it: close the program" in " ".join(result.output.split())
    assert "Traceback" not in result.output
    assert path.read_bytes() == b"an older clip"
    assert (tmp_path / "clip-new1.mp4").stat().st_size > 1000
