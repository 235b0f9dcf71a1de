"""The command ``ltx2 serve``: serves models over HTTP."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from .options import PathType

if TYPE_CHECKING:
    from ..serve.server import Address
    from ..serve.service import Settings

UNUSABLE: Final = 70
"""Exit code if the GPU cannot be used any more, after which a supervisor should start the server again."""
_PACKAGES: Final = ("fastapi", "uvicorn", "python_multipart")
_FILE, _FOLDER = PathType(path_type=Path, dir_okay=False), PathType(path_type=Path, file_okay=False)


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="Port; 0 is a free one."
)
@click.option("--models", type=_FILE, help="JSON file of models: id -> checkpoints, text_encoder, upscaler.")
@click.option(
    "--state", type=_FOLDER, help="Private folder of queue and results.  [default: ~/.local/state/ltx2-serve]"
)
@click.option(
    "--inputs", type=_FOLDER, multiple=True, help="Folder of which clients may name files. Repeatable."
)
@click.option(
    "--loras", type=_FOLDER, multiple=True, help="Folder of which clients may name LoRAs. Repeatable."
)
@click.option("--token-file", type=_FILE, help="File with the token that each request must bring.")
@click.option(
    "--allowed-host", multiple=True, help="Further name by which clients address the server. Repeatable."
)
@click.option(
    "--base-url",
    help="URL that clients use, such as that of a proxy.  [default: as requested]",
)
@click.option(
    "--device", help="Where networks compute, such as cuda:1.  [default: cuda if there is one, else cpu]"
)
@click.option("--dtype", type=click.Choice(["float32", "bfloat16"]), help="Number format of the networks.")
@click.option("--max-memory", help="Device memory that a job may use, such as 24GB.")
@click.option(
    "--held-models",
    type=click.IntRange(1, 64),
    default=1,
    show_default=True,
    help="Most models that stay loaded.",
)
@click.option(
    "--max-queue", type=click.IntRange(1), default=100, show_default=True, help="Most jobs that wait."
)
@click.option(
    "--max-work",
    type=click.FloatRange(1),
    default=5e10,
    show_default=True,
    help="Largest width x height x frames x steps of a job.",
)
@click.option(
    "--max-body",
    type=click.IntRange(1),
    default=64,
    show_default=True,
    help="Largest body of a request, in MiB.",
)
@click.option(
    "--max-upload",
    type=click.IntRange(1),
    default=1024,
    show_default=True,
    help="Largest file that is sent, in MiB.",
)
@click.option(
    "--keep-days",
    type=click.FloatRange(0),
    default=7.0,
    show_default=True,
    help="Days after which results are removed.",
)
@click.option(
    "--keep-gib",
    type=click.FloatRange(0),
    default=50.0,
    show_default=True,
    help="GiB of results, above which the oldest are removed.",
)
@click.option(
    "--job-seconds",
    type=click.FloatRange(1),
    default=3600.0,
    show_default=True,
    help="Most seconds that a job may run.",
)
@click.option(
    "--drain-seconds",
    type=click.FloatRange(0),
    default=600.0,
    show_default=True,
    help="Seconds that a running job has to end after SIGTERM.",
)
def serve(**options: Any) -> None:
    """Serve models over HTTP: the API of ai-toolkit-inference, and jobs of every command.

    Without --models it serves the tiny set of the package. Needs the optional packages of the extra "serve".
    """
    missing = [name for name in _PACKAGES if not _is_installed(name)]
    if missing:
        raise click.ClickException(
            f'ltx2 serve needs {", ".join(missing)}: pip install "comfyui-ltx2[serve]"'
        )
    import logging

    from ..serve.server import serve as run

    logging.basicConfig(level=logging.INFO, format="%(levelname)s:  %(message)s")
    address = _address(options)
    if not run(_settings(options), address):
        sys.exit(UNUSABLE)


def _is_installed(package: str) -> bool:
    try:
        import_module(package)
    except ImportError:
        return False
    return True


def _address(options: dict[str, Any]) -> Address:
    from ..serve.guard import read_token
    from ..serve.server import Address

    token_file: Path | None = options["token_file"]
    return Address(
        host=options["host"],
        port=options["port"],
        token=None if token_file is None else read_token(token_file),
        hosts=tuple(name.lower() for name in options["allowed_host"]),
        base_url=options["base_url"],
        drain_s=options["drain_seconds"],
    )


def _settings(options: dict[str, Any]) -> Settings:
    """The settings of the service. Raises ValueError and OSError for options that are wrong."""
    from ..memory import parse_budget
    from ..run.execution import Execution
    from ..serve.expiry import Retention
    from ..serve.models import read_models
    from ..serve.service import Limits, Settings
    from .values import DTYPES, naming

    with naming("--device"):
        place = Execution.on(options["device"], DTYPES.get(options["dtype"]))
    budget = options["max_memory"]
    with naming("--max-memory"):
        max_memory = None if budget is None else parse_budget(budget, place.device)
    for name in ("inputs", "loras"):
        for folder in options[name]:
            if not folder.is_dir():
                raise ValueError(f"--{name} {folder} is no folder")
    with naming("--models"):
        models = read_models(options["models"])
    return Settings(
        state=options["state"] or _state_folder(),
        models=models,
        execution=Execution(device=place.device, dtype=place.dtype, max_memory=max_memory),
        inputs=options["inputs"],
        loras=options["loras"],
        held=options["held_models"],
        limits=Limits(
            body_bytes=options["max_body"] * 2**20,
            upload_bytes=options["max_upload"] * 2**20,
            queue=options["max_queue"],
            work=options["max_work"],
        ),
        retention=Retention(
            age_s=options["keep_days"] * 86400,
            most_bytes=round(options["keep_gib"] * 2**30),
            job_s=options["job_seconds"],
        ),
    )


def _state_folder() -> Path:
    base = os.environ.get("XDG_STATE_HOME")
    return (Path(base) if base else Path.home() / ".local" / "state") / "ltx2-serve"
