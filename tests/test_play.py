"""The playground: what its server answers and refuses, and its page in a real browser."""

import base64
import http.client
import io
import json
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from browser import Browser
from PIL import Image
from PIL.PngImagePlugin import PngImageFile
from trained_project import make_trained_project

from prologue.core.errors import PrologueError
from prologue.core.recipe import KEY as RECIPE
from prologue.generator.folders import load_generator
from prologue.play.answers import Answers
from prologue.play.server import MOST_BYTES, is_own_name, serve

ASKED = {
    "label": 1,
    "seed": 3,
    "images": 2,
    "guidance": 2.0,
    "prologue_guidance": 1.5,
    "temperature": 1.0,
    "prologue_temperature": 1.0,
}
PHONE = 360


@pytest.fixture(scope="module")
def address(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    project = make_trained_project(tmp_path_factory.mktemp("played") / "my-run", trained)
    server = serve(Answers(load_generator(str(project))), "127.0.0.1", 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield "127.0.0.1", server.server_address[1]
    server.shutdown()
    server.server_close()


def ask(
    address: tuple[str, int], path: str, body: object = None, **headers: str
) -> tuple[int, Any, http.client.HTTPResponse]:
    """Status, answer and response of a request."""
    connection = http.client.HTTPConnection(*address, timeout=60)
    content = body if body is None or isinstance(body, bytes) else json.dumps(body)
    connection.request("GET" if body is None else "POST", path, content, headers)
    response = connection.getresponse()
    text = response.read().decode()
    return (
        response.status,
        json.loads(text) if response.getheader("Content-Type") == "application/json" else text,
        response,
    )


def png_of(content: str) -> PngImageFile:
    return PngImageFile(io.BytesIO(base64.b64decode(content)))


def test_a_drawn_image_tells_how_it_was_made_and_comes_again(address: tuple[str, int]) -> None:
    status, answer, _ = ask(address, "/draw", ASKED)
    assert status == 200
    first, second = answer["images"]
    assert first["png"] != second["png"]
    picture = png_of(second["png"])
    assert picture.size == (16, 16)
    recipe = json.loads(picture.text[RECIPE])
    assert recipe["class"] == "dusk"
    assert recipe["image"] == 1
    assert recipe["prologue"] == second["prologue"]
    assert recipe["seed"] == 3
    assert recipe["settings"]["visual"]["guidance"] == ASKED["guidance"]
    assert recipe["settings"]["watermark"] == {"strength": 0}
    assert ask(address, "/draw", ASKED)[1] == answer
    held = ask(address, "/draw", {**ASKED, "prologue": second["prologue"]})[1]["images"]
    assert [image["prologue"] for image in held] == [second["prologue"]] * 2
    assert held[1]["png"] == second["png"], "holding an image's own prologue changes nothing of it"
    assert held[0]["png"] != first["png"]


def test_a_photo_becomes_ids(address: tuple[str, int]) -> None:
    photo = io.BytesIO()
    Image.effect_noise((60, 40), 90).save(photo, format="JPEG")
    status, answer, _ = ask(address, "/encode", photo.getvalue())
    assert status == 200
    assert len(answer["prologue"]) == 3
    assert png_of(answer["original"]).size == png_of(answer["reconstruction"]).size == (16, 16)


@pytest.mark.parametrize(
    ("path", "body", "headers", "status", "said"),
    [
        ("/", None, {"Host": "prologue.example"}, 403, "its own address"),
        ("/draw", ASKED, {"Origin": "http://prologue.example"}, 403, "its own page alone"),
        ("/draw", ASKED, {"Origin": "null"}, 403, "its own page alone"),
        ("/", None, {"Host": "[127.0.0.1"}, 400, "no such address"),
        ("/../params.yaml", None, {}, 404, "nothing here"),
        ("/draw", {**ASKED, "images": 1000}, {}, 400, "images: "),
        ("/draw", {**ASKED, "file": "x"}, {}, 400, "file: "),
        ("/draw", b"{", {}, 400, "JSON"),
        ("/draw", {**ASKED, "label": 2}, {}, 422, "2 classes"),
        ("/draw", {**ASKED, "prologue": [0, 1]}, {}, 422, "a prologue is 3 ids below 8"),
        ("/draw", {**ASKED, "prologue": [0, 1, 8]}, {}, 422, "a prologue is 3 ids below 8"),
        ("/encode", b"no image", {}, 422, "does not decode"),
        ("/encode", bytes(2 * MOST_BYTES), {}, 413, "are refused"),  # which is sent before an answer is read
        ("/draw", b"", {"Content-Length": "9" * 5000}, 413, "are refused"),
    ],
)
def test_what_is_refused(
    address: tuple[str, int], path: str, body: object, headers: dict[str, str], status: int, said: str
) -> None:
    answered, answer, _ = ask(address, path, body, **headers)
    assert answered == status
    assert said in answer["error"]
    assert "/tmp" not in answer["error"]


def test_a_page_that_is_closed_while_it_draws_is_not_a_word_on_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    def draw(asked: object) -> dict[str, Any]:
        page.close()
        return {}

    with serve(SimpleNamespace(draw=draw), "127.0.0.1", 0) as server:  # type: ignore[arg-type]
        page = socket.create_connection(("127.0.0.1", server.server_port))
        page.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # its end is a reset
        body = json.dumps(ASKED).encode()
        page.sendall(b"POST /draw HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        server.process_request_thread(*server.get_request())
    assert page.fileno() == -1, "it was not asked to draw"
    assert capsys.readouterr().err == ""


def test_a_port_that_is_none_is_said(address: tuple[str, int]) -> None:
    for port in (address[1], 70000):
        with pytest.raises(
            PrologueError, match=f"cannot listen on 127.0.0.1:{port}: .*; give another --host or --port"
        ):
            serve(SimpleNamespace(), "127.0.0.1", port)  # type: ignore[arg-type]


def test_it_listens_on_the_loopback_and_keeps_its_page_to_itself(address: tuple[str, int]) -> None:
    assert ask(address, "/?preview=1")[0] == 200
    status, page, response = ask(address, "/")
    assert status == 200
    assert "<h1>Prologue playground</h1>" in page
    assert "default-src 'none'" in str(response.getheader("Content-Security-Policy"))
    for host, own, others in (
        ("127.0.0.1", ("127.0.0.1", "localhost", "::1"), ("10.0.0.7", "prologue.example", "")),
        ("0.0.0.0", ("10.0.0.7", "localhost", socket.gethostname().lower()), ("prologue.example", "")),
        ("gpu-node", ("gpu-node", "10.0.0.7"), ("prologue.example", "")),
    ):
        assert all(is_own_name(name, host) for name in own), host
        assert not any(is_own_name(name, host) for name in others), host
    with pytest.raises(PrologueError, match="give another --host or --port"):
        serve(Answers(load_generator("small")), *address)


def until(browser: Browser, condition: str) -> None:
    """Wait in the page for a condition."""
    browser.run(
        "new Promise((done, failed) => { const began = Date.now(); (function look() {"
        f" if ({condition}) done(); else if (Date.now() - began > 50000) failed(at('said').textContent);"
        " else setTimeout(look, 20); })(); })"
    )


def test_the_page_by_keyboard_on_a_phone(browser: Browser, address: tuple[str, int], tmp_path: Path) -> None:
    browser.open(f"http://{address[0]}:{address[1]}/", width=PHONE)
    until(browser, "document.activeElement.id === 'draw'")
    assert browser.run("document.documentElement.scrollWidth") <= PHONE
    assert browser.run("[...at('label').options].map((option) => option.text).join()") == "dawn,dusk"
    browser.press("Enter")
    until(browser, "document.querySelectorAll('#images img').length === 8 && !at('draw').disabled")
    pictures = browser.run("[...document.querySelectorAll('#images img')].map((image) => image.src).join()")
    first = browser.run("document.querySelector('#images figcaption a').href")
    assert json.loads(png_of(first.partition(",")[2]).text[RECIPE])["class"] == "dawn"

    browser.run("document.querySelector('#images figcaption button').focus()")
    browser.press("Enter")
    chips = "[...document.querySelectorAll('#chips input')]"
    until(browser, f"{chips}.length === 3")
    browser.run(
        f"(() => {{ const chip = {chips}[1]; chip.value = (Number(chip.value) + 1) % 8;"
        " chip.dispatchEvent(new Event('change')); at('draw').focus(); })()"
    )
    browser.press("Enter")
    until(browser, f"[...document.querySelectorAll('#images img')].map((image) => image.src).join() !== {pictures!r}")
    held = browser.run(f"{chips}.map((chip) => Number(chip.value))")
    drawn = browser.run("document.querySelector('#images button').title")
    assert drawn == " ".join(map(str, held))

    browser.run("(() => { at('release').click(); document.querySelectorAll('#images button')[1].click(); })()")
    browser.run("document.querySelectorAll('#images button')[5].click()")
    until(browser, "document.querySelectorAll('#images img').length === 4")
    assert browser.run("[...document.querySelectorAll('#images img')].map((image) => image.alt).join(';')") == (
        "dawn, image 1;dawn, the other's prologue, image 2;dawn, image 3;dawn, the other's prologue, image 4"
    )
    own = f"http://{address[0]}:{address[1]}/"
    assert all(request.startswith((own, "data:", "blob:")) for request in browser.requests)
    assert not browser.errors
    browser.screenshot(tmp_path / "phone.png")


def test_a_photo_is_dropped_in(browser: Browser, address: tuple[str, int], tmp_path: Path) -> None:
    Image.effect_noise((60, 40), 90).save(tmp_path / "photo.jpg")
    browser.open(f"http://{address[0]}:{address[1]}/")
    until(browser, "document.activeElement.id === 'draw'")
    file = browser.call("Runtime.evaluate", expression="at('file')")["result"]["objectId"]
    browser.call("DOM.setFileInputFiles", files=[str(tmp_path / "photo.jpg")], objectId=file)
    until(browser, "document.querySelectorAll('#photo img').length === 2")
    assert browser.run("document.querySelectorAll('#chips input').length") == 3
    browser.run("at('seed').value = ''; at('count').value = 99; at('draw').click()")
    until(browser, "!at('draw').disabled")
    browser.run("at('seed').value = 0; at('count').value = 2; at('draw').click()")
    until(browser, "document.querySelectorAll('#images img').length === 2")
    asked = [request for request in browser.requests if request.endswith("/draw")]
    assert len(asked) == 1, "what is out of range is not asked"
    assert not browser.errors
