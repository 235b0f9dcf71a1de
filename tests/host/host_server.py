"""Boots an unmodified ComfyUI on this pack, in a folder of its own, and talks to it over HTTP."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

Json = dict[str, Any]
BOOT_S = 600.0
CLIENT = "tests"
ENDS = ("execution_success", "execution_error", "execution_interrupted")


class GraphError(AssertionError):
    """A graph that the host rejected or that failed while running; ``status`` or ``errors`` say how."""

    def __init__(self, message: str, detail: Json) -> None:
        super().__init__(message)
        self.detail = detail


@dataclass(frozen=True)
class Result:
    """What one graph left behind: the host's history entry and the tensors that probe nodes dumped."""

    history: Json
    output: Path

    @property
    def outputs(self) -> Json:
        return self.history["outputs"]

    def tensors(self, name: str) -> dict[str, Tensor]:
        """What `LTX2ProbeDump` wrote under ``name``."""
        for output in self.outputs.values():
            for saved, file in zip(output.get("dump_name", []), output.get("dump_file", []), strict=True):
                if saved == name:
                    return load_file(self.output / file)
        raise AssertionError(f"no dump called {name!r} in {self.outputs}")

    def report(self) -> Json:
        """What `LTX2ProbeModel` reported."""
        return next(json.loads(o["report"][0]) for o in self.outputs.values() if "report" in o)

    def messages(self, kind: str) -> list[Json]:
        return [m for k, m in self.history["status"]["messages"] if k == kind]


class Server:
    """One ComfyUI process. ``base`` holds its models, custom nodes, input and output."""

    def __init__(self, comfy: Path, base: Path, *flags: str) -> None:
        self.base = base
        self.output = base / "output"
        self.port = _free_port()
        self.log_path = base / "server.log"
        self._log = self.log_path.open("w")
        command = [
            sys.executable,
            "main.py",
            *("--cpu", "--force-fp32", "--fp32-text-enc", "--use-pytorch-cross-attention"),
            *("--listen", "127.0.0.1", "--port", str(self.port), "--base-directory", str(base)),
            *("--database-url", "sqlite:///:memory:", "--disable-api-nodes", *flags),
        ]
        env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        # Kernels of the server are compiled for a GPU or not used: interpreted ones take minutes for a step.
        env.pop("TRITON_INTERPRET", None)
        self._process = subprocess.Popen(
            command, cwd=comfy, stdout=self._log, stderr=subprocess.STDOUT, env=env
        )

    def wait_ready(self, timeout_s: float = BOOT_S) -> None:
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            if self._process.poll() is not None:
                raise RuntimeError(
                    f"ComfyUI stopped with code {self._process.returncode}:\n{self.log()[-4000:]}"
                )
            try:
                self.get("/system_stats")
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.3)
            else:
                return
        raise TimeoutError(f"ComfyUI did not answer within {timeout_s:.0f} s:\n{self.log()[-4000:]}")

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()

    def kill(self) -> None:
        """End the process as a power cut would."""
        self._process.kill()
        self._process.wait()
        self._log.close()

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=30) as answer:
            return json.loads(answer.read())

    def post(self, path: str, body: Json) -> Any:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}",
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def submit(self, prompt: Json, **extra_data: Any) -> str:
        """Queue an API-format graph; GraphError with the host's answer if any part of it is rejected."""
        body = {"prompt": prompt, "client_id": CLIENT, "extra_data": extra_data}
        try:
            answer = self.post("/prompt", body)
        except urllib.error.HTTPError as error:
            detail = json.loads(error.read())
            raise GraphError(f"rejected: {json.dumps(detail)[:2000]}", detail) from None
        if answer["node_errors"]:
            raise GraphError(f"partly rejected: {json.dumps(answer['node_errors'])[:2000]}", answer)
        return answer["prompt_id"]

    def wait(self, prompt_id: str, timeout_s: float = 120.0) -> Result:
        """Wait for a queued graph; GraphError if it ends in anything but success."""
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            history = self.get(f"/history/{prompt_id}")
            if prompt_id in history:
                entry = history[prompt_id]
                if entry["status"]["status_str"] != "success":
                    raise GraphError(_failure(entry), entry)
                return Result(entry, self.output)
            if self._process.poll() is not None:
                raise RuntimeError(f"ComfyUI died:\n{self.log()[-4000:]}")
            time.sleep(0.05)
        raise TimeoutError(f"the graph did not finish within {timeout_s:.0f} s:\n{self.log()[-2000:]}")

    def run(self, prompt: Json, timeout_s: float = 120.0) -> Result:
        return self.wait(self.submit(prompt), timeout_s)

    def free(self, prompt: Json | None = None, **what: bool) -> None:
        """Have the host free its memory and wait until it has, which is once a graph has run.

        ``prompt`` is one that has run: the host remembers nodes of the last graph only.
        """
        self.post("/free", what)
        picture = {"seed": 1, "frames": 1, "width": 8, "height": 8}
        dump = {"name": uuid.uuid4().hex, "image": ["any picture", 0]}
        self.run(
            {
                **(prompt or {}),
                "any picture": {"class_type": "LTX2ProbeImage", "inputs": picture},
                "any dump": {"class_type": "LTX2ProbeDump", "inputs": dump},
            }
        )

    def loads(self) -> int:
        """How often the host has begun to load a network."""
        return self.log().count("Requested to load")

    def listen(self, prompt: Json, timeout_s: float = 120.0, **extra_data: Any) -> list[Json | bytes]:
        """Run a graph and return every message that its page would get: dicts, and images as bytes."""
        return asyncio.run(self._listen(prompt, timeout_s, extra_data))

    async def _listen(self, prompt: Json, timeout_s: float, extra_data: Json) -> list[Json | bytes]:
        import aiohttp  # of the host's own requirements

        messages: list[Json | bytes] = []
        url = f"http://127.0.0.1:{self.port}/ws?clientId={CLIENT}"
        async with aiohttp.ClientSession() as session, session.ws_connect(url, max_msg_size=0) as page:
            prompt_id = await asyncio.to_thread(self.submit, prompt, **extra_data)
            while True:
                message = await page.receive(timeout=timeout_s)
                messages.append(
                    message.data if message.type == aiohttp.WSMsgType.BINARY else json.loads(message.data)
                )
                last = messages[-1]
                if (
                    isinstance(last, dict)
                    and last["data"].get("prompt_id") == prompt_id
                    and last["type"] in ENDS
                ):
                    return messages


def _failure(entry: Json) -> str:
    for kind, message in entry["status"]["messages"]:
        if kind == "execution_error":
            trace = "".join(message.get("traceback", []))
            what = f"{message['exception_type']}: {message['exception_message']}"
            return f"{message['node_type']}: {what}\n{trace}"
    return str(entry["status"])


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]
