"""Time and memory of transformer, decoder and LoRA on a device, against the limits of its own rates."""

from __future__ import annotations

import time
from dataclasses import replace

import torch
from gpu_machine import Machine
from rows import Row
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ltx2_core.conditioning.patchify import audio_positions, video_positions
from ltx2_core.kernels.language import problem
from ltx2_core.memory import BlockStreaming, plan_memory, released_size
from ltx2_core.shapes import plan_clip
from ltx2_core.transformer import Modality, Network, RopeTables, Runner, Transformer
from ltx2_core.transformer.fp8 import fp8_problem, kernel_product, use_fp8
from ltx2_core.transformer.fused import Fused
from ltx2_core.transformer.graphs import Graphs
from ltx2_core.video_vae import VideoDecoder

SIZES = {"384x256x121": (384, 256, 121), "768x512x121": (768, 512, 121), "1920x1088x121": (1920, 1088, 121)}
TINY_SIZES = {"128x64x9": (128, 64, 9)}
TEXT = 1024
Inputs = tuple[Modality, Modality, RopeTables]


class Bench(Machine):
    """One network for all rows, on a machine whose rates have been measured."""

    def __init__(self, device: str, *, tiny: bool, repeats: int) -> None:
        super().__init__(device, tiny=tiny, repeats=repeats)
        self.sizes = TINY_SIZES if tiny else SIZES
        self.resident: dict[str, float] = {}
        self.one_by_one: dict[str, float] = {}
        """Size -> milliseconds of two passes of guidance, one after the other."""
        self.results: dict[tuple[str, bool], torch.Tensor] = {}
        """Size and whether the first frame is given -> the eager network's video velocities, on the CPU."""
        self.kernels = Fused()

    def build(self) -> Transformer:
        model = Transformer(self.config, dtype=self.dtype, device=self.device).eval().requires_grad_(False)
        for parameter in model.parameters():
            parameter.normal_(std=0.02)
        return model

    def inputs(self, size: str, *, image: bool = False, batch: int = 1) -> Inputs:
        clip = plan_clip(*self.sizes[size][:2], frames=self.sizes[size][2])
        grid = (clip.latent_frames, clip.latent_height, clip.latent_width)
        sigma = torch.full((batch,), 0.7, device=self.device)
        streams: list[Modality] = []
        for positions, width in (
            (video_positions(*grid, clip.fps), self.config.dim),
            (audio_positions(clip.audio_latents), self.config.audio_dim),
        ):
            generator = torch.Generator(self.device).manual_seed(len(streams))
            tokens = positions.shape[2]
            shapes = (batch, tokens, 128), (batch, TEXT if not self.tiny else 8, width)
            x, text = (
                torch.randn(s, generator=generator, device=self.device, dtype=self.dtype) for s in shapes
            )
            times = torch.full((1, tokens), 0.7)
            times[:, : grid[1] * grid[2]] = 0
            streams.append(
                Modality(
                    tokens=x,
                    timesteps=times if image and not streams else sigma[:, None].cpu(),
                    sigma=sigma,
                    positions=positions.to(self.device),
                    context=text,
                )
            )
        tables = Transformer(replace(self.config, num_layers=0), device="meta").rope_tables(
            streams[0].positions, streams[1].positions, dtype=self.dtype, device=self.device
        )
        return streams[0], streams[1], tables

    def floor(self, size: str, rate: float) -> float:
        """Least seconds of a forward pass: its products at ``rate``, its attention at the measured rate."""
        clip = plan_clip(*self.sizes[size][:2], frames=self.sizes[size][2])
        counts = []
        for layers in (1, 2):
            model = Transformer(replace(self.config, num_layers=layers), device="meta", dtype=self.dtype)
            streams = [
                Modality(
                    tokens=torch.empty(1, n, 128, device="meta", dtype=self.dtype),
                    timesteps=torch.full((1, 1), 0.7),
                    sigma=torch.empty(1, device="meta"),
                    positions=torch.empty(1, axes, n, 2, device="meta"),
                    context=torch.empty(1, TEXT, width, device="meta", dtype=self.dtype),
                )
                for n, axes, width in (
                    (clip.video_tokens, 3, self.config.dim),
                    (clip.audio_tokens, 1, self.config.audio_dim),
                )
            ]
            with torch.no_grad(), FlopCounterMode(display=False) as counter:
                model(*streams)
            by_kind = {str(k).rpartition(".")[2]: v for k, v in counter.get_flop_counts()["Global"].items()}
            own = sum(v for k, v in by_kind.items() if "bmm" in k or "attention" in k)
            counts.append((sum(by_kind.values()) - own, own))
        layers = self.config.num_layers
        linear, attended = (counts[0][i] + (layers - 1) * (counts[1][i] - counts[0][i]) for i in (0, 1))
        return linear / rate + attended / self.heads

    def step(
        self,
        model: Network,
        size: str,
        *,
        image: bool = False,
        batch: int = 1,
        calls: int = 1,
        rate: float | None = None,
    ) -> Row:
        """Time of a forward pass and of launching it, its peak of memory, and its least time at ``rate``.

        ``difference`` is the largest one of the video velocities from those of the eager network, over their
        largest value. ``model`` is a runner, or a network that is called eagerly. ``image``: the first frame
        is given, as in image to video. ``batch`` is the number of clips in a call, ``calls`` the number of
        calls, ``rate`` that of matrix products, None for the measured one of bfloat16.
        """
        run = model if isinstance(model, Runner) else Runner(model)
        video, audio, tables = self.inputs(size, image=image, batch=batch)
        row: Row = {}

        def once() -> torch.Tensor:
            return [run(video, audio, rope=tables)[0] for _ in range(calls)][-1]

        with torch.inference_mode(), self.peak(row):
            row["ms"] = 1000 * self.seconds(once)
            row["host_ms"] = 1000 * self.launching(once)
            waits = self.waits(once)
            row |= {} if waits is None else {"waits": waits}
            velocity = once().float().cpu()
        eager = self.results.get((size, image))
        if eager is not None and batch == 1:
            row["difference"] = float((velocity - eager).abs().max() / eager.abs().max())
        self.last = velocity
        row["floor_ms"] = 1000 * batch * calls * self.floor(size, self.gemm if rate is None else rate)
        row["ratio"] = row["ms"] / row["floor_ms"]
        return row

    def eager(self, model: Transformer, size: str, *, image: bool = False) -> Row:
        row = self.step(model, size, image=image)
        self.results[size, image] = self.last
        if not image:
            self.resident[size] = row["ms"]
        return row

    def fused(self, model: Transformer, size: str, *, image: bool = False, rate: float | None = None) -> Row:
        row = self.step(Runner(model, fused=self.kernels), size, image=image, rate=rate)
        row["kernels"] = self.kernels.problem or problem(self.device) or "Triton"
        return row

    def guided(self, model: Transformer, size: str, *, together: bool) -> Row:
        """Both passes of guidance by the kernels, one after the other or ``together`` in one call.

        A run has them together with ``--passes-per-call 2``.
        """
        run = Runner(model, fused=self.kernels)
        if not together:
            row = self.step(run, size, calls=2)
            self.one_by_one[size] = row["ms"]
            return row
        row = self.step(run, size, batch=2)
        if size in self.one_by_one:
            row["ratio to one by one"] = row["ms"] / self.one_by_one[size]
        return row

    def chunked(self, model: Transformer, size: str) -> Row:
        return self.step(Runner(model, chunk_tokens=2048 if not self.tiny else 4), size)

    def fp8(self, model: Transformer) -> Row:
        """Convert all blocks but the first and the last to fp8 with a scale for each row, in place."""
        problem = fp8_problem(self.device, self.dtype)
        if problem is not None:
            return {"not measured": problem}
        count = use_fp8(model, kernel_product, fused=self.kernels)
        return {"layers": count, "weights_gb": _bytes(model) / 1e9}

    def graphs(self, model: Transformer, size: str) -> Row:
        """A forward pass as one CUDA graph, over the same kernels launched one by one.

        A run records those of few tokens alone, here any.
        """
        video, audio, tables = self.inputs(size)
        graphs = Graphs(max_tokens=10**6)
        run, recorded = Runner(model), Runner(model, graphs=graphs)
        with torch.inference_mode():
            plain = self.seconds(lambda: run(video, audio, rope=tables), 5)
            replayed = self.seconds(lambda: recorded(video, audio, rope=tables), 5)
            one, other = (r(video, audio, rope=tables)[0].float() for r in (run, recorded))
            apart = float((one - other).abs().max() / one.abs().max())
        if graphs.recorded == 0:
            return {"not measured": graphs.problem or "graphs need CUDA"}
        return {
            "ms": 1000 * replayed,
            "eager_ms": 1000 * plain,
            "ratio to eager": replayed / plain,
            "difference": apart,
        }

    def streamed(self, model: Transformer, size: str, cap_gb: int) -> Row:
        """A forward pass under a memory limit, blocks copied in turn, over one with all blocks resident."""
        if not self.cuda:
            return {"not measured": "no GPU"}
        clip = plan_clip(*self.sizes[size][:2], frames=self.sizes[size][2])
        weights = released_size("2.3")
        plan = plan_memory(cap_gb * 10**9, weights, clips=[clip], dtype=self.dtype)
        model.to("cpu")
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties(self.device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, cap_gb * 1e9 / total), self.device)
        # The plan is that of the released network, which has more blocks than a tiny one.
        resident = 1 if self.tiny else plan.resident_blocks
        streaming = BlockStreaming(model, self.device, resident=resident)
        run = Runner(model, chunk_tokens=plan.chunk_tokens)
        try:
            video, audio, tables = self.inputs(size)
            row: Row = {"resident_blocks": resident, "planned_gb": plan.peak / 1e9}
            torch.cuda.reset_peak_memory_stats()
            with torch.inference_mode():
                row["ms"] = 1000 * self.seconds(lambda: run(video, audio, rope=tables), 2)
            row["peak_gb"] = torch.cuda.max_memory_allocated() / 1e9
            moved = (plan.blocks - plan.resident_blocks) * weights.block_weights
            row["copy_floor_ms"] = 1000 * moved / self.copy
            if size in self.resident:
                row["ratio to resident"] = row["ms"] / self.resident[size]
            return row
        finally:
            streaming.close()
            torch.cuda.set_per_process_memory_fraction(1.0, self.device)

    def decode(self, generation: str, size: str, *, channels_last: bool = False) -> Row:
        vae = released_size(generation).vae  # type: ignore[arg-type]
        if self.tiny:
            vae = replace(vae, decoder_base_channels=8)
        decoder = VideoDecoder(vae, dtype=self.dtype, device=self.device).eval().requires_grad_(False)
        for parameter in decoder.parameters():
            parameter.normal_(std=0.01)
        if channels_last:
            decoder.to(memory_format=torch.channels_last_3d)
        width, height, frames = self.sizes[size]
        latent = torch.randn(
            plan_clip(width, height, frames=frames).video_shape(), device=self.device, dtype=self.dtype
        )
        row: Row = {}

        def run() -> None:
            for piece in decoder.decode_stream(latent):
                ((piece + 1) * 127.5).round_().clamp_(0, 255).to(torch.uint8).cpu()

        with torch.inference_mode(), self.peak(row):
            row["s"] = self.seconds(run, 1)
        row["frames_s"] = frames / row["s"]
        return row

    def lora(self, model: Transformer) -> Row:
        """Merge a LoRA of rank 384 into all layers of the blocks, W += 0.7 B A; bandwidth in GB/s."""
        rank, spent, size = 384, 0.0, 0
        for linear in (m for b in model.transformer_blocks for m in b.modules() if isinstance(m, nn.Linear)):
            a = torch.randn(rank, linear.in_features, device=self.device, dtype=self.dtype)
            b = torch.randn(linear.out_features, rank, device=self.device, dtype=self.dtype)
            self.wait()
            start = time.perf_counter()
            linear.weight.addmm_(b, a, alpha=0.7)
            self.wait()
            spent += time.perf_counter() - start
            linear.weight.addmm_(b, a, alpha=-0.7)
            size += linear.weight.nbytes
        return {"s": spent, "gb_s": 2 * size / spent / 1e9}

    def diffusers(self, model: Transformer, size: str) -> Row:
        """A forward pass of diffusers' transformer with the same weights and inputs, and ours over it."""
        from transformer_step import diffusers_twin, their_forward

        peer = diffusers_twin(self.config, model)
        video, audio, _ = self.inputs(size)
        on_device = [replace(m, timesteps=m.timesteps.to(self.device)) for m in (video, audio)]
        row: Row = {}
        with torch.inference_mode(), self.peak(row):
            row["ms"] = 1000 * self.seconds(their_forward(peer, *on_device))
        if size in self.resident:
            row["ours over it"] = self.resident[size] / row["ms"]
        return row


def _bytes(model: nn.Module) -> int:
    return sum(t.nbytes for t in (*model.parameters(), *model.buffers()))
