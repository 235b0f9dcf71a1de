"""The service offers the released models that ``ltx2 models get`` has downloaded, by their ids and names."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from ltx2_core.released.folders import cache_folder, place_of
from ltx2_core.released.table import files_of, released_models
from ltx2_core.serve.models import TINY, read_models
from ltx2_core.serve.service import Service

from .conftest import application_client, settings_in


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of models, as ``LTX2_MODELS`` names it."""
    monkeypatch.setenv("LTX2_MODELS", str(tmp_path / "models"))
    return tmp_path / "models"


def put(folder, name: str, *without: str) -> None:
    """Put empty files of a released model or file into ``folder``."""
    for file in files_of(name):
        if file.id not in without:
            path = place_of(file, folder)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()


@pytest.mark.parametrize(
    ("names", "ids"),
    [
        (["ltx-2.0"], {"ltx2": "ltx-2.0"}),
        (["ltx-2.3"], {"ltx2.3": "ltx-2.3"}),
        (["ltx-2.3-fp8"], {"ltx2.3": "ltx-2.3-fp8"}),
        (["ltx-2.3-fp8", "ltx-2.3"], {"ltx2.3": "ltx-2.3"}),
        (["ltx-2.5-distilled"], {"ltx2.5": "ltx-2.5-distilled"}),
        # Clients of these ids expect weights that are not distilled.
        (["ltx-2.3-distilled"], {}),
        (
            ["ltx-2.0", "ltx-2.3", "ltx-2.5-distilled"],
            {"ltx2": "ltx-2.0", "ltx2.3": "ltx-2.3", "ltx2.5": "ltx-2.5-distilled"},
        ),
    ],
    ids=" ".join,
)
def test_what_is_here_answers_to_the_ids_of_clients_and_to_its_own_name(folder, names, ids):
    for name in names:
        put(folder, name)
    models = read_models(None)
    assert {one: model.base_model for one, model in models.items()} == {
        **ids,
        **{name: name for name in names},
        TINY: "the embedded tiny set",
    }
    assert all(model.id == one for one, model in models.items())
    for name in names:
        checkpoint, *_ = released_models()[name].checkpoints
        assert models[name].checkpoints[0] == place_of(checkpoint, folder)
        assert models[name].upscaler is not None


@pytest.mark.parametrize(
    ("without", "there"),
    [("ltx-2.3-22b-dev", False), ("gemma-3-12b", False), ("ltx-2.3-spatial-upscaler-x2-1.1", True)],
)
def test_a_model_of_which_a_file_is_missing_is_not_offered(folder, without, there):
    put(folder, "ltx-2.3", without)
    assert ("ltx-2.3" in read_models(None)) == there
    # Without any model the tiny set stands in for all of them.
    assert read_models(None)["ltx2.3"].embedded == (not there)


def test_the_lora_of_a_high_resolution_is_found_too(folder):
    put(folder, "ltx-2.3")
    assert read_models(None)["ltx2.3"].distilled_lora is None
    put(folder, "ltx-2.3-22b-distilled-lora-384")
    assert read_models(None)["ltx2.3"].distilled_lora.name == "ltx-2.3-22b-distilled-lora-384.safetensors"
    put(folder, "ltx-2.3-22b-distilled-lora-384-1.1")
    assert read_models(None)["ltx2.3"].distilled_lora.name.endswith("1.1.safetensors")
    put(folder, "ltx-2.0")
    # In ai-toolkit-inference LTX-2.0 has no high resolution.
    assert read_models(None)["ltx2"].distilled_lora is None


def test_the_cache_is_searched_and_a_list_names_released_models(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    put(cache_folder(), "ltx-2.3-fp8")
    path = tmp_path / "models.json"
    path.write_text(json.dumps({"mine": "ltx-2.3-fp8"}))
    models = read_models(path)
    assert set(models) == {"mine", TINY}
    assert models["mine"].checkpoints == read_models(None)["ltx2.3"].checkpoints


def test_a_downloaded_model_takes_a_request_of_ai_toolkit(folder, tmp_path, tiny_set):
    # In one file with its tokenizer, as it is published.
    tensors = load_file(tiny_set.text_encoder / "model.safetensors")
    named = {f"model.{name.removeprefix('model.')}": tensor for name, tensor in tensors.items()}
    content = (tiny_set.text_encoder / "tokenizer.json").read_bytes()
    named["tokenizer_json"] = torch.tensor(list(content), dtype=torch.uint8)
    gemma_file = tmp_path / "gemma.safetensors"
    save_file(named, gemma_file)
    model = released_models()["ltx-2.3"]
    for file, one in zip(model.files, (tiny_set.checkpoint, gemma_file, tiny_set.upsampler), strict=True):
        path = place_of(file, folder)
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(one, path)
    service = Service(settings_in(tmp_path, read_models(None)))
    shutil.copyfile(tiny_set.lora, service.settings.loras[0] / "style.safetensors")
    service.checkers.open_all()
    with application_client(service) as client:
        listed = {one["id"]: one["base_model"] for one in client.get("/v1/models").json()["models"]}
        assert listed == {"ltx2.3": "ltx-2.3", "ltx-2.3": "ltx-2.3", TINY: "the embedded tiny set"}
        body = {"loras": [{"path": "style.safetensors"}], "prompts": [{"prompt": "a red ball"}]}
        assert client.post("/v1/inference", json={"model": "ltx2.3", **body}).status_code == 200
        # The tiny set does not stand in for a model that was not downloaded.
        refused = client.post("/v1/inference", json={"model": "ltx2", **body})
        assert refused.json()["detail"]["error"]["code"] == "MODEL_NOT_FOUND"
    service.close()
