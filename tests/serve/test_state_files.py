"""The files of the state folder: what expires, what is cleared, and the room that uploads share."""

from __future__ import annotations

import os
import stat
import time
from io import BytesIO, StringIO

import pytest

from ltx2_core.serve.files import StateFolder, expire
from ltx2_core.serve.store import JobStore
from ltx2_core.serve.stored_job import State
from ltx2_core.serve.uploads import NoRoom, Uploads


def finished(store: JobStore, folder: StateFolder, size: int) -> str:
    """The id of a job that has succeeded with a result of ``size`` bytes."""
    job = store.add("job", {})
    store.claim()
    folder.result(job.id, 0, "mp4").write_bytes(bytes(size))
    store.succeed(job.id, {"clips": []})
    folder.finish(job.id)
    return job.id


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="Windows has no modes")
def test_the_state_folder_is_for_this_user_alone(tmp_path):
    folder = StateFolder(tmp_path / "state")
    for path in (folder.path, folder.results, folder.uploads, folder.work("a")):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700


def test_results_expire_by_size_the_oldest_first(store, tmp_path):
    folder = StateFolder(tmp_path / "state")
    made = [finished(store, folder, 100) for _ in range(4)]
    waiting = store.add("job", {}).id
    assert expire(store, folder, age_s=3600, most_bytes=250) == made[:2]
    assert store.ids(*State) == {*made[2:], waiting}
    assert sorted(path.name for path in folder.results.iterdir()) == sorted(
        f"{job_id}_output_0.mp4" for job_id in made[2:]
    )


def test_results_expire_by_age(store, tmp_path):
    folder = StateFolder(tmp_path / "state")
    old = finished(store, folder, 100)
    time.sleep(0.05)
    assert expire(store, folder, age_s=0.04, most_bytes=10**9) == [old]
    assert not any(folder.results.iterdir())


def test_jobs_without_files_do_not_expire_by_size(store, tmp_path):
    folder = StateFolder(tmp_path / "state")
    failed = store.add("job", {})
    store.claim()
    store.fail(failed.id, "no memory")
    made = [finished(store, folder, 100) for _ in range(2)]
    assert expire(store, folder, age_s=3600, most_bytes=150) == made[:1]
    assert store.ids(*State) == {failed.id, made[1]}


def test_an_upload_expires_by_age_but_not_while_a_job_needs_it(store, tmp_path):
    folder = StateFolder(tmp_path / "state")
    needed, other = folder.uploads / "a.png", folder.uploads / "b.png"
    for path in (needed, other):
        path.touch()
    job = store.add("job", {"clips": [{"request": {"image": str(needed)}}]})
    time.sleep(0.05)
    expire(store, folder, age_s=0.04, most_bytes=10**9)
    assert list(folder.uploads.iterdir()) == [needed]
    store.cancel(job.id)
    expire(store, folder, age_s=0.04, most_bytes=10**9)
    assert not any(folder.uploads.iterdir())


def test_files_that_are_sent_at_the_same_time_do_not_share_the_room_of_one(tmp_path):
    folder, unfinished = tmp_path / "uploads", tmp_path / "unfinished"
    folder.mkdir()
    unfinished.mkdir()
    uploads = Uploads(folder, unfinished, 10)
    assert uploads.add(BytesIO(b"1234"), 4, ".png").endswith(".png")

    class Slow(BytesIO):
        """A file during whose copy another one is sent."""

        def read(self, size=-1):
            with pytest.raises(NoRoom):
                uploads.add(BytesIO(b"1234"), 4, "")
            return super().read(size)

    uploads.add(Slow(b"12345"), 5, "")
    # What could not be copied gives its room back.
    with pytest.raises(TypeError):
        uploads.add(StringIO("1"), 1, "")
    uploads.add(BytesIO(b"1"), 1, "")
    assert sorted(path.stat().st_size for path in folder.iterdir()) == [1, 4, 5]


def test_a_clip_that_was_not_recorded_is_cleared_before_it_is_made_again(tmp_path):
    folder = StateFolder(tmp_path / "state")
    images = folder.results / "a_output_1_exr"
    images.mkdir()
    (images / "0001.exr").touch()
    for name in ("a_output_1.mp4", "a_output_0.mp4", "a_output_10.mp4"):
        (folder.results / name).touch()
    folder.clear("a", 1)
    assert sorted(path.name for path in folder.results.iterdir()) == ["a_output_0.mp4", "a_output_10.mp4"]


def test_files_of_no_job_are_removed_at_a_start(store, tmp_path):
    folder = StateFolder(tmp_path / "state")
    job_id = finished(store, folder, 10)
    folder.work("unknown")
    (folder.results / "unknown_output_0.mp4").write_bytes(b"clip")
    (folder.results / f".{job_id}_out-1a2b.part").write_bytes(b"half a clip")
    # EXR images are written into a folder, which is renamed at the end.
    (folder.results / f".{job_id}_out-3c4d.part").mkdir()
    (folder.results / f".{job_id}_out-3c4d.part" / "0001.exr").touch()
    (folder.uploads / ".photo.png.part").touch()
    (folder.uploads / "photo.png").touch()
    folder.remove_orphans(unfinished=set(), succeeded={job_id})
    assert [path.name for path in folder.results.iterdir()] == [f"{job_id}_output_0.mp4"]
    assert [path.name for path in folder.uploads.iterdir()] == ["photo.png"]
    assert not any((folder.path / "work").iterdir())
