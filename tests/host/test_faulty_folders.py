"""A host with malformed folders of models starts with every node, and says what is wrong with them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from host_graph import Graph
from host_server import GraphError, Server

PACK = Path(__file__).resolve().parents[2]
GEMMA = json.dumps({"model_type": "gemma3_text"})
FAULTS = {
    "index": ({"config.json": GEMMA, "model.safetensors.index.json": "{}"}, "has no 'weight_map'"),
    "config": ({"config.json": "[]"}, "must hold a JSON object; got list"),
    "pipe": ({"config.json": GEMMA, "model.safetensors.index.json": None}, "is not a regular file"),
}
"""Content of the files of a folder, None for a pipe, and words of the fault."""


def test_malformed_folders_are_listed_with_their_fault_and_every_node_is_there(
    comfy_dir: Path, tmp_path: Path
):
    for folder in ("custom_nodes", "input", "output"):
        (tmp_path / folder).mkdir()
    (tmp_path / "custom_nodes" / "comfyui-ltx2").symlink_to(PACK, target_is_directory=True)
    for name, (files, _) in FAULTS.items():
        for category in ("text_encoders", "diffusers"):
            folder = tmp_path / "models" / category / name
            folder.mkdir(parents=True)
            (folder / "model.safetensors").write_bytes(b"\x02" + b"\0" * 7 + b"{}")
            for file, content in files.items():
                if content is not None:
                    (folder / file).write_text(content)
                elif hasattr(os, "mkfifo"):
                    os.mkfifo(folder / file)
    host = Server(comfy_dir, tmp_path)
    try:
        host.wait_ready()
        nodes = {name: node for name, node in host.get("/object_info").items() if name.startswith("LTX2AV")}
        documented = {path.stem for path in (PACK / "web" / "docs").glob("LTX2AV*.md")}
        assert documented <= {*nodes}
        entry = nodes["LTX2AVLoadTextEncoder"]["input"]["required"]["text_encoder"]
        listed = entry[1]["options"] if entry[0] == "COMBO" else entry[0]
        assert listed == [f"{name}/model.safetensors" for name in sorted(FAULTS)]
        for name, (_, words) in FAULTS.items():
            g = Graph()
            clip = g.add(
                "LTX2AVLoadTextEncoder", text_encoder=f"{name}/model.safetensors", ckpt_name="no model"
            )
            text = g.add("CLIPTextEncode", clip=clip, text="a")
            g.add("PreviewAny", source=text)
            with pytest.raises(GraphError, match=f"cannot serve as a text encoder.*{words}"):
                host.run(g.prompt)
            assert f"{name} cannot be loaded" in host.log()
    finally:
        host.stop()
