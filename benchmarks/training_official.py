"""The official recipe in plain formulas, for a curve that ours must repeat from the same seed.

Written from the description of the official loop: sigmas, noise, positions, losses, LoRA, AdamW, clipping and
schedule are computed here with torch alone; only the transformer itself is shared.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from ltx2_core.loading import Component
from ltx2_core.trainer.cache import Index
from ltx2_core.trainer.models import open_networks
from ltx2_core.training.lora import LoraAdapters
from ltx2_core.training.objective import Clips, GeneratorDraws, losses, prepare, velocities
from ltx2_core.training.objective.objective import official_objective
from ltx2_core.training.schedules import schedule_of
from ltx2_core.training.targets import layer_pattern
from ltx2_core.training.updates import Updates, adamw
from ltx2_core.transformer import Modality, Transformer
from ltx2_core.types import TextContext

SEED, STEPS, RANK, ALPHA, RATE = 42, 20, 8, 16.0, 3e-3
TARGETS = ("to_k", "to_q", "to_v", "to_out.0")
FIRST_FRAME = 0.5
STRATEGY = {
    "name": "flexible",
    "video": {"is_generated": True, "conditions": [{"type": "first_frame", "probability": FIRST_FRAME}]},
    "audio": {"is_generated": True},
}


def curves(dataset: Path) -> tuple[list[float], list[float], float]:
    """The losses of 20 steps by the plain formulas, by ours, and how far the last weights are apart."""
    samples = list(_samples(dataset))
    networks = open_networks((), None, device="cpu")
    with networks.use(Component.TRANSFORMER) as network:
        network.requires_grad_(False)
        first, theirs = _plain(network, samples)
        second, ours = _ours(network, samples)
    apart = max(float((ours[n] - t).norm() / t.norm().clamp(min=1e-12)) for n, t in theirs.items())
    return first, second, apart


def _samples(dataset: Path) -> Iterator[Mapping[str, Tensor]]:
    for entry in Index.load(dataset).entries[:STEPS]:
        clip, text = load_file(dataset / entry.file), load_file(dataset / entry.texts[0])
        yield {
            "video": clip["video"][None],
            "audio": clip["audio"][None],
            "video_text": text["video"][None],
            "audio_text": text["audio"][None],
        }


def _plain(
    network: Transformer, samples: list[Mapping[str, Tensor]]
) -> tuple[list[float], dict[str, Tensor]]:
    pairs = _LowRank(network)
    optimizer = torch.optim.AdamW(pairs.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, STEPS)
    torch.manual_seed(SEED)
    found = []
    for number in range(STEPS):
        sample = samples[number % len(samples)]
        video, audio = sample["video"], sample["audio"]
        _, _, frames, rows, columns = video.shape
        tokens = video.flatten(2).transpose(1, 2)
        sigma, noisy, target = _noised(tokens)
        known = torch.zeros(tokens.shape[:2], dtype=torch.bool)
        if float(torch.rand(1)) < FIRST_FRAME:
            known[:, : rows * columns] = True
        heard = audio.transpose(1, 2).flatten(2)
        audio_sigma, audio_noisy, audio_target = _noised(heard)
        predicted = network(
            Modality(
                tokens=torch.where(known[..., None], tokens, noisy),
                timesteps=torch.where(known, 0.0, sigma[:, None]),
                sigma=sigma,
                positions=_video_positions(frames, rows, columns, 25.0),
                context=sample["video_text"],
            ),
            Modality(
                tokens=audio_noisy,
                timesteps=audio_sigma[:, None].expand(heard.shape[:2]),
                sigma=audio_sigma,
                positions=_audio_positions(audio.shape[2]),
                context=sample["audio_text"],
            ),
        )
        error = (predicted[0] - target).square().mean(-1)
        loss = error[~known].mean() + (predicted[1] - audio_target).square().mean()
        loss.backward()
        nn.utils.clip_grad_norm_(pairs.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        found.append(float(loss.detach()))
    pairs.remove()
    return found, pairs.tensors()


def _ours(network: Transformer, samples: list[Mapping[str, Tensor]]) -> tuple[list[float], dict[str, Tensor]]:
    adapters = LoraAdapters(network, rank=RANK, alpha=ALPHA, targets=layer_pattern(TARGETS), seed=0)
    with torch.no_grad():
        for name, pair in zip(adapters.names, adapters.pairs, strict=True):
            pair.a.copy_(_first_a(name, pair.a.shape[1]))
    updates = Updates(
        optimizer=adamw(list(adapters.parameters()), learning_rate=RATE),
        schedule=schedule_of("linear", STEPS, learning_rate=RATE),
    )
    objective = official_objective(STRATEGY)
    torch.manual_seed(SEED)
    found = []
    for number in range(STEPS):
        sample = samples[number % len(samples)]
        context = TextContext(sample["video_text"], sample["audio_text"])
        clips = Clips(video=sample["video"], audio=sample["audio"], context=context, fps=25.0)
        step = prepare(objective, clips, GeneratorDraws(torch.default_generator))
        loss = losses(objective, step, velocities(network, step)).total.mean()
        updates.add(loss)
        found.append(float(loss.detach()))
    tensors = {name: tensor.clone() for name, tensor in adapters.tensors("").items()}
    adapters.remove()
    return found, tensors


class _LowRank(nn.Module):
    """A LoRA as PEFT has it: W x + alpha / rank * B A x, by hooks."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.names = [
            name
            for name, module in network.named_modules()
            if isinstance(module, nn.Linear) and name.endswith(tuple(f".{end}" for end in TARGETS))
        ]
        layers = dict(network.named_modules())
        self.a = nn.ParameterList(
            nn.Parameter(_first_a(name, layers[name].in_features)) for name in self.names
        )
        self.b = nn.ParameterList(
            nn.Parameter(torch.zeros(layers[name].out_features, RANK)) for name in self.names
        )
        self._hooks = [
            layers[name].register_forward_hook(self._hook(number)) for number, name in enumerate(self.names)
        ]

    def _hook(self, number: int) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
        def add(_module: nn.Module, inputs: tuple[Tensor, ...], out: Tensor) -> Tensor:
            return out + F.linear(F.linear(inputs[0], self.a[number]), self.b[number]) * (ALPHA / RANK)

        return add

    def remove(self) -> None:
        for hook in self._hooks:
            hook.remove()

    def tensors(self) -> dict[str, Tensor]:
        found = {}
        for name, a, b in zip(self.names, self.a, self.b, strict=True):
            found[f"{name}.lora_A.weight"] = a.detach()
            found[f"{name}.lora_B.weight"] = b.detach() * (ALPHA / RANK)
        return found


def _first_a(name: str, inputs: int) -> Tensor:
    """The start of A of a layer, the same in both runs: uniform within 1 / sqrt(inputs)."""
    generator = torch.Generator().manual_seed(sum(name.encode()))
    return (torch.rand(RANK, inputs, generator=generator) * 2 - 1) / math.sqrt(inputs)


def _noised(tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Noise level, noisy tokens and velocity, in the order in which the official trainer draws."""
    mean = 0.95 + (tokens.shape[1] - 1024) * 1.10 / 3072
    normal, uniform, choice = torch.randn(1), torch.rand(1), torch.rand(1)
    low, high = (torch.sigmoid(torch.tensor(mean + shift)) for shift in (-2.5758, 3.0902))
    sigma = (torch.sigmoid(mean + normal) - low) / (high - low)
    sigma = torch.where(sigma < 1e-3, 2e-3 - sigma, sigma).clamp(0, 1)
    sigma = torch.where(choice > 0.1, sigma, (1 - 1e-3) * uniform + 1e-3)
    noise = torch.randn(tokens.shape)
    return sigma, (1 - sigma[:, None, None]) * tokens + sigma[:, None, None] * noise, noise - tokens


def _video_positions(frames: int, rows: int, columns: int, fps: float) -> Tensor:
    found = torch.empty(1, 3, frames, rows, columns, 2)
    for f in range(frames):
        found[0, 0, f] = torch.tensor([max(0, 8 * f - 7), 8 * f + 1], dtype=torch.float32) / fps
    for y in range(rows):
        found[0, 1, :, y] = torch.tensor([32.0 * y, 32.0 * (y + 1)])
    for x in range(columns):
        found[0, 2, :, :, x] = torch.tensor([32.0 * x, 32.0 * (x + 1)])
    return found.flatten(2, 4)


def _audio_positions(length: int) -> Tensor:
    bounds = [[max(0, 4 * t - 3) * 160 / 16000, (4 * t + 1) * 160 / 16000] for t in range(length)]
    return torch.tensor(bounds)[None, None]
