"""A making of the set that goes on from an existing one, with its weights in place of new ones."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence

from safetensors import safe_open

from ...tiny.write import TinySet
from .run import Run, save_tensors

PREFIXES = {
    "video-code": ("vae.encoder.", "vae.per_channel_statistics."),
    "video-encoder": ("vae.encoder.", "vae.per_channel_statistics."),
    "video-decoder": ("vae.decoder.", "vae.per_channel_statistics."),
    "audio-vae": ("audio_vae.",),
    "vocoder": ("vocoder.",),
    "transformer": ("model.diffusion_model.", "text_embedding_projection."),
}
"""Names in a single file of what each part holds; the encoder stands for the code that it has learnt."""

_FOUNDATIONS = ("text", "video-code", "audio-vae", "vocoder")


def start_from(run: Run, models: TinySet, stages: Sequence[str]) -> None:
    """Lay out the parts of ``models`` in ``run``: finished ones, and for ``stages`` what they begin with.

    What is there already stays, so that a run that was stopped can be given the same arguments again. Raises
    ValueError for a set of other widths and for stages that cannot begin with weights.
    """
    fresh = [stage for stage in stages if stage in _FOUNDATIONS]
    if fresh:
        raise ValueError(
            f"{', '.join(fresh)}: every other part depends on these, so they are made from nothing; leave "
            "out --from, or name other stages"
        )
    with safe_open(models.checkpoint, framework="pt") as file:
        config = json.loads(file.metadata()["config"])
        if config != run.scale.config:
            raise ValueError(f"{models.checkpoint} is not of the sizes that this scale makes: give no --from")
        for part, prefixes in PREFIXES.items():
            path = run.start(part) if part in stages else run.part(part)
            names = [name for name in file.keys() if name.startswith(prefixes)]  # noqa: SIM118 (no mapping)
            if not path.exists():
                save_tensors(path, {name: file.get_tensor(name) for name in names})
    if not run.models.text_encoder.exists():
        shutil.copytree(models.text_encoder, run.models.text_encoder)
    if "upsampler" not in stages and not run.models.upsampler.exists():
        run.models.upsampler.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(models.upsampler, run.models.upsampler)
