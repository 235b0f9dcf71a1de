"""Headers are checked against the file before they are used."""

from __future__ import annotations

import struct

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from ltx2_core.loading import read_header

ONE = {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}


def test_a_header_gives_names_shapes_sizes_and_parsed_metadata(tmp_path):
    path = tmp_path / "x.safetensors"
    tensors = {"b": torch.zeros(2, 3, dtype=torch.bfloat16), "a": torch.zeros(4), "scalar": torch.zeros(())}
    save_file(tensors, path, metadata={"config": '{"dims": 3}', "model_version": "2.3.0", "n": "2"})
    header = read_header(path)
    assert {n: (t.dtype, t.shape, t.nbytes) for n, t in header.tensors.items()} == {
        "a": ("F32", (4,), 16),
        "b": ("BF16", (2, 3), 12),
        "scalar": ("F32", (), 4),
    }
    assert header.metadata == {"config": {"dims": 3}, "model_version": "2.3.0", "n": 2}


def test_a_truncated_file_is_named_as_truncated(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.zeros(1000)}, path)
    whole = path.read_bytes()
    for length in (len(whole) - 1, len(whole) - 3999, 40):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"x\.safetensors is truncated"):
            read_header(path)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "is empty"),
        (b"PK\x03\x04" + b"\0" * 40, "zip archive"),
        (b"\x80\x02}q\x00X\x01\x00\x00\x00a", "pickle"),
        (b"GGUF\x03\x00\x00\x00" + b"\0" * 40, "GGUF"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
        (b"<html><body>404</body></html>", "a text file"),
        (b"\x01\x02", "not a safetensors file"),
        (b"\xff" * 64, "not a safetensors file"),
        (struct.pack("<Q", 9) + b"not json!", "not JSON"),
        (struct.pack("<Q", 4) + b"[[]]", "header is a list"),
        (struct.pack("<Q", 100_000) + b"[" * 100_000, "not JSON"),
    ],
)
def test_other_files_are_named_for_what_they_are(tmp_path, content, what):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=what):
        read_header(path)


def test_a_folder_and_a_missing_file_have_different_errors(tmp_path):
    with pytest.raises(ValueError, match="is a folder"):
        read_header(tmp_path)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_header(tmp_path / "none.safetensors")


@pytest.mark.parametrize(
    ("entry", "what"),
    [
        ({"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}, "needs 8 bytes"),
        ({"dtype": "F32", "shape": [2], "data_offsets": [0, 2**60]}, "needs 8 bytes"),
        ({"dtype": "F32", "shape": [2**58], "data_offsets": [0, 2**60]}, "truncated"),
        ({"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}, "impossible"),
        ({"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}, "impossible"),
        ({"dtype": "F32", "shape": [2.0], "data_offsets": [0, 8]}, "impossible"),
        ({"dtype": "F32", "shape": [2], "data_offsets": [8, 16]}, "leaves a hole"),
        ({"dtype": "Q4_K", "shape": [2], "data_offsets": [0, 8]}, "unknown dtype 'Q4_K'"),
        ({"dtype": "F32", "shape": [2]}, "malformed"),
        ({"dtype": "F32", "shape": 2, "data_offsets": [0, 8]}, "malformed"),
        ({"dtype": "F32", "shape": [2], "data_offsets": [0, 8, 9]}, "malformed"),
        ("tensor", "malformed"),
    ],
)
def test_a_false_entry_is_an_error_that_names_the_tensor(raw, entry, what):
    with pytest.raises(ValueError, match=what):
        read_header(raw({"a": entry}, b"\0" * 8))


def test_overlapping_tensors_and_leftover_bytes_are_corrupt(raw):
    with pytest.raises(ValueError, match="'b' overlaps"):
        read_header(raw({**ONE, "b": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}}, b"\0" * 12))
    with pytest.raises(ValueError, match="4 bytes after the last tensor"):
        read_header(raw(ONE, b"\0" * 12))


def test_metadata_must_be_an_object(raw):
    with pytest.raises(ValueError, match="__metadata__ must be an object"):
        read_header(raw({**ONE, "__metadata__": "x"}, b"\0" * 8))


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=200))
def test_no_bytes_at_all_end_in_anything_but_a_value_error(tmp_path, content):
    path = tmp_path / "fuzz.safetensors"
    path.write_bytes(content)
    problem = ""
    try:
        read_header(path)
    except ValueError as error:
        problem = str(error)
    assert not problem or "fuzz.safetensors" in problem
