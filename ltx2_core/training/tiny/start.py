"""Start of a training run from the weights of an existing set instead of random ones."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence

from safetensors import safe_open

from ...tiny.write import TinySet
from .continued_scales import config_25
from .run import Run, save_tensors

PREFIXES = {
    "video-code": ("vae.encoder.", "vae.per_channel_statistics."),
    "video-encoder": ("vae.encoder.", "vae.per_channel_statistics."),
    "video-decoder": ("vae.decoder.", "vae.per_channel_statistics."),
    "audio-vae": ("audio_vae.",),
    "vocoder": ("vocoder.",),
    "transformer": ("model.diffusion_model.", "text_embedding_projection."),
}
"""Prefixes, in a single file, of the tensors of each part; the encoder stands for the video code it has
learnt."""

_FOUNDATIONS = ("text", "video-code", "audio-vae", "vocoder")


def start_from(run: Run, models: TinySet, stages: Sequence[str]) -> None:
    """Copy the networks of a trained model set, ``models``, into the folder of ``run``.

    ``stages`` names the networks to train further: their copies are initial weights. The copies of all others
    count as finished. Existing files stay, so that a stopped run can be resumed with the same arguments.
    Raises ValueError if the set has other widths than the scale of ``run``, or if ``stages`` names a network
    on which every other one depends and which therefore must not change.
    """
    foundations = [stage for stage in stages if stage in _FOUNDATIONS]
    if foundations:
        raise ValueError(
            f"{', '.join(foundations)}: every other part depends on these, so they cannot start from a set; "
            "leave out --from, or name other stages"
        )
    with safe_open(models.checkpoint, framework="pt") as file:
        config = json.loads(file.metadata()["config"])
        # Whole configurations are compared: weights of other widths would fail only when a stage loads them,
        # late in the run.
        if config != run.scale.config:
            raise ValueError(f"{models.checkpoint} has other widths than this scale: leave out --from")
    _copy_parts(run, models, stages)
    if not run.models.text_encoder.exists():
        shutil.copytree(models.text_encoder, run.models.text_encoder)
    # The upsampler has a file of its own and so no prefix above.
    if "upsampler" not in stages and not run.models.upsampler.exists():
        run.models.upsampler.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(models.upsampler, run.models.upsampler)


def start_continued_from(run: Run, models: TinySet) -> None:
    """Copy the networks of ``models``, a trained set of LTX-2.3, into the folder of ``run``, one of LTX-2.5.

    The transformer's copy is its initial weights; the others stay as they are. Existing files stay. Raises
    ValueError if the set has other widths than the scale of ``run``.
    """
    with safe_open(models.checkpoint, framework="pt") as file:
        config = json.loads(file.metadata()["config"])
    if config_25(config) != run.scale.config:
        raise ValueError(
            f"{models.checkpoint} has other widths than the embedded set of 2.3, which --generation 2.5 "
            "continues: name a set of the same widths by --from, or leave it out"
        )
    _copy_parts(run, models, ("transformer",))


def _copy_parts(run: Run, models: TinySet, stages: Sequence[str]) -> None:
    """Copy the tensors of each network in the checkpoint of ``models`` to a file of its own if there is none.

    ``stages`` names the networks whose copies are initial weights.
    """
    with safe_open(models.checkpoint, framework="pt") as file:
        for part, prefixes in PREFIXES.items():
            path = run.start(part) if part in stages else run.part(part)
            names = [name for name in file.keys() if name.startswith(prefixes)]  # noqa: SIM118 (no mapping)
            if not path.exists():
                save_tensors(path, {name: file.get_tensor(name) for name in names})
