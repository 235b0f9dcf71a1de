"""The page at ``/``: its files, its texts in all languages, and in Chromium from a prompt to a clip."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from ltx2_core.run.job import DECODE
from ltx2_core.serve.service import Service
from ltx2_core.serve.stored_job import State

from .conftest import MOST_S, SMALL, application_client, ended, settings_in, wait_for
from .test_server import listening

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "ltx2_core" / "serve" / "page"
JOB = {"model": "ltx2", "request": {"prompt": "a red ball", "seed": 3, **SMALL}}


def test_all_files_of_the_page_are_sent_without_a_token_and_run_no_script_of_others(service):
    with application_client(service, tokens=("secret",), hosts=()) as client:
        index = client.get("/")
        assert index.headers["content-type"].startswith("text/html")
        assert "script" not in index.headers["content-security-policy"]
        names = {path.name for path in PAGE.iterdir() if path.suffix in (".html", ".css", ".js")}
        for name in names:
            assert client.get(f"/page/{name}").text == (PAGE / name).read_text(encoding="utf-8")
        # Every module that a file names is there.
        for name in names:
            for other in re.findall(r'(?:from "\./|"page/)([\w.]+)"', (PAGE / name).read_text("utf-8")):
                assert other in names
        assert client.get("/v1/jobs").status_code == 401
        assert client.get("/page/__init__.py").status_code == 401
    assert "/page" not in json.dumps(client.app.openapi()["paths"])


def test_the_page_speaks_every_language_of_the_nodes_with_every_text():
    text = (PAGE / "texts.js").read_text(encoding="utf-8")
    table = text[text.index("TEXTS = {") + 9 : text.index("};")]
    found = {
        code: dict(re.findall(r'^ {4}(\w+): "(.*)",$', body, re.M))
        for code, body in re.findall(r"^ {2}(\w+): \{\n(.*?)^ {2}\},$", table, re.M | re.S)
    }
    nodes = {path.name for path in (ROOT / "locales").iterdir() if path.is_dir()}
    assert set(found) == nodes | {"en"}
    assert {frozenset(texts) for texts in found.values()} == {frozenset(found["en"])}
    used = {
        name
        for path in PAGE.glob("*.*")
        for name in re.findall(
            r'(?:data-text="|\btext\((?:job.stopping \? )?"|button\(")(\w+)"',
            path.read_text(encoding="utf-8"),
        )
    }
    # States are looked up by their names, and what a job does by those of the library.
    queue = (PAGE / "queue.js").read_text(encoding="utf-8")
    table = re.search(r"STAGES = \{ (.*) \}", queue)[1]
    stages = dict(re.findall(r'(?:^|", )"?([a-z, ]+?)"?: "(\w+)(?=")', table))
    assert set(stages) == {"text", "windows", DECODE}
    named = {*stages.values(), "stopping", *(state.value for state in State)}
    assert used | named == set(found["en"])


def test_a_plan_says_what_a_job_would_be_and_queues_nothing(service, client):
    body = {**JOB, "request": {**JOB["request"], "width": 100, "height": 70, "num_frames": 12}}
    made = client.post("/v1/plan", json=body).json()
    assert (made["width"], made["height"], made["num_frames"], made["steps"]) == (96, 64, 9, [2])
    assert made["changes"]
    assert made["allowed"]
    assert made["memory"]["fits"]
    large = client.post("/v1/plan", json={**JOB, "request": {**JOB["request"], "width": 8192, "steps": 1000}})
    assert large.json()["work"] < 5e10 or not large.json()["allowed"]
    assert (
        client.post("/v1/plan", json={**JOB, "model": "other"}).json()["error"]["code"] == "MODEL_NOT_FOUND"
    )
    wrong = client.post("/v1/plan", json={**JOB, "request": {"prompt": "a", "width": -1}})
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (422, "INVALID_PARAMETER")
    assert service.store.jobs() == []


def test_the_request_of_a_job_makes_it_again_with_the_same_seed(service, client, photo):
    shutil.copy(photo, service.settings.inputs[0] / "photo.png")
    request = {**JOB["request"], "seed": -1, "image": "photo.png"}
    first = client.post("/v1/jobs", json={**JOB, "request": request}).json()
    again = client.get(f"/v1/jobs/{first['id']}/request").json()
    assert again["request"]["image"] == "photo.png"
    assert again["request"]["seed"] >= 0
    second = client.post("/v1/jobs", json=again)
    assert second.status_code == 202, second.text
    assert service.store.spec(second.json()["id"]) == service.store.spec(first["id"])
    assert client.get("/v1/jobs/none/request").status_code == 404


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("there is no Chromium")
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.mark.slow
def test_a_clip_is_made_watched_and_used_again_on_the_page(tmp_path, models, photo, browser):
    service = Service(settings_in(tmp_path, models))
    with listening(service) as (_, client):
        page = browser.new_page(locale="de-DE", viewport={"width": 1200, "height": 900})
        page.set_default_timeout(1000 * MOST_S)
        problems: list[str] = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda line: line.type == "error" and problems.append(line.text))
        page.goto(str(client.base_url))
        page.locator("#plan[data-size]").wait_for()
        assert page.locator("html").get_attribute("lang") == "de"
        page.fill("#prompt", "ein roter Ball <b>springt</b>")
        for name, value in (("width", 100), ("height", 70), ("seconds", "0.5"), ("steps", 40)):
            page.fill(f"#{name}", str(value))
        # Snapped while it is typed.
        expect = pytest.importorskip("playwright.sync_api").expect
        expect.set_options(timeout=1000 * MOST_S)
        expect(page.locator("#plan")).to_have_attribute("data-size", re.compile("^96x64x"))
        expect(page.locator("#plan")).to_contain_text("40")
        page.set_input_files("#image", str(photo))
        page.locator("#image-shown").wait_for()
        page.keyboard.press("Tab")
        page.locator("#submit").focus()
        page.keyboard.press("Enter")
        page.locator(".job canvas.preview").wait_for()
        page.screenshot(path=tmp_path / "running.png", full_page=True)
        page.locator(".job video").wait_for()
        wait_for(lambda: page.evaluate("document.querySelector('.job video').readyState >= 2"))
        # Text of clients is text, and no element.
        assert page.locator(".job .words").inner_text() == "ein roter Ball <b>springt</b>"
        (job,) = client.get("/v1/jobs").json()["jobs"]
        assert job["clips"][0]["width"] == 96
        page.fill("#prompt", "")
        page.get_by_role("button", name=re.compile("^Wieder verwenden")).click()
        assert page.input_value("#prompt") == "ein roter Ball <b>springt</b>"
        assert page.input_value("#width") == "100"
        page.locator("#submit").click()
        page.locator(".job:nth-child(2)").wait_for()
        wait_for(lambda: len(client.get("/v1/jobs").json()["jobs"]) == 2)
        second = client.get("/v1/jobs").json()["jobs"][0]["id"]
        assert ended(service, second).state is State.SUCCEEDED
        one, two = (client.get(f"/v1/jobs/{one}/file").content for one in (job["id"], second))
        assert one == two
        page.locator(".job:nth-child(1) video").wait_for()
        page.select_option("#language", "ja")
        assert page.locator("#submit").inner_text() == "生成"
        # What was said about clips and of the plan follows, and what screen readers say of buttons.
        expect(page.locator("#plan")).to_contain_text("フレーム")
        expect(page.locator(".job .about").first).to_contain_text("フレーム")
        name = page.locator(".job button").first.get_attribute("aria-label")
        assert name.startswith(page.locator(".job button").first.inner_text())
        page.screenshot(path=tmp_path / "done.png", full_page=True)
        page.get_by_role("button", name=re.compile("^削除|^Löschen")).first.click()
        wait_for(lambda: len(client.get("/v1/jobs").json()["jobs"]) == 1)
        # Every field and every button has a name for those who do not see it.
        unnamed = page.evaluate(
            "[...document.querySelectorAll('input, select, textarea, button')]"
            ".filter(e => !(e.labels?.length || e.textContent || e.ariaLabel)).map(e => e.outerHTML)"
        )
        assert unnamed == []
        page.close()
        assert problems == []
    service.close()


@pytest.mark.slow
def test_a_large_file_is_sent_in_pieces_and_again_from_where_its_connection_broke(
    service, photo, tmp_path, browser
):
    large = tmp_path / "large.png"
    large.write_bytes(photo.read_bytes().ljust(20 * 2**20, b"."))
    with listening(service) as (_, client):
        page = browser.new_page()
        page.set_default_timeout(1000 * MOST_S)
        asked: list[str] = []

        def sent(route) -> None:
            asked.append(route.request.headers["upload-offset"])
            # The second piece arrives, and its answer does not; the third one does not arrive the first time.
            if len(asked) == 2:
                route.fetch()
            if len(asked) in (2, 3):
                route.abort()
            else:
                route.continue_()

        page.route(
            "**/v1/uploads/*",
            lambda route: sent(route) if route.request.method == "PATCH" else route.continue_(),
        )
        page.goto(str(client.base_url))
        page.locator("#plan[data-size]").wait_for()
        page.set_input_files("#image", str(large))
        page.locator("#image-shown").wait_for()
        assert page.locator("#problem").inner_text() == ""
        assert asked == [str(at * 2**20) for at in (0, 8, 16, 16)]
        page.fill("#prompt", "a red ball")
        page.locator("#submit").click()
        wait_for(service.store.jobs)
        (job,) = service.store.jobs()
        image = service.store.spec(job.id)["clips"][0]["request"]["image"]
        assert Path(image).read_bytes() == large.read_bytes()
        service.cancel(job.id)
        page.close()


@pytest.mark.slow
def test_the_page_asks_for_the_token_of_the_server(service, browser):
    import threading

    import uvicorn

    from ltx2_core.serve.app import application

    server = uvicorn.Server(
        uvicorn.Config(application(service, tokens=("secret",)), port=0, log_level="error")
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_for(lambda: server.started)
    page = browser.new_page()
    page.set_default_timeout(1000 * MOST_S)
    page.goto(f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}")
    page.fill("#token", "wrong")
    page.keyboard.press("Enter")
    page.wait_for_timeout(200)
    assert page.locator("#form").is_hidden()
    page.fill("#token", "secret")
    page.keyboard.press("Enter")
    page.locator("#plan[data-size]").wait_for()
    assert page.locator("#token-form").is_hidden()
    page.close()
    server.should_exit = True
    thread.join(timeout=MOST_S)
