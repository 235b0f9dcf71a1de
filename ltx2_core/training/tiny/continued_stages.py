"""The stages of ``ltx2 train tiny --generation 2.5``: from a trained set of LTX-2.3 to one of LTX-2.5.

Encoder, audio networks and most of the transformer stay those of the set that is continued. The result is
written twice: as a whole set, and as the few tensors that differ, which the package embeds.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable

import torch
from safetensors.torch import load_file
from torch import nn

from ... import config as cfg
from ...loading.detect import OFFICIAL_PREFIXES, Component
from ...text.duration import DurationHead
from ...tiny.continued import CHANGES, VERSION, compose
from ...tiny.write import TinySet
from ...video_vae import DiffusionVAE
from ..autoencoders.diffusion_decoder import train_diffusion_decoder
from ..autoencoders.linear_diffusion import start_linear_diffusion
from ..continued import (
    absorb_biases,
    freeze_but_video,
    is_changed,
    refit_projection,
    start_continued,
)
from ..flow import draw_flow, flow_loss
from ..loop import step_generator
from ..network import FlowNetwork
from ..text import batch_text, encode_captions, load_text
from ..world import caption, sample_scene
from .duration import (
    TextEncoder,
    held_out_frames,
    new_duration_head,
    timed_contexts,
    train_duration_head,
)
from .duration_start import start_at_words
from .flow_stages import flow_network, latent_cache, load_flow, stage_latents, train_transformer
from .gemma import GEMMA_LAYERS, GEMMA_WIDTH, write_world_gemma4
from .run import Run, prefixed, save_tensors, without_prefix
from .scales import Continued


def stage_text(run: Run) -> None:
    """Write the text encoder, a Gemma 4: a translation of the Gemma 3 of the set that is continued."""
    write_world_gemma4(run.models.text_encoder, _base(run).text_encoder, prompts=run.prompts, seed=run.seed)


def stage_diffusion_decoder(run: Run) -> None:
    """Train the diffusion decoder, which starts as the linear inverse of the video encoder, and write it."""
    scale = _continued(run)
    recipe, state = run.sized("diffusion-decoder", scale.decoder), run.state("diffusion-decoder")
    vae = DiffusionVAE(cfg.video_vae_config(scale.diffusion_config))
    tensors = without_prefix("vae.", load_file(run.part("video-encoder")))
    vae.load_state_dict(tensors, strict=False)
    vae.requires_grad_(False)
    # A state to resume from replaces the initial weights, so fitting them would be wasted minutes.
    if not state.exists():
        start_linear_diffusion(vae.decoder, vae, sizes=scale.inverse_sizes, seed=run.seed)
    train_diffusion_decoder(vae.to(run.device), state, recipe=recipe, seed=run.seed, options=run.options())
    run.check_finished("diffusion-decoder", recipe.total_steps)
    save_tensors(run.part("diffusion-decoder"), prefixed("decoder.", vae.decoder))


def stage_initial(run: Run) -> None:
    """Write the transformer from which training starts: the continued one, fitted to what is new in LTX-2.5.

    Its text projection reads the new text encoder, and its video feed-forwards have no biases.
    """
    recipe, scale = run.scale.transformer, _continued(run)
    network, old = flow_network(run), _old_network(run)
    start_continued(network, old.state_dict())
    _refit(run, network, old)
    cache, unconditional = latent_cache(run), run.unconditional()

    def run_on_clips(model: FlowNetwork) -> None:
        for number in range(scale.fit_batches):
            generator = step_generator(run.seed, number)
            sample = cache.batch(recipe.batch, generator)
            batch = draw_flow(sample, recipe.options, unconditional, generator, context_length=32)
            flow_loss(model, batch, recipe.options)

    absorb_biases(network, old, run_on_clips)
    save_tensors(run.part("initial"), network.tensors())


def stage_transformer(run: Run) -> None:
    """Train the video part of the transformer further, with keyframes, and write the whole transformer."""
    network = flow_network(run)
    load_flow(network, run.part("initial"))
    freeze_but_video(network)
    train_transformer(run, network)


def _old_network(run: Run) -> FlowNetwork:
    """The transformer that is continued, with its connectors and text projection."""
    with_biases = dict(run.scale.config["transformer"]) | {"ff_bias": True}
    config = {**run.scale.config, "transformer": with_biases | {"use_keyframes_abs_pos_embedding": False}}
    network = FlowNetwork(config, hidden_size=GEMMA_WIDTH, num_states=GEMMA_LAYERS + 1, seed=run.seed)
    load_flow(network, run.start("transformer"))
    return network.to(run.device)


def _refit(run: Run, network: FlowNetwork, old: FlowNetwork) -> None:
    """Fit the text projection of ``network`` to the new text encoder, and copy it into ``old``, in place.

    ``old`` is the transformer that is continued, with its text projection, whose features are the target.
    """
    captions = [*run.prompts, *(caption(sample_scene(n), n) for n in range(_continued(run).captions))]
    folders = run.models.text_encoder, _base(run).text_encoder
    states, old_states = (batch_text(encode_captions(*load_text(f), captions).all()) for f in folders)
    refit_projection(network.projection.cpu(), old.projection.cpu(), states, old_states)
    # Both networks read the hidden states of the new text encoder, which the dataset has.
    old.projection.load_state_dict(network.projection.state_dict())
    network.to(run.device)
    old.to(run.device)


def stage_duration_head(run: Run) -> None:
    """Train the duration head, which reads how long a clip should be from the prompt, and write it.

    The networks that encode the prompt have their final weights from the start.
    """
    recipe, state = run.sized("duration-head", _continued(run).duration), run.state("duration-head")
    network = flow_network(run)
    load_flow(network, run.part("initial"))
    network.requires_grad_(False)
    text = TextEncoder(*load_text(run.models.text_encoder))
    network, head = network.cpu(), _new_head(run)
    contexts, examples = timed_contexts(network, text, recipe)
    if not state.exists():
        start_at_words(head, examples)

    def evaluate(_model: nn.Module, _step: int) -> dict[str, float]:
        return {"frames": held_out_frames(head, network, text)}

    options = run.options()
    train_duration_head(
        head, contexts, state, recipe=recipe, seed=run.seed, options=options, evaluate=evaluate
    )
    run.check_finished("duration-head", recipe.total_steps)
    prefix = OFFICIAL_PREFIXES[Component.DURATION_HEAD]
    save_tensors(run.part("duration-head"), prefixed(prefix, head))


def _new_head(run: Run) -> DurationHead:
    config = _continued(run).duration_config
    widths = config["transformer"]
    video, audio = widths["cross_attention_dim"], widths["audio_cross_attention_dim"]
    return new_duration_head(cfg.duration_head_config(config, video_dim=video, audio_dim=audio), run.seed)


def stage_export(run: Run) -> None:
    """Write the new set twice: the tensors that differ from the set that is continued, and all files.

    Tensors are bfloat16, except those of the duration head.
    """
    scale, beside = _continued(run), TinySet.in_folder(run.changes, "2.5")
    tensors = {n: t for n, t in load_file(run.part("transformer")).items() if is_changed(n)}
    metadata = {"config": json.dumps(run.scale.config), "vae_config": json.dumps(scale.diffusion_config)}
    tensors |= load_file(run.part("diffusion-decoder"))
    save_tensors(run.changes / CHANGES, tensors, dtype=torch.bfloat16, metadata=metadata)
    assert beside.duration_head is not None
    head = {"config": json.dumps(scale.duration_config), "model_version": VERSION}
    # In float32: it is small, and bfloat16 would shift the length by a frame.
    save_tensors(beside.duration_head, load_file(run.part("duration-head")), metadata=head)
    shutil.copytree(run.models.text_encoder, beside.text_encoder, dirs_exist_ok=True)
    compose(_base(run), run.changes, run.folder / "models")


def _base(run: Run) -> TinySet:
    assert run.base is not None
    return run.base


def _continued(run: Run) -> Continued:
    assert run.scale.continued is not None
    return run.scale.continued


CONTINUED_STAGES: dict[str, Callable[[Run], None]] = {
    "text": stage_text,
    "diffusion-decoder": stage_diffusion_decoder,
    "latents": stage_latents,
    "initial": stage_initial,
    "transformer": stage_transformer,
    "duration-head": stage_duration_head,
    "export": stage_export,
}
"""All stages of LTX-2.5, in the order in which they run."""

CONTINUED_NEEDS: dict[str, tuple[str, ...]] = {
    "text": (),
    "diffusion-decoder": (),
    "latents": ("text",),
    "initial": ("text", "latents"),
    "transformer": ("text", "latents", "initial"),
    "duration-head": ("text", "initial"),
    "export": ("text", "diffusion-decoder", "transformer", "duration-head"),
}
"""The stages whose outputs a stage reads."""
