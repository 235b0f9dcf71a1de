"""The command ``ltx2 serve``: serves models over HTTP."""

from __future__ import annotations

import os
import re
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from .options import Chosen, command
from .ray import group_of, ray_runners

if TYPE_CHECKING:
    from ..serve.pool import Holding
    from ..serve.server import Address
    from ..serve.service import Settings

UNUSABLE: Final = 70
"""Exit code if the GPU cannot be used any more, after which a supervisor should start the server again."""
_PACKAGES: Final = ("fastapi", "uvicorn", "python_multipart")


@command("serve")
def serve(chosen: Chosen) -> None:
    """Serve models over HTTP: the API of ai-toolkit-inference, jobs of every command, and a page.

    Without --models it serves what ltx2 models get has downloaded, or else the tiny set of the package. Needs
    the optional packages of the extra "serve".
    """
    missing = [name for name in _PACKAGES if not _is_installed(name)]
    if missing:
        raise click.ClickException(
            f'ltx2 serve needs {", ".join(missing)}: pip install "comfyui-ltx2[serve]"'
        )
    import logging

    from ..serve.server import serve as run

    logging.basicConfig(level=logging.INFO, format="%(levelname)s:  %(message)s")
    address = _address(chosen)
    settings = settings_of(chosen)
    if not run(settings, address, ray_runners(chosen, settings)):
        sys.exit(UNUSABLE)


def _is_installed(package: str) -> bool:
    try:
        import_module(package)
    except ImportError:
        return False
    return True


def _address(chosen: Chosen) -> Address:
    from ..serve.guard import read_tokens
    from ..serve.server import Address

    token_file: Path | None = chosen["token_file"]
    return Address(
        host=chosen["host"],
        port=chosen["port"],
        tokens=() if token_file is None else read_tokens(token_file),
        hosts=tuple(name.lower() for name in chosen["allowed_hosts"]),
        base_url=chosen["base_url"],
        drain_s=chosen["drain_seconds"],
    )


def settings_of(chosen: Chosen) -> Settings:
    """The settings of the service. Raises ValueError and OSError for options that are wrong."""
    from ..serve.expiry import Retention
    from ..serve.models import read_models
    from ..serve.service import Limits, Settings
    from .values import execution_of, naming

    for name, flag in (("input_folders", "--inputs"), ("lora_folders", "--loras")):
        for folder in chosen[name]:
            if not folder.is_dir():
                raise ValueError(f"{flag} {folder} is no folder")
    with naming("--models"):
        models = read_models(chosen["model_list"])
    return Settings(
        state=chosen["state_folder"] or _state_folder(),
        models=models,
        execution=execution_of(chosen, group_of(chosen)),
        inputs=tuple(chosen["input_folders"]),
        loras=tuple(chosen["lora_folders"]),
        url_hosts=_hosts(chosen["url_hosts"]),
        holding=holding_of(chosen),
        limits=Limits(
            body_bytes=chosen["max_body"] * 2**20,
            upload_bytes=chosen["max_upload"] * 2**20,
            queue=chosen["max_queue"],
            work=chosen["max_work"],
            per_client=chosen["per_client"],
        ),
        retention=Retention(
            age_s=chosen["keep_days"] * 86400,
            most_bytes=round(chosen["keep_gib"] * 2**30),
            job_s=chosen["job_seconds"],
        ),
    )


def _hosts(names: tuple[str, ...]) -> tuple[str, ...]:
    """The hosts of --allow-urls. Raises ValueError for what is none, such as a whole URL."""
    for name in names:
        if not re.fullmatch(r"\*|(\*\.)?[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+", name):
            raise ValueError(
                f"--allow-urls {name} must be a host, such as example.com, *.example.com, or * for any"
            )
    return tuple(name.lower() for name in names)


def holding_of(chosen: Chosen) -> Holding:
    """Which models stay loaded. Raises ValueError that names the flag."""
    from ..memory import parse_size
    from ..serve.pool import Holding
    from .values import naming

    most, text = chosen["held_models"], chosen["held_memory"]
    with naming("--held-memory"):
        memory = None if text is None else parse_size(text)
    # The replicas of a machine do not know of each other.
    return Holding(most=1 if most is None and chosen["ray"] else most, memory=memory)


def _state_folder() -> Path:
    base = os.environ.get("XDG_STATE_HOME")
    return (Path(base) if base else Path.home() / ".local" / "state") / "ltx2-serve"
