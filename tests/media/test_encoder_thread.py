"""Frames are encoded while the next ones are decoded: same file, same errors, no thread left."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest
import torch

from ltx2_core.media import Destination, Encoding, VideoWriter, read_video
from ltx2_core.media.encoder_thread import WAITING, EncoderThread
from ltx2_core.media.save import Clip, save_clip

RATE, SIZE, FPS = 16000, 64, 8.0
LONG_S = 60
"""Seconds after which a test that waits for another thread fails."""


def chunks(count: int = 6, length: int = 3) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randint(256, (length, 3, SIZE, SIZE), dtype=torch.uint8, generator=generator)
        for _ in range(count)
    ]


def clip_of(frames, count: int = 18, *, audio: bool = True) -> Clip:
    waveform = torch.linspace(-0.5, 0.5, 2 * RATE * 3).view(2, -1)
    return Clip(
        width=SIZE,
        height=SIZE,
        fps=FPS,
        frame_count=count,
        frames=frames,
        audio=(lambda: (waveform.split(1600, dim=1), RATE)) if audio else None,
    )


def encoders() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if "encoder" in thread.name]


def test_the_file_has_the_bytes_of_one_that_is_encoded_in_turn(tmp_path):
    save_clip(tmp_path / "thread.mp4", clip_of(lambda as_bytes: iter(chunks())), Encoding(crf=20))
    with VideoWriter(
        tmp_path / "turn.mp4", width=SIZE, height=SIZE, fps=FPS, sample_rate=RATE, crf=20
    ) as writer:
        pieces, samples = clip_of(None).audio()[0], 0
        rest = iter(pieces)
        for chunk in chunks():
            writer.write_frames(chunk)
            while samples < writer.frame_count / FPS * RATE:
                piece = next(rest)
                samples += piece.shape[1]
                writer.write_audio(piece)
    assert (tmp_path / "thread.mp4").read_bytes() == (tmp_path / "turn.mp4").read_bytes()


def test_frames_are_decoded_while_earlier_ones_are_encoded():
    """The first job ends only when the second chunk has come."""
    came, order = threading.Event(), []

    def job(check):
        assert came.wait(LONG_S)
        order.append("encoded")
        return len(order)

    with EncoderThread() as encoder:
        encoder.submit(job)
        order.append("decoded")
        came.set()
        encoder.submit(job)
    assert order[0] == "decoded"
    assert order.count("encoded") == 2


def test_at_most_one_job_waits_while_another_one_runs():
    free, started, made = threading.Semaphore(0), threading.Semaphore(0), []

    def job(check):
        started.release()
        assert free.acquire(timeout=LONG_S)
        return 1

    def fill():
        with EncoderThread() as encoder:
            for number in range(5):
                made.append(number)
                encoder.submit(job)

    filling = threading.Thread(target=fill)
    filling.start()
    for number in range(5):
        assert started.acquire(timeout=LONG_S)
        # One runs, WAITING wait, and one more is in the hands of the caller.
        assert len(made) <= number + 2 + WAITING
        free.release()
    filling.join(LONG_S)
    assert not filling.is_alive()


def test_frames_are_reported_in_order_in_the_thread_of_the_caller(tmp_path):
    reports = []
    save_clip(
        tmp_path / "a.mp4",
        clip_of(lambda as_bytes: iter(chunks())),
        Encoding(),
        on_frames=lambda done, total: reports.append((done, total, threading.current_thread())),
    )
    assert reports == [(done, 18, threading.current_thread()) for done in range(3, 19, 3)]


def test_an_error_of_the_encoder_ends_decoding_at_the_next_chunk(tmp_path):
    decoded = []

    def frames(as_bytes):
        for number, chunk in enumerate(chunks(40)):
            decoded.append(number)
            yield chunk.float().div(127.5).sub(1) if number != 1 else torch.full(chunk.shape, torch.nan)

    with pytest.raises(ValueError, match="frame 3 holds NaN"):
        save_clip(tmp_path / "a.mp4", clip_of(frames, 120), Encoding())
    assert max(decoded) <= 3 + WAITING
    assert list(tmp_path.iterdir()) == []
    assert encoders() == []


def test_the_first_error_is_the_one_that_is_raised():
    """A decoder that fails after the disk was full is no news."""
    failed = threading.Event()

    def job(check):
        failed.set()
        raise OSError("the disk is full")

    def decode():
        with EncoderThread() as encoder:
            encoder.submit(job)
            assert failed.wait(LONG_S)
            raise ValueError("no frames")

    with pytest.raises(OSError, match="the disk is full"):
        decode()


@pytest.mark.parametrize("error", [ValueError("a latent is damaged"), KeyboardInterrupt(), GeneratorExit()])
def test_an_error_of_the_decoder_stops_the_encoder_before_its_next_frame(error):
    started, decoded, written = threading.Event(), threading.Event(), []

    def job(check):
        for frame in range(1000):
            check()
            written.append(frame)
            started.set()
            assert decoded.wait(LONG_S)
        return 1000

    def decode():
        with EncoderThread() as encoder:
            encoder.submit(job)
            encoder.submit(job)
            assert started.wait(LONG_S)
            # The thread goes on when the block is left.
            ending = threading.Timer(0.05, decoded.set)
            ending.start()
            raise error

    with pytest.raises(type(error)) as raised:
        decode()
    assert raised.value is error
    assert written == [0]
    assert encoders() == []


def test_an_error_of_the_decoder_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"the old film")

    def frames(as_bytes):
        yield from chunks(2)
        raise RuntimeError("the device is lost")

    with pytest.raises(RuntimeError, match="the device is lost"):
        save_clip(path, clip_of(frames), Encoding())
    assert path.read_bytes() == b"the old film"
    assert [one.name for one in tmp_path.iterdir()] == ["a.mp4"]


@pytest.mark.skipif(os.name != "posix", reason="signals are those of POSIX")
def test_an_interrupt_while_the_caller_waits_ends_both(tmp_path):
    """The encoder is stuck until it is told to stop; the caller waits for it."""

    def job(check):
        os.kill(os.getpid(), signal.SIGINT)
        while True:
            check()

    def wait():
        with EncoderThread() as encoder:
            encoder.submit(job)

    with pytest.raises(KeyboardInterrupt):
        wait()
    assert encoders() == []


def test_a_report_that_raises_stops_the_encoder(tmp_path):
    class Cancelled(Exception):
        pass

    def cancel(done: int, total: int) -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        save_clip(tmp_path / "a.mp4", clip_of(lambda as_bytes: iter(chunks())), Encoding(), on_frames=cancel)
    assert list(tmp_path.iterdir()) == []
    assert encoders() == []


def test_stdout_is_written_in_the_thread_of_the_caller(monkeypatch, tmp_path):
    """There a signal ends a write that nobody reads."""
    threads = set()

    class Reader:
        def write(self, data):
            threads.add(threading.current_thread())
            return len(data)

    monkeypatch.setattr("ltx2_core.media.writer.stdout", Reader)
    save_clip(Destination.of("-", "mkv"), clip_of(lambda as_bytes: iter(chunks())), Encoding())
    assert threads == {threading.current_thread()}


def test_waiting_for_the_encoder_is_timed_as_encoding(tmp_path):
    names = []

    class Timing:
        def __init__(self, name: str) -> None:
            names.append((name, threading.current_thread()))

        def __enter__(self) -> None: ...

        def __exit__(self, *error: object) -> None: ...

    save_clip(tmp_path / "a.mp4", clip_of(lambda as_bytes: iter(chunks())), Encoding(), timed=Timing)
    assert set(names) == {("encode", threading.current_thread())}


def test_images_are_written_in_order(tmp_path: Path):
    save_clip(f"{tmp_path}/frames/", clip_of(lambda as_bytes: iter(chunks(2)), 6, audio=False), Encoding())
    found = torch.stack(list(read_video(tmp_path / "frames").frames()))
    assert torch.equal(found, torch.cat(chunks(2)))
