"""Peak memory of long clips: a tiny clip of 60 s over one of 5 s, each in a process of its own.

    python benchmarks/long_video.py

The peer is the shortest clip: ``ratio`` is the peak over its peak, and the exit code is 1 above the limit.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LIMIT = 1.05
SIZE, FPS = 64, 8.0
WINDOW, OVERLAP = 33, 16


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, nargs="+", default=[5.0, 60.0], help="lengths to compare")
    parser.add_argument("--one", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one is not None:
        print(json.dumps(measure(options.one)))
        return
    rows = [in_a_process(seconds) for seconds in options.seconds]
    print("| seconds | windows | frames | peak MiB | ratio | CPU s | file s |\n|---|---|---|---|---|---|---|")
    for seconds, row in zip(options.seconds, rows, strict=True):
        ratio = row["peak"] / rows[0]["peak"]
        print(
            f"| {seconds:g} | {row['windows']} | {row['frames']} | {row['peak'] / 2**20:.0f} | {ratio:.3f} | "
            f"{row['cpu_s']:.0f} | {row['video_s']:.3f} video, {row['audio_s']:.3f} audio |"
        )
    worst = max(row["peak"] for row in rows) / rows[0]["peak"]
    print(f"largest over shortest: {worst:.3f}, limit {LIMIT}")
    raise SystemExit(worst > LIMIT)


def in_a_process(seconds: float) -> dict[str, float]:
    command = [sys.executable, __file__, "--one", str(seconds)]
    ran = subprocess.run(command, check=True, capture_output=True, text=True)
    figures: dict[str, float] = json.loads(ran.stdout.splitlines()[-1])
    return figures


def measure(seconds: float) -> dict[str, float]:
    """Generate and save a clip with random tiny weights; returns its figures, memory in bytes."""
    import av
    import torch

    from ltx2_core import LTX2Pipeline
    from ltx2_core.editing import LongVideo, long_video
    from ltx2_core.tiny.write import write_tiny_set

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        files = write_tiny_set(Path(folder), dtype=torch.float32)
        pipeline = LTX2Pipeline(files.checkpoint, text_encoder=files.text_encoder, keep_loaded=True)
        windows = []
        started = time.process_time()
        clip = long_video(
            pipeline,
            "0: a red ball\n2: a blue square",
            how=LongVideo(window_frames=WINDOW, overlap_frames=OVERLAP, adain_factor=0.3),
            folder=Path(folder) / "state",
            on_window=lambda done, total: windows.append(total),
            width=SIZE,
            height=SIZE,
            seconds=seconds,
            fps=FPS,
            steps=1,
            cfg=1.0,
        )
        out = Path(folder) / "clip.mp4"
        clip.save(out)
        cpu_s = time.process_time() - started
        with av.open(str(out)) as file:
            frames = sum(1 for _ in file.decode(video=0))
        with av.open(str(out)) as file:
            samples = sum(frame.samples for frame in file.decode(audio=0))
            audio_s = samples / file.streams.audio[0].rate
    return {
        "windows": len(windows),
        "frames": frames,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "cpu_s": cpu_s,
        "video_s": frames / FPS,
        "audio_s": audio_s,
    }


if __name__ == "__main__":
    main()
