"""The stages of ``ltx2 train tiny --generation 2.5``: from a trained set of LTX-2.3 to one of LTX-2.5.

Encoder, audio networks and most of the transformer stay those of the set that is continued. The result is
written twice: as a whole set, and as the few tensors that differ, which the package embeds.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence

import torch
from safetensors.torch import load_file

from ... import config as cfg
from ...loading.detect import OFFICIAL_PREFIXES, Component
from ...text.duration import DurationHead
from ...tiny.continued import CHANGES, VERSION, compose
from ...tiny.write import TinySet
from ...video_vae import DiffusionVAE
from ..autoencoders.diffusion_decoder import train_diffusion_decoder
from ..autoencoders.linear_diffusion import start_linear_diffusion
from ..continued import absorb_biases, is_changed, refit_projection, start_continued
from ..duration import EncodeText, new_duration_head, train_duration_head
from ..flow import draw_flow, flow_loss
from ..loop import averaged_weights, step_generator
from ..network import FlowNetwork, official_names
from ..text import TextBatch, batch_text, encode_captions, load_text
from ..world import caption, sample_scene
from .diffusion import train_flow
from .flow_stages import flow_network, latent_cache, load_flow, stage_latents
from .gemma import GEMMA_LAYERS, GEMMA_WIDTH, write_world_gemma4
from .run import Run, prefixed, save_tensors, without_prefix
from .scales import Continued


def stage_text(run: Run) -> None:
    """Write the text encoder: that of the set that is continued, as a Gemma 4."""
    write_world_gemma4(run.models.text_encoder, _base(run).text_encoder, prompts=run.prompts, seed=run.seed)


def stage_diffusion_decoder(run: Run) -> None:
    """Set the diffusion decoder to the linear inverse of the video encoder, train it further, and write it."""
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


def stage_transformer(run: Run) -> None:
    """Train transformer and text projection further, with keyframes, and write them with the connectors."""
    recipe, state = run.sized("transformer", run.scale.transformer), run.state("transformer")
    network, cache, unconditional = flow_network(run), latent_cache(run), run.unconditional()
    old = _old_network(run)
    start_continued(network, old.state_dict())
    if not state.exists():
        _refit(run, network, old)

        def run_on_clips(model: FlowNetwork) -> None:
            for number in range(_continued(run).fit_batches):
                generator = step_generator(run.seed, number)
                sample = cache.batch(recipe.batch, generator)
                batch = draw_flow(sample, recipe.options, unconditional, generator, context_length=32)
                flow_loss(model, batch, recipe.options)

        absorb_biases(network, old, run_on_clips)
    train_flow(network, cache, unconditional, state, recipe=recipe, seed=run.seed, options=run.options())
    run.check_finished("transformer", recipe.total_steps)
    save_tensors(run.part("transformer"), official_names(averaged_weights(state)))


def _old_network(run: Run) -> FlowNetwork:
    """The transformer that is continued, with its connectors and text projection."""
    with_biases = dict(run.scale.config["transformer"]) | {"ff_bias": True}
    config = {**run.scale.config, "transformer": with_biases | {"use_keyframes_abs_pos_embedding": False}}
    network = FlowNetwork(config, hidden_size=GEMMA_WIDTH, num_states=GEMMA_LAYERS + 1, seed=run.seed)
    load_flow(network, run.start("transformer"))
    return network.to(run.device)


def _refit(run: Run, network: FlowNetwork, old: FlowNetwork) -> None:
    """Fit the text projection of ``network`` to its text encoder, and give it to ``old``, in place."""
    captions = [*run.prompts, *(caption(sample_scene(n), n) for n in range(_continued(run).captions))]
    folders = run.models.text_encoder, _base(run).text_encoder
    states, old_states = (batch_text(encode_captions(*load_text(f), captions).all()) for f in folders)
    refit_projection(network.projection.cpu(), old.projection.cpu(), states, old_states)
    # The clips of the dataset have the hidden states of the new text encoder.
    old.projection.load_state_dict(network.projection.state_dict())
    network.to(run.device)
    old.to(run.device)


def stage_duration_head(run: Run) -> None:
    """Train the duration head, which reads how long a clip should be from the prompt, and write it."""
    recipe, state = run.sized("duration-head", _continued(run).duration), run.state("duration-head")
    network = flow_network(run)
    load_flow(network, run.part("transformer"))
    network.requires_grad_(False)
    head = _new_head(run).to(run.device)
    train_duration_head(
        head, network, _encoder(run), state, recipe=recipe, seed=run.seed, options=run.options()
    )
    run.check_finished("duration-head", recipe.total_steps)
    prefix = OFFICIAL_PREFIXES[Component.DURATION_HEAD]
    save_tensors(run.part("duration-head"), prefixed(prefix, head))


def _new_head(run: Run) -> DurationHead:
    config = _continued(run).duration_config
    widths = config["transformer"]
    video, audio = widths["cross_attention_dim"], widths["audio_cross_attention_dim"]
    return new_duration_head(cfg.duration_head_config(config, video_dim=video, audio_dim=audio), run.seed)


def _encoder(run: Run) -> EncodeText:
    gemma, tokenizer = load_text(run.models.text_encoder)

    def encode(captions: Sequence[str]) -> TextBatch:
        states = batch_text(encode_captions(gemma, tokenizer, captions).all())
        return states.map(lambda t: t.to(run.device))

    return encode


def stage_export(run: Run) -> None:
    """Write what differs from the set that is continued, and the whole set, in bfloat16."""
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
    "transformer": stage_transformer,
    "duration-head": stage_duration_head,
    "export": stage_export,
}
"""All stages of LTX-2.5, in the order in which they run."""

CONTINUED_NEEDS: dict[str, tuple[str, ...]] = {
    "text": (),
    "diffusion-decoder": (),
    "latents": ("text",),
    "transformer": ("text", "latents"),
    "duration-head": ("text", "transformer"),
    "export": ("text", "diffusion-decoder", "transformer", "duration-head"),
}
"""The stages whose outputs a stage reads."""
