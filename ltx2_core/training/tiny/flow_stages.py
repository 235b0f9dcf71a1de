"""The stages of ``ltx2 train tiny`` by flow matching: dataset of latents, transformer, and two LoRAs."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from safetensors.torch import load_file

from ..latents import LatentCache
from ..loop import averaged_weights
from ..lora import LoraAdapters, save_lora
from ..network import FlowNetwork, official_names
from ..text import load_text
from .autoencoder_stages import audio_pair, code_of
from .diffusion import LoraRecipe, StepOf, distilled_step, edges_step, load_averaged, train_flow, train_lora
from .gemma import GEMMA_LAYERS, GEMMA_WIDTH
from .latents import Encoders, write_latents
from .run import Run, save_tensors

logger = logging.getLogger(__name__)


def stage_latents(run: Run) -> None:
    """Write the dataset: encode the clips of all buckets (one per clip size) and their captions."""
    folder = run.folder / "latents"

    def on_shard(done: int, count: int) -> None:
        logger.info("latents: %d of %d shards", done, count)
        if done < count:
            run.check_time()

    write_latents(
        folder,
        run.scale.buckets,
        partial(_encoders, run),
        shard_clips=run.scale.shard_clips,
        workers=run.workers,
        on_shard=on_shard,
    )
    # Shards of an unfinished run exist too, so a file of its own marks the end.
    (folder / "complete").touch()


def _encoders(run: Run) -> Encoders:
    gemma, tokenizer = load_text(run.models.text_encoder)
    return Encoders(video=code_of(run), audio=audio_pair(run).encoder, gemma=gemma, tokenizer=tokenizer)


def stage_transformer(run: Run) -> None:
    """Train transformer, text connectors and text projection by flow matching, and write them."""
    network = flow_network(run)
    if run.start("transformer").exists():
        load_flow(network, run.start("transformer"))
    train_transformer(run, network)


def train_transformer(run: Run, network: FlowNetwork) -> None:
    """Train ``network`` in place on the latents of ``run`` by flow matching, and write its averaged weights.

    Parameters that need no gradient do not change. Raises Unfinished if the time limit of ``run`` ends it
    early.
    """
    recipe, state = run.sized("transformer", run.scale.transformer), run.state("transformer")
    began = time.monotonic()
    train_flow(
        network,
        latent_cache(run),
        run.unconditional(),
        state,
        recipe=recipe,
        seed=run.seed,
        options=run.options(),
    )
    spent = time.monotonic() - began
    run.check_finished("transformer", recipe.total_steps, after=spent, seconds=recipe.seconds)
    save_tensors(run.part("transformer"), official_names(averaged_weights(state)))


def stage_distilled(run: Run) -> None:
    """Train and write the distilled LoRA, with which the model samples in eight steps without guidance."""
    _train_lora(run, "distilled", run.scale.distilled, distilled_step, run.distilled)


def stage_edges(run: Run) -> None:
    """Train and write the IC-LoRA that follows a control video of edges."""
    # Readers of IC-LoRAs recognise them by this key.
    metadata = {"reference_downscale_factor": "1"}
    _train_lora(run, "edges", run.scale.edges, edges_step, run.edges, metadata)


def _train_lora(
    run: Run,
    stage: str,
    recipe: LoraRecipe,
    step_of: StepOf,
    path: Path,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Train a LoRA on the frozen model and write it to ``path``, with ``metadata`` in its header.

    ``stage`` names the run's training state, ``step_of`` builds the step function.
    """
    network, adapters = _adapted(run, recipe)
    flow, state = run.sized(stage, recipe.flow), run.state(stage)
    train_lora(
        step_of,
        network,
        adapters,
        latent_cache(run),
        run.unconditional(),
        state,
        recipe=flow,
        seed=run.seed,
        options=run.options(),
    )
    run.check_finished(stage, flow.total_steps)
    load_averaged(adapters, state)
    save_lora(path, adapters.tensors(), metadata=metadata)


def flow_network(run: Run) -> FlowNetwork:
    network = FlowNetwork(
        run.scale.config, hidden_size=GEMMA_WIDTH, num_states=GEMMA_LAYERS + 1, seed=run.seed
    )
    return network.to(run.device)


def load_flow(network: FlowNetwork, path: Path) -> None:
    tensors = load_file(path)
    # ``tensors()`` has the order of the state dict and changes names only.
    own = {name: tensors[full] for name, full in zip(network.state_dict(), network.tensors(), strict=True)}
    network.load_state_dict(own, strict=True)


def _adapted(run: Run, recipe: LoraRecipe) -> tuple[FlowNetwork, LoraAdapters]:
    """Load the trained network, and put new LoRA adapters on its transformer; returns both."""
    network = flow_network(run)
    load_flow(network, run.part("transformer"))
    return network, LoraAdapters(network.transformer, rank=recipe.rank, targets=recipe.targets, seed=run.seed)


def latent_cache(run: Run) -> LatentCache:
    return LatentCache(run.folder / "latents", run.scale.buckets, run.device)
