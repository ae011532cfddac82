"""``d2st studio`` as people meet it: a real process, a real browser."""

import asyncio
import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import d2st

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
]


@pytest.fixture(scope="module")
def server(small, tmp_path_factory):
    """A running studio with two recognizers: its address, its temporary folder, and its process."""
    pytest.importorskip("gradio", reason="gradio is not installed, so the page is not tested")
    adapters, temporary = tmp_path_factory.mktemp("adapters"), tmp_path_factory.mktemp("temporary")
    for name, config in (("looks", d2st.D2STConfig()), ("plain", d2st.STConfig())):
        encoder = d2st.adapt("test_resnet", config, frames=4, pretrained=small / "weights.safetensors", image_size=32)
        encoder.save_pretrained(adapters / name)
    flags = ["--adapters", adapters, "--weights", small / "weights.safetensors", "--port", 0, "--max-size", 1]
    process = subprocess.Popen(
        [sys.executable, "-m", "d2st", "studio", *map(str, flags), "--device", "cpu"],
        env={**os.environ, "TMPDIR": str(temporary), "OMP_NUM_THREADS": "1"},
        cwd=temporary,  # gradio takes names with a dot in front only where it was not started above them
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    said = process.stdout.readline()
    found = re.search(r"http://127\.0\.0\.1:\d+", said)
    if not found:
        process.kill()
        raise AssertionError(said + process.stdout.read())
    yield SimpleNamespace(url=found[0], temporary=temporary, process=process)
    process.kill()
    process.wait()


SCENES = {"pink": (163, 150, 183), "teal": (77, 148, 72)}  # (Y, Cb, Cr)


def write_scenes(path: Path) -> Path:
    """What the browser's camera shows, again and again: six seconds of one color, and six of another."""
    rng = np.random.default_rng(0)
    with path.open("wb") as file:
        file.write(b"YUV4MPEG2 W160 H120 F10:1 Ip A1:1 C420jpeg\n")
        for y, cb, cr in SCENES.values():
            for _ in range(60):
                light = np.clip(y + rng.integers(-40, 40, (120, 160)), 0, 255).astype(np.uint8)
                file.write(b"FRAME\n" + light.tobytes() + bytes([cb]) * 4800 + bytes([cr]) * 4800)
    return path


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if not BROWSER:
        pytest.skip("no Chromium is installed, so the page is not tested in a browser")
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed, so no browser is driven")
    with api.sync_playwright() as playwright:
        scenes = write_scenes(tmp_path_factory.mktemp("camera") / "scenes.y4m")
        flags = [*FLAGS, f"--use-file-for-fake-video-capture={scenes}"]
        started = playwright.chromium.launch(executable_path=BROWSER, args=flags)
        yield started
        started.close()


@pytest.fixture
def page(server, browser):
    """A tab of its own; everything it asks for must be on this machine, and no script may fail."""
    context = browser.new_context(viewport={"width": 1200, "height": 900}, reduced_motion="reduce")
    context.set_default_timeout(30_000)
    tab, asked, failed = context.new_page(), [], []
    tab.on("request", lambda request: asked.append(request.url))
    tab.on("pageerror", lambda error: failed.append(str(error)))
    tab.goto(server.url)
    tab.get_by_text("No actions yet").wait_for()
    yield tab
    context.close()
    assert asked and not [url for url in asked if not url.startswith((server.url, "data:", "blob:"))]
    assert not failed


def choose(page, field, *paths):
    """Put files into a field, and wait until the page has them all."""
    page.locator(f"#{field} input[type=file]").set_input_files([str(path) for path in paths])
    page.wait_for_function(
        "([f, n]) => document.querySelectorAll(`#${f} tr.file`).length == n", arg=[field, len(paths)]
    )


def teach(page, name, *paths):
    page.get_by_label("Name of the action").fill(name)
    choose(page, "examples", *paths)
    page.get_by_role("button", name="Add examples").click()
    cleared(page)
    page.get_by_text(f"of '{name}'.").wait_for()


def cleared(page):
    """Wait until the page has accepted what was typed and chosen; what it said before is gone then."""
    page.wait_for_function("document.querySelector('#name input, #name textarea').value == ''")


def recognize(page, *paths):
    choose(page, "queries", *paths)
    page.get_by_role("button", name="Recognize", exact=True).click()
    page.get_by_text(re.compile(r"Recognized \d")).wait_for()


def actions(page):
    return page.get_by_role("list", name="Actions").get_by_role("heading").all_inner_texts()


def answers(page):
    return page.get_by_role("list", name="Answers").get_by_role("heading").all_inner_texts()


def test_from_first_example_to_answers(page, small, tmp_path):
    data = small / "data"
    page.get_by_role("button", name="Recognize", exact=True).click()
    page.get_by_text("Teach at least one action first").wait_for()
    page.get_by_role("button", name="Add examples").click()
    page.get_by_text("Give the action a name first").wait_for()
    teach(page, "pink", data / "pink" / "0.mp4")
    page.get_by_text("Give an action a second example").wait_for()
    teach(page, "pink", data / "pink" / "1.mp4")
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    teach(page, "<i>teal & co", data / "teal" / "0.mp4", broken)
    page.get_by_text("broken.mp4: cannot be read as a video").wait_for()
    page.get_by_text("Learned 1 clip of").wait_for()
    assert actions(page) == ["pink", "<i>teal & co"]
    assert page.get_by_role("img", name="Frames of 1.mp4").locator("img").count() == 4
    avi = tmp_path / "query.avi"
    write_avi(data / "teal" / "3.mp4", avi)
    recognize(page, avi, broken, data / "pink" / "4.mp4")
    page.get_by_text("Recognized 2 clips.").wait_for()
    assert answers(page) == ["<i>teal & co", "pink"]
    first = page.get_by_role("list", name="Ranking").first
    assert first.get_by_role("listitem").count() == 2 and first.get_by_role("meter").count() == 2
    assert page.get_by_alt_text(re.compile(r"frame \d of the clip")).count() == 8
    assert page.get_by_alt_text(re.compile(r"frame \d of 0\.mp4")).first.is_visible()
    page.get_by_role("button", name="Where did it look in query.avi?").press("Enter")
    page.get_by_alt_text("Points that the adapters read in query.avi").wait_for()
    assert page.evaluate("document.activeElement.dataset.number") == "0"  # the focus is not lost with the button
    assert page.get_by_text("broken.mp4: cannot be read as a video").count() == 2  # as an example, and now
    with page.expect_download() as loading:
        page.get_by_role("link", name="Save the answers as a table").click()
    assert loading.value.path().read_text().startswith("clip,answer,label,confidence,<i>teal & co,pink\nquery.avi,")

    page.reload()
    page.get_by_role("heading", name="pink").first.wait_for()
    assert actions(page) == ["pink", "<i>teal & co"] and answers(page) == ["<i>teal & co", "pink"]
    page.get_by_role("button", name="Remove 0.mp4 from pink").click()
    page.get_by_text("Removed 0.mp4 from 'pink'").wait_for()
    assert page.get_by_role("img", name="Frames of 1.mp4").count() == 1
    assert page.get_by_role("img", name="Frames of 0.mp4").count() == 1  # that of the other action
    page.get_by_role("button", name="Remove <i>teal & co").click()
    page.get_by_text("Removed '<i>teal & co'").wait_for()
    assert actions(page) == ["pink"]


def test_saved_examples_another_tab_and_another_recognizer(page, server, small, tmp_path):
    data = small / "data"
    teach(page, "sand", data / "sand" / "0.mp4")
    with page.expect_download() as loading:
        page.get_by_role("link", name="Save the examples").click()
    kept = tmp_path / "mine.safetensors"
    loading.value.save_as(kept)
    other = page.context.new_page()
    other.goto(server.url)
    other.get_by_text("No actions yet").wait_for()  # the first tab's are its own
    teach(other, "red", data / "red" / "0.mp4")
    with other.expect_file_chooser() as chooser:
        other.get_by_role("button", name="Open saved examples").click()
    chooser.value.set_files(kept)
    other.get_by_text("Opened 1 action.").wait_for()
    assert actions(other) == ["sand"]
    other.close()
    page.get_by_role("combobox", name="Recognizer").click()
    page.get_by_role("option", name="plain").click()
    page.get_by_text("The recognizer is now plain.").wait_for()
    recognize(page, data / "sand" / "1.mp4")
    page.get_by_role("button", name="Where did it look in 1.mp4?").click()
    page.get_by_text("This recognizer has no reference points").wait_for()


def test_a_clip_from_the_camera(page):
    page.get_by_role("button", name="Record an example with the camera").click()
    for seconds in (2, 4, 8, 16):  # a busy machine's browser takes a while until it has encoded anything
        page.get_by_role("button", name="Click to Access Webcam").click()
        page.get_by_role("button", name="start recording").click()
        page.wait_for_timeout(1000 * seconds)
        page.locator("button.capture-button").click()
        page.locator("video[src]").wait_for(state="attached")
        page.get_by_label("Name of the action").fill("test picture")
        page.get_by_role("button", name="Add examples").click()
        cleared(page)
        page.get_by_text(re.compile("Learned 1 clip|None of the clips")).wait_for()
        if actions(page):
            break
    assert actions(page) == ["test picture"]
    assert page.get_by_role("img", name="Frames of ").locator("img").count() == 4


def next_scene(page):
    """Wait for the other color before the camera; gives its name."""
    shown = """() => { const c = document.createElement('canvas'), seen = c.getContext('2d');
    c.width = c.height = 1; seen.drawImage(document.querySelector('.d2st-live video'), 0, 0, 1, 1);
    const [r, g] = seen.getImageData(0, 0, 1, 1).data; return r > g ? 'pink' : 'teal' }"""
    before = page.evaluate(shown)
    page.wait_for_function(f"({shown})() != '{before}'")
    return {"pink": "teal", "teal": "pink"}[before]


def test_live(page):
    """The camera's scenes are taught while they are shown, and then recognized."""
    page.get_by_role("tab", name="Live").click()
    page.get_by_role("button", name="Add as an example").click()
    page.get_by_text("Give the action a name first").wait_for()
    page.get_by_label("This was").fill("pink")
    page.get_by_label("This was").press("Enter")
    page.get_by_text("There is nothing to add yet").wait_for()
    page.get_by_role("button", name="Start").press("Enter")
    page.get_by_role("status").filter(has_text="Nothing is taught yet").wait_for()
    for _ in SCENES:
        scene = next_scene(page)
        page.wait_for_timeout(3000)  # until a window shows nothing else
        page.get_by_label("This was").fill(scene)
        page.get_by_role("button", name="Add as an example").click()
        page.get_by_text(f"an example of '{scene}'").wait_for()
    for _ in SCENES:
        scene = next_scene(page)
        page.get_by_role("status").filter(has_text=re.compile(f"^{scene}$")).wait_for(timeout=5500)
    assert page.get_by_role("list", name="Ranking now").get_by_role("meter").count() == 2
    assert re.search(r"seconds, \d+ ms after they ended; \d+ pictures", page.locator("[data-is=speed]").inner_text())
    options = page.locator("#d2st-actions option").evaluate_all("all => all.map(one => one.value)")
    assert options == ["pink", "teal"]
    page.get_by_role("button", name="Stop").click()
    assert page.get_by_role("button", name="Stop").is_disabled()
    assert not page.get_by_role("button", name="Start").is_disabled()
    page.get_by_role("tab", name="Clips").click()
    assert sorted(actions(page)) == ["pink", "teal"]
    assert page.get_by_role("img", name="Frames of camera 2").locator("img").count() == 4
    page.get_by_role("tab", name="Live").click()
    page.evaluate("() => { navigator.mediaDevices.getUserMedia = async () => { throw {name: 'NotFoundError'} } }")
    page.get_by_role("button", name="Start").click()
    page.get_by_text("no camera that the browser finds").wait_for()


def test_the_live_ranking_is_by_score_whatever_the_names(page):
    answer = {"answer": "10", "likeliest": "10", "confidence": 0.997, "end": 0.1, "seconds": 2.0, "rate": 15.0}
    answer["scores"] = {"10": 0.996, "2": 0.003, "wave": 0.001}
    page.route("**/live/*/answer", lambda route: route.fulfill(json=answer))
    page.get_by_role("tab", name="Live").click()
    page.get_by_role("button", name="Start").click()
    page.get_by_text("> 99 % sure").wait_for()
    lines = page.get_by_role("list", name="Ranking now")
    assert lines.locator(".d2st-name").all_inner_texts() == ["10", "2", "wave"]
    assert lines.locator(".d2st-share").all_inner_texts() == ["> 99 %", "0 %", "0 %"]


def test_keyboard_alone(page, small):
    """Every control is reached by Tab, shows that it has the focus, and works by Enter."""
    teach(page, "pink", small / "data" / "pink" / "0.mp4")
    page.get_by_label("Name of the action").focus()
    reached = {}
    for _ in range(30):
        page.keyboard.press("Tab")
        name, outline = page.evaluate(
            """() => { const e = document.activeElement, s = getComputedStyle(e);
            return [e.getAttribute('aria-label') || e.innerText, s.outlineStyle + ' ' + s.outlineWidth] }"""
        )
        reached[name.split("\n")[0].split(" (up to")[0]] = outline
        if name == "Recognize":
            break
    controls = [
        "Example clips",
        "Record an example with the camera",
        "Add examples",
        "Remove pink",
        "Frames of 0.mp4",
        "Save the examples to a file",
        "Open saved examples",
        "Clips to recognize",
        "Record a clip with the camera",
        "Recognize",
    ]
    assert list(reached) == controls and set(reached.values()) == {"solid 3px"}
    page.get_by_label("Name of the action").focus()
    page.keyboard.type("teal")
    choose(page, "examples", small / "data" / "teal" / "0.mp4")
    page.get_by_label("Name of the action").press("Enter")
    cleared(page)
    page.get_by_text("of 'teal'.").wait_for()
    page.get_by_role("button", name="Remove pink").press("Enter")
    page.get_by_text("Removed 'pink'").wait_for()
    assert actions(page) == ["teal"]


def test_a_narrow_screen(page, small):
    page.set_viewport_size({"width": 390, "height": 800})
    teach(page, "a name that is long and wraps", small / "data" / "pink" / "0.mp4")
    teach(page, "teal", small / "data" / "teal" / "0.mp4")
    recognize(page, small / "data" / "teal" / "1.mp4")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.locator(".d2st-recognizer .d2st-hint").bounding_box()["width"] > 250  # below the choice, not beside it
    for button in page.get_by_role("button").all():
        box = button.bounding_box()
        if box:
            assert box["x"] >= 0 and box["x"] + box["width"] <= 390


def ask(url, **headers):
    """Status and body of a request without a browser."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10) as answer:
            return answer.status, answer.read().decode(errors="replace")
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(errors="replace")


def test_others_are_not_served(server, small):
    assert ask(server.url)[0] == 200
    assert ask(server.url, Host="evil.example")[0] == 403
    assert ask(server.url, Origin="http://evil.example")[0] == 403
    secret = small / "weights.safetensors"
    for path in (f"/gradio_api/file={secret}", "/gradio_api/file=/etc/hostname", "/gradio_api/file=pyproject.toml"):
        assert ask(server.url + path)[0] in (403, 404)
    assert ask(server.url + "/gradio_api/file=http://127.0.0.1:1/")[0] == 403
    assert ask(server.url + "/examples/guess")[0] == 404
    for what in ("start", "answer", "frame?at=1"):
        status, said = post(f"{server.url}/live/guess/{what}", b"")
        assert (status, "was forgotten" in said) == (400, True)
        assert post(f"{server.url}/live/guess/{what}", b"", Origin="http://evil.example")[0] == 403
    assert post(f"{server.url}/live/guess/frame?at=x", b"")[0] == 422


def post(url, body, **headers):
    """Status and body of a request with a body."""
    place = urllib.parse.urlsplit(url)
    headers = {"Content-Type": "application/x-www-form-urlencoded"} | headers
    with contextlib.closing(http.client.HTTPConnection(place.netloc, timeout=20)) as connection:
        with contextlib.suppress(BrokenPipeError):  # the answer came before the body was through
            connection.request("POST", (place.path or "/") + (place.query and f"?{place.query}"), body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode(errors="replace")


def send_clip(url, name, content):
    """Upload a file under a name as a browser would; gives where it lies."""
    head = f'--x\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'.encode()
    status, said = post(
        f"{url}/gradio_api/upload",
        head + content + b"\r\n--x--\r\n",
        **{"Content-Type": "multipart/form-data; boundary=x"},
    )
    assert status == 200, said
    return json.loads(said)[0]


def work(url, tab, number, *data, **more):
    """What comes back for one of the page's pieces of work, as a script asks for it: status, then messages."""
    body = {"data": data, "fn_index": number, "session_hash": tab, **more}
    status, said = post(
        f"{url}/gradio_api/queue/join", json.dumps(body).encode(), **{"Content-Type": "application/json"}
    )
    if status != 200:
        return status, said
    with urllib.request.urlopen(f"{url}/gradio_api/queue/data?session_hash={tab}", timeout=60) as stream:
        lines = [line.decode()[6:] for line in stream if line.startswith(b"data: ")]
    return status, lines


def test_one_name_never_stops_the_others(server, small):
    clip = (small / "data" / "pink" / "0.mp4").read_bytes()
    names = [".hidden.mp4", "..mp4", "-x.mp4", "a%d.mp4", "x" * 240 + ".mp4", "<b>.mp4", "é\u202e.mp4", "plain.mp4"]
    paths = [send_clip(server.url, name, clip + bytes([i])) for i, name in enumerate(names)]
    token = json.loads(work(server.url, "names", 0, "")[1][-2])["output"]["data"][0]
    files = [{"path": path, "meta": {"_type": "gradio.FileData"}} for path in paths]
    _, said = work(server.url, "names", 2, token, "pink", files, None)
    assert any(f"Learned {len(names)} clips" in line for line in said), said[-3:]


def test_hand_made_requests_are_refused_in_a_line(server):
    url, nobody = server.url, {"meta": {"_type": "gradio.FileData"}}
    for path in ("openapi.json", "gradio_api/openapi.json", "docs", "gradio_api/run/predict", "monitoring", "redoc"):
        assert ask(f"{url}/{path}")[0] == 404, path
    for body in (b"", b"[]", b"{", b"[" * 50_000, b'{"data": 1}', b'{"data": [], "fn_index": 2}'):
        assert post(f"{url}/gradio_api/queue/join", body)[0] == 400
    for path in ("http://example.org/x.mp4", "file:///etc/passwd", "a\0b", 5):
        assert work(url, "hand", 2, "", "a", [{"path": path, **nobody}], None)[0] == 400
    assert post(f"{url}/gradio_api/queue/join", bytes(1_000_001))[0] == 413
    for data in (
        [],
        [1],
        [None] * 9,
        ["", 5, 5, 5],
        ["x", "a", "b", "c"],
        ["", "a", [{"path": "/etc/passwd", **nobody}], None],
    ):
        for number in (0, 2, 3, 4, 5, 6, 7, 99, -1):
            work(url, "hand", number, *data, event_data={"number": "x"})
    multipart = {"Content-Type": "multipart/form-data; boundary=x"}
    head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="%s"\r\n\r\n'
    for body, kind in (
        (b"", {}),
        (b"{}", {"Content-Type": "application/json"}),
        (b"", {"Content-Type": "multipart/form-data"}),
        (b"\0" * 99, multipart),
        (head % b"a.mp4" + b"no end", multipart),
        (head % b"../../a.mp4" + b"\r\n--x--\r\n", multipart),
        (head % b"a\0b\xff.mp4" + b"\r\n--x--\r\n", multipart),
        (head.replace(b"files", b"other") % b"a.mp4" + b"\r\n--x--\r\n", multipart),
        (b'--x\r\nContent-Disposition: form-data; name="files"\r\n\r\ntext\r\n--x--\r\n', multipart),
    ):
        assert post(f"{url}/gradio_api/upload", body, **kind)[0] < 600
    queue = "gradio_api/queue/data", "gradio_api/queue/data?session_hash=nobody"
    files = "gradio_api/file=", "gradio_api/file=%00", f"gradio_api/file={'a' * 5000}", "static/../../etc/passwd"
    others = "examples/%00", f"answers/{'a' * 5000}", "assets/%2e%2e/%2e%2e/x", "theme.css?x=%ff", "pwa_icon/x"
    more = "upload_progress", "upload_progress?upload_id=x", "info", "app_id", "startup-events"
    for path in (*queue, *files, *others, *(f"gradio_api/{name}" for name in more), "config", "svelte/x"):
        with contextlib.suppress(http.client.HTTPException):  # an answer that ends early
            assert ask(f"{url}/{path}")[0] < 600
    for method in ("PUT", "DELETE", "OPTIONS", "TRACE", "HEAD", "NONSENSE"):
        asked = urllib.request.Request(url, method=method, headers={"Content-Length": "0"})
        with contextlib.suppress(urllib.error.HTTPError):
            urllib.request.urlopen(asked, timeout=10).close()
    for path in ("reset", "cancel", "queue/join/x", "component_server"):
        for body in (b"", b"{}", b"[]", b'{"event_id": 5, "session_hash": 5, "fn_index": 5}'):
            assert post(f"{url}/gradio_api/{path}", body, **{"Content-Type": "application/json"})[0] < 600
    assert ask(url)[0] == 200


def test_broken_off_and_half_open_requests(server):
    port = int(server.url.rsplit(":", 1)[1])
    upload = (
        f"POST /gradio_api/upload HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: {{}}\r\n"
        "Content-Type: multipart/form-data; boundary=x\r\n\r\n"
        '--x\r\nContent-Disposition: form-data; name="files"; filename="a.mp4"\r\n\r\n'
    )
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(upload.format(500_000).encode() + bytes(100_000))
        time.sleep(0.5)
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(upload.format(10**12).encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 413")
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(upload.replace("Content-Length: {}", "Transfer-Encoding: chunked").encode().split(b"--x")[0])
        assert connection.recv(100).startswith(b"HTTP/1.1 411")
    with socket.create_connection(("127.0.0.1", port)) as connection:
        chunked = upload.replace("Content-Length: {}", "Content-Length: 9\r\nTransfer-Encoding: chunked")
        connection.sendall(chunked.encode().split(b"--x")[0])
        assert connection.recv(100).startswith(b"HTTP/1.1 411")
    half = [socket.create_connection(("127.0.0.1", port)) for _ in range(300)]
    for connection in half:
        connection.sendall(b"GET / HTTP/1.1\r\nHost:")
    assert ask(server.url)[0] == 200
    half[0].settimeout(10)
    with contextlib.suppress(ConnectionResetError):
        assert half[0].recv(1) == b""  # the oldest of too many is closed
    for connection in half:
        connection.close()


def test_a_request_has_to_come_in_time(monkeypatch):
    """Also the second one of a connection, and whatever trickles in; one that is being answered may take long."""
    guard = pytest.importorskip("d2st.studio.guard", reason="gradio is not installed", exc_type=ImportError)
    import uvicorn
    from uvicorn.server import ServerState

    async def app(scope, receive, send):
        await asyncio.sleep(1)
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    async def ask():
        config, state = uvicorn.Config(app, log_config=None), ServerState()
        server = await asyncio.get_running_loop().create_server(
            lambda: guard.Connection(config, state, {}), "127.0.0.1", 0
        )
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 204")
        for side in ((reader, writer), await asyncio.open_connection(*server.sockets[0].getsockname())):
            for _ in range(10):  # longer than WAIT, and never silent
                side[1].write(b"G")
                await asyncio.sleep(0.05)
            with contextlib.suppress(ConnectionError):
                assert await asyncio.wait_for(side[0].read(), 5) == b""
        assert not guard.Connection.waiting
        server.close()

    monkeypatch.setattr(guard, "WAIT", 0.3)
    with ThreadPoolExecutor(1) as other:  # a browser's driver keeps a loop in this thread
        other.submit(asyncio.run, ask()).result()


def test_it_ends_with_its_clips(server):
    """The last test: SIGTERM as from a service manager."""
    (folder,) = server.temporary.glob("d2st-studio-*")
    assert any(folder.iterdir()) and folder.stat().st_mode & 0o077 == 0
    server.process.send_signal(signal.SIGTERM)
    server.process.wait(60)
    assert not folder.exists()
    assert "Traceback" not in server.process.stdout.read()


def write_avi(source: Path, target: Path) -> None:
    """A clip that browsers cannot play."""
    from small import write_clip

    from d2st.data.video.reader import iter_frames

    write_clip(target, np.stack(list(iter_frames(source))))
