"""Services with the tiny random model set, whose folders are those of the test."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from ltx2_core.run.distributed import Processes
from ltx2_core.run.execution import Execution
from ltx2_core.serve.models import ServedModel
from ltx2_core.serve.service import Service, Settings
from ltx2_core.serve.store import JobStore

MOST_S = 1800
"""Seconds after which a test gives up; a machine that does much else at the same time is slow."""
SMALL = {"width": 64, "height": 64, "num_frames": 9, "fps": 8, "steps": 2, "stages": 1, "cfg": 1.0}
"""Fields of a request that takes a moment."""
ENDLESS = 10_000
"""Steps of a job that is surely still sampled when a test stops it, however late the machine lets it."""


@pytest.fixture(autouse=True)
def no_released_models(monkeypatch, tmp_path_factory) -> None:
    """Without the released models of the machine that runs the tests."""
    monkeypatch.delenv("LTX2_MODELS", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "no-cache"))


@pytest.fixture(scope="session")
def models(tiny_set) -> dict[str, ServedModel]:
    files = ServedModel(
        id="ltx2",
        base_model="tiny",
        checkpoints=(tiny_set.checkpoint,),
        text_encoder=tiny_set.text_encoder,
        upscaler=tiny_set.upsampler,
    )
    return {"ltx2": files}


def settings_in(
    folder: Path, models: dict[str, ServedModel], *, processes: Processes | None = None, **more: Any
) -> Settings:
    """Settings with all folders below ``folder``; ``processes`` make each clip, None for one."""
    for name in ("inputs", "loras"):
        (folder / name).mkdir()
    return Settings(
        state=folder / "state",
        models=models,
        execution=Execution.on("cpu", torch.float32, processes=processes or Processes()),
        inputs=(folder / "inputs",),
        loras=(folder / "loras",),
        **more,
    )


@pytest.fixture
def settings(tmp_path, models) -> Settings:
    return settings_in(tmp_path, models)


@pytest.fixture
def store(tmp_path) -> Iterator[JobStore]:
    """An empty queue in the folder of the test."""
    store = JobStore(tmp_path / "jobs.sqlite")
    yield store
    store.close()


@pytest.fixture
def service(settings) -> Iterator[Service]:
    """A service whose worker has not been started."""
    service = Service(settings)
    yield service
    service.drain(0)
    service.close()


def spec(**request: Any) -> dict[str, Any]:
    """The spec of a job that generates one small clip."""
    fields = {"prompt": "a red ball", "seed": 3, **SMALL, **request}
    return {"model": "ltx2", "clips": [{"command": "generate", "request": fields, "loras": []}]}


def wait_for(condition: Callable[[], Any], seconds: float = MOST_S) -> Any:
    """What ``condition`` returns once it is true."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)
    return value


def ended(service: Service, job_id: str) -> Any:
    """The job once it has ended."""
    return wait_for(lambda: (job := service.store.get(job_id)) and job.state.ended and job)


@contextmanager
def application_client(service: Service, **guard: Any) -> Iterator[Any]:
    """A client of the application for ``service``, without a network."""
    from starlette.testclient import TestClient

    from ltx2_core.serve.app import application

    app = application(service, **{"hosts": ("127.0.0.1",), **guard})
    with TestClient(app, base_url="http://127.0.0.1:8000", raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def client(service) -> Iterator[Any]:
    """A client of a service whose worker has not been started."""
    with application_client(service) as client:
        yield client
