"""How much of the work of a writer hides behind the decoder: the same clip encoded in a thread and in turn.

    python benchmarks/encoder_thread.py

Both ways take turns in one process. A wait stands for the device that decodes, as long for each chunk of
frames as encoding one takes; the CPU is free meanwhile, as it is beside a GPU. Ratios are medians of pairs.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ltx2_core.media import Encoding, VideoWriter
from ltx2_core.media.encoder_thread import Check, EncoderThread

WIDTH, HEIGHT, LENGTH = 768, 512, 8


def moving(chunks: int) -> list[Tensor]:
    """Chunks (8, 3, 512, 768) of slightly noisy frames that move."""
    ramp = torch.linspace(0, 255, WIDTH)
    return [
        (ramp.roll(8 * number) + torch.randint(-12, 13, (LENGTH, 3, HEIGHT, WIDTH)))
        .clamp(0, 255)
        .to(torch.uint8)
        for number in range(chunks)
    ]


def decoded(chunks: list[Tensor], each_s: float) -> Iterator[Tensor]:
    """The chunks, each after a device has computed for ``each_s`` seconds, in which the CPU waits."""
    for chunk in chunks:
        time.sleep(each_s)
        yield chunk


def written(path: Path, chunks: list[Tensor], each_s: float, *, own_thread: bool) -> float:
    """Seconds of decoding and encoding a clip to ``path``."""

    def encode(frames: Tensor, check: Check) -> int:
        writer.write_frames(frames, check=check)
        return writer.frame_count

    encoding = Encoding(encoder_preset="veryfast")
    begun = time.perf_counter()
    writer = VideoWriter(path, width=WIDTH, height=HEIGHT, fps=24, encoding=encoding)
    with writer, EncoderThread(own_thread=own_thread) as encoder:
        for frames in decoded(chunks, each_s):
            encoder.submit(partial(encode, frames))
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--chunks", type=int, default=8)
    parser.add_argument("--pairs", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    chunks = moving(options.chunks)
    shares: list[tuple[float, float, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "clip.mp4")
        for _ in range(options.pairs):
            # Decoding takes as long as encoding does: the most that can be hidden.
            encoding = written(path, chunks, 0, own_thread=False)
            each_s = encoding / len(chunks)
            thread, turn = (written(path, chunks, each_s, own_thread=own) for own in (True, False))
            shares.append((encoding / turn, thread / turn, turn))
    alone, ratio, seconds = (statistics.median(column) for column in zip(*shares, strict=True))
    print("| way | over encoding in turn |")
    print("|---|---|")
    print(f"| decoding and encoding in turn ({seconds:.2f} s) | 1 |")
    print(f"| encoding in a thread while the next frames are decoded | {ratio:.2f} |")
    print(f"| encoding alone, which no way can be below | {alone:.2f} |")


if __name__ == "__main__":
    main()
