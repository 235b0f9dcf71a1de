"""An output replaces a regular file or makes a new one, and nothing else, whatever writes it."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ltx2_core.media import Destination, VideoWriter, check_output, write_wav
from ltx2_core.media.atomic import replacing

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes and sockets are those of POSIX")

MAKERS = {
    "pipe": lambda path: os.mkfifo(path),
    "socket": lambda path: bind(path),
    "folder": lambda path: path.mkdir(),
    "link to a device": lambda path: path.symlink_to(os.devnull),
    "link to itself": lambda path: path.symlink_to(path),
    "link to no folder": lambda path: path.symlink_to(path.parent / "none" / path.name),
}
WRITERS = {
    "check": check_output,
    "replacing": lambda path: use(replacing(path)),
    "wav": lambda path: write_wav(path, torch.zeros(1, 100), 16000),
    "video": lambda path: VideoWriter(path, width=64, height=64, fps=8),
}


def bind(path: Path) -> None:
    folder = os.open(path.parent, os.O_RDONLY)
    # The path of a socket has at most 107 bytes, and that of a test is longer.
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"/proc/self/fd/{folder}/{path.name}")
    os.close(folder)


def use(context) -> None:
    with context as temporary:
        temporary.write_bytes(b"new")


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("kind", MAKERS)
def test_only_a_regular_file_is_replaced(tmp_path, kind, writer) -> None:
    path = tmp_path / ("a.wav" if writer == "wav" else "a.mp4")
    MAKERS[kind](path)
    before = path.lstat()
    with pytest.raises(OSError):  # noqa: PT011 each kind has its own subclass
        WRITERS[writer](path)
    assert (path.lstat().st_mode, path.lstat().st_ino) == (before.st_mode, before.st_ino)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("path", [Path(os.devnull), Path("/dev/stdout")], ids=["null", "stdout"])
def test_devices_are_named_as_such(path) -> None:
    mode = path.stat().st_mode
    if stat.S_ISREG(mode):
        pytest.skip("stdout is a file here")
    with pytest.raises(FileExistsError, match="is not replaced"):
        Destination.of(path)
    assert path.stat().st_mode == mode


def test_a_link_stays_and_its_file_is_replaced(tmp_path) -> None:
    (tmp_path / "store").mkdir()
    target, link = tmp_path / "store" / "real.wav", tmp_path / "link.wav"
    target.write_bytes(b"old")
    link.symlink_to("store/real.wav")
    write_wav(link, torch.zeros(1, 100), 16000)
    assert link.is_symlink()
    assert target.read_bytes()[:4] == b"RIFF"
    target.unlink()
    write_wav(link, torch.zeros(1, 100), 16000)
    assert target.read_bytes()[:4] == b"RIFF", "a link to a file that is not there yet makes it"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["link.wav", "real.wav", "store"]


def test_the_longest_name_is_written(tmp_path) -> None:
    path = tmp_path / ("é" * 125 + ".wav")
    write_wav(path, torch.zeros(1, 100), 16000)
    assert path.is_file()


@pytest.mark.parametrize(
    ("name", "present", "words"),
    [
        ("frames/", "frames/old.png", "not empty"),
        ("frames/", "frames", "is a file and not a folder"),
        ("none/frames/", None, "create it"),
        ("f_%03d.png", "f_0012.png", "numbered images"),
        ("none/f_%d.png", None, "create it"),
    ],
)
def test_images_never_replace_anything(tmp_path, name, present, words) -> None:
    if present is not None:
        (tmp_path / present).parent.mkdir(exist_ok=True)
        (tmp_path / present).write_bytes(b"old")
    with pytest.raises(OSError, match=words):
        Destination.of(f"{tmp_path}/{name}").check()
    assert present is None or (tmp_path / present).read_bytes() == b"old"


def test_images_go_beside_other_files_and_into_an_empty_folder(tmp_path) -> None:
    (tmp_path / "f_old.png").write_bytes(b"old")
    Destination.of(tmp_path / "f_%03d.png").check()
    (tmp_path / "frames").mkdir()
    Destination.of(f"{tmp_path}/frames/").check()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f_old.png", "frames"]


TERMINAL = """
import os, pty, sys
from ltx2_core.media import Destination
os.dup2(pty.openpty()[1], 1)
sys.stdout = os.fdopen(1, "w")
try:
    Destination.of("-").check()
except ValueError as error:
    sys.exit(str(error))
"""


def test_the_terminal_is_no_output() -> None:
    run = subprocess.run([sys.executable, "-c", TERMINAL], capture_output=True, text=True, timeout=1800)
    assert "the output - is the terminal" in run.stderr


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that takes no files")
def test_a_folder_that_takes_no_files_is_named_and_not_the_temporary_file():
    with (
        pytest.raises(OSError, match="no file can be made in this folder") as error,
        replacing(Path("/proc/a.mp4")) as part,
    ):
        part.write_bytes(b"")
    assert error.value.filename == "/proc/a.mp4"
