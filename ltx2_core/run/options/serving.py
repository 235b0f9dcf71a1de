"""Declares the options of ``ltx2 serve`` and ``ltx2 batch``: address, limits, and who computes."""

from __future__ import annotations

from collections.abc import Iterator

from .option import Option


def serving_options() -> Iterator[Option]:
    """Yield the options of ``ltx2 serve`` alone: address, clients and limits."""
    yield from _address()
    yield from _limits()


def _address() -> Iterator[Option]:
    group = "server"
    yield Option(
        name="host",
        flags=("--host",),
        kind="text",
        group=group,
        default="127.0.0.1",
        help="Address to listen on; one that other machines reach needs --token-file.",
    )
    yield Option(
        name="port",
        flags=("--port",),
        kind="int",
        group=group,
        range=(0, 65535),
        default=8000,
        help="Port to listen on; 0 is a free one.",
    )
    yield Option(
        name="state_folder",
        flags=("--state",),
        kind="path",
        group=group,
        help="Private folder of the queue and of results; by default ~/.local/state/ltx2-serve.",
    )
    yield Option(
        name="input_folders",
        flags=("--inputs",),
        kind="path",
        group=group,
        multiple=True,
        help="Folder of which clients may name images, audio and video.",
    )
    yield Option(
        name="lora_folders",
        flags=("--loras",),
        kind="path",
        group=group,
        multiple=True,
        help="Folder of which clients may name LoRAs.",
    )
    yield Option(
        name="url_hosts",
        flags=("--allow-urls",),
        kind="text",
        group=group,
        multiple=True,
        metavar="HOST",
        help="Host from which clients may have images, audio and video fetched by https, such as "
        "example.com, *.example.com, or * for any. By default nothing is fetched.",
    )
    yield Option(
        name="token_file",
        flags=("--token-file",),
        kind="path",
        group=group,
        help="File with the token that each request must bring; with a token on each line, each is another "
        "client.",
    )
    yield Option(
        name="allowed_hosts",
        flags=("--allowed-host",),
        kind="text",
        group=group,
        multiple=True,
        help="Further name by which clients address the server.",
    )
    yield Option(
        name="base_url",
        flags=("--base-url",),
        kind="text",
        group=group,
        help="URL that clients use, such as that of a proxy; by default the one that they asked for.",
    )


def _limits() -> Iterator[Option]:
    group = "limits"
    yield Option(
        name="max_queue",
        flags=("--max-queue",),
        kind="int",
        group=group,
        range=(1, 1_000_000),
        default=100,
        help="Most jobs that wait.",
    )
    yield Option(
        name="per_client",
        flags=("--per-client",),
        kind="int",
        group=group,
        range=(1, 1_000_000),
        help="Most jobs of one client that wait or run; a client is a token, or without tokens an address. "
        "By default a client may fill the queue.",
    )
    yield Option(
        name="max_work",
        flags=("--max-work",),
        kind="float",
        group=group,
        range=(1, None),
        help="Largest width x height x frames x steps of a job. By default that of 150 steps of the longest "
        "clip that fits the memory of the device, or --max-memory.",
    )
    yield Option(
        name="max_body",
        flags=("--max-body",),
        kind="int",
        group=group,
        range=(1, 2**20),
        unit="MiB",
        default=64,
        help="Largest body of a request.",
    )
    yield Option(
        name="max_upload",
        flags=("--max-upload",),
        kind="int",
        group=group,
        range=(1, 2**20),
        unit="MiB",
        default=1024,
        help="Largest file that is sent.",
    )
    yield Option(
        name="keep_days",
        flags=("--keep-days",),
        kind="float",
        group=group,
        range=(0, None),
        unit="days",
        default=7.0,
        help="How long results and uploads stay.",
    )
    yield Option(
        name="keep_gib",
        flags=("--keep-gib",),
        kind="float",
        group=group,
        range=(0, None),
        unit="GiB",
        default=50.0,
        help="Size of all results, above which the oldest are removed.",
    )
    yield Option(
        name="drain_seconds",
        flags=("--drain-seconds",),
        kind="float",
        group=group,
        range=(0, None),
        unit="s",
        default=600.0,
        help="How long a running job has to end after SIGTERM.",
    )


def workers_options() -> Iterator[Option]:
    """Yield the options of ``ltx2 serve`` and ``ltx2 batch``: the models, and who computes."""
    group = "workers"
    yield Option(
        name="model_list",
        flags=("--models",),
        kind="path",
        group=group,
        help="JSON file of models: id -> checkpoints, text_encoder, upscaler, or the name of a released "
        "model; by default those that ltx2 models get has downloaded.",
    )
    yield Option(
        name="held_models",
        flags=("--held-models",),
        kind="int",
        group=group,
        range=(1, 64),
        help="Most models that stay loaded; the one that was not used for longest is freed first. By default "
        "as many as fit; one with --ray.",
    )
    yield Option(
        name="held_memory",
        flags=("--held-memory",),
        kind="text",
        group=group,
        metavar="SIZE",
        help="Most memory for the weights of all models that stay loaded, such as 40GB. By default what the "
        "device has, or the machine with --max-memory, less what the job at hand computes in.",
    )
    yield Option(
        name="job_seconds",
        flags=("--job-seconds",),
        kind="float",
        group=group,
        range=(1, None),
        unit="s",
        default=3600.0,
        help="How long a job may run.",
    )
    yield Option(
        name="ray",
        flags=("--ray",),
        kind="text",
        group=group,
        metavar="ADDRESS",
        help="Run jobs on a Ray cluster: its address, auto for the one of this machine, or local to start "
        "one here. Needs the extra ray, and the folders of state, models and inputs on all its machines.",
    )
    yield Option(
        name="ray_workers",
        flags=("--ray-workers",),
        kind="text",
        group=group,
        default="1",
        metavar="N or MIN-MAX",
        help="With --ray: how many replicas run jobs, each on a GPU of its own, or on those of its group. Of "
        "MIN-MAX, MIN stay loaded, and others start while jobs wait.",
    )
    yield Option(
        name="ray_gpus",
        flags=("--ray-gpus",),
        kind="int",
        group=group,
        range=(0, 1),
        help="With --ray: GPUs of each process. By default 1 on cuda, else 0.",
    )
    yield Option(
        name="ray_group",
        flags=("--ray-group",),
        kind="int",
        group=group,
        default=1,
        range=(1, 64),
        help="With --ray: a replica is a group of this many processes of one machine, which make each clip "
        "together, as with torchrun: each computes a part of the tokens, on a GPU of its own.",
    )


def batch_options() -> Iterator[Option]:
    """Yield the options of ``ltx2 batch`` alone."""
    group = "batch"
    yield Option(
        name="jobs",
        flags=("--jobs",),
        kind="path",
        group=group,
        help="File with one job on each line, as JSON in the form of POST /v1/jobs; also written without the "
        "flag.",
    )
    yield Option(
        name="results_folder",
        flags=("-o", "--output"),
        kind="path",
        group=group,
        default="batch",
        help="Folder of the clips and of results.jsonl, with a line of JSON for each job that has ended.",
    )
    yield Option(
        name="grid",
        flags=("--grid",),
        kind="text",
        group=group,
        multiple=True,
        metavar="FIELD=A,B,...",
        help="Make each job once for each of these values of a field of its request, such as steps=8,20; "
        "several grids are combined.",
    )
