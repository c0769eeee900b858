"""The page in a headless Chromium: typed, dropped, clicked, walked with keys; and what it must never do.

Needs playwright (``pip install playwright``; no browser of its own) and Chromium where `CHROMIUM` says.
"""

from __future__ import annotations

import base64
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from serving import COLOURS, Client, FakeEncoder, png, running

import proclip

PAGE = Path(proclip.__file__).parent / "serve" / "page"
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
KEY = "a-key-of-some-length"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("no Chromium: set CHROMIUM")
    with playwright.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=CHROMIUM)
        yield found
        found.close()


@pytest.fixture
def page(browser: Any, server: Client) -> Iterator[Any]:
    """The page of the server with an index; nothing may go wrong in it, and nothing be asked of another host."""
    yield from opened(browser, server.port)


def opened(browser: Any, port: int, **options: Any) -> Iterator[Any]:
    made = browser.new_page(**options)
    made.set_default_timeout(10_000)
    wrong: list[str] = []
    made.on("pageerror", lambda error: wrong.append(str(error)))
    made.on("console", lambda message: wrong.append(message.text) if "Security Policy" in message.text else None)
    own = (f"http://127.0.0.1:{port}/", "blob:", "data:")
    made.on("request", lambda one: None if one.url.startswith(own) else wrong.append(one.url))
    made.goto(f"http://127.0.0.1:{port}/")
    yield made
    made.close()
    assert not wrong


def names(page: Any) -> list[str]:
    return page.locator("#grid .name").all_text_contents()  # type: ignore[no-any-return]


@pytest.mark.slow
def test_results_come_as_one_types(page: Any) -> None:
    page.wait_for_selector("text=fake · 3 pictures")
    page.keyboard.type("something blue")  # the text has the focus from the start
    page.wait_for_selector("#grid li img[src^='blob:']")
    assert names(page)[0] == "blue.png"
    assert "The best 3 of 3 pictures" in page.text_content("#status")
    page.fill("#minus", "blue")
    page.fill("#text", "red blue")
    page.wait_for_selector("#grid li:first-child >> text=red.png")
    page.fill("#text", "")
    page.wait_for_selector("#grid li", state="detached")


@pytest.mark.slow
def test_an_overtaken_answer_is_never_shown(browser: Any) -> None:
    go_on, begun = threading.Event(), threading.Event()

    def before(kind: str, items: Any) -> None:
        if items == ["red"]:
            begun.set()
            go_on.wait(20)

    with running(FakeEncoder(before=before)) as client:
        for page in opened(browser, client.port):
            page.fill("#text", "red")
            assert begun.wait(10)
            page.fill("#text", "green")
            page.wait_for_timeout(400)  # the second request waits behind the first
            go_on.set()
            page.wait_for_selector("#grid li:first-child >> text=green.png")
            page.wait_for_timeout(300)
            assert names(page)[0] == "green.png"


@pytest.mark.slow
def test_a_picture_is_chosen_dropped_pasted_and_combined(page: Any) -> None:
    page.set_input_files("#file", {"name": "a.png", "mimeType": "image/png", "buffer": png(COLOURS["green"])})
    page.wait_for_selector("#grid li:first-child >> text=green.png")
    assert page.is_visible("#picked")
    for event, colour in (("drop", "blue"), ("paste", "red")):
        content = base64.b64encode(png(COLOURS[colour])).decode()
        page.evaluate(
            """([event, content]) => {
                const bytes = Uint8Array.from(atob(content), (c) => c.charCodeAt(0));
                const data = new DataTransfer();
                data.items.add(new File([bytes], "b.png", { type: "image/png" }));
                document.getElementById("slot").dispatchEvent(event === "drop"
                    ? new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true })
                    : new ClipboardEvent("paste", { clipboardData: data, bubbles: true, cancelable: true }));
            }""",
            [event, content],
        )
        page.wait_for_selector(f"#grid li:first-child >> text={colour}.png")
    page.fill("#text", "green")
    page.wait_for_selector("#balancing:visible")
    for value, first in ((0, "green"), (1, "red")):
        page.evaluate("(value) => { balance.value = value; balance.dispatchEvent(new Event('input')); }", value)
        page.wait_for_selector(f"#grid li:first-child >> text={first}.png")
    page.click("#remove")
    page.wait_for_selector("#picked", state="hidden")
    page.evaluate(
        """() => {
            const data = new DataTransfer();
            data.items.add(new File(["no picture"], "b.txt", { type: "text/plain" }));
            document.dispatchEvent(new DragEvent("drop", { dataTransfer: data }));
        }"""
    )
    page.wait_for_selector("#problem >> text=not a picture")


@pytest.mark.slow
def test_labels_are_edited_and_their_bars_follow(page: Any) -> None:
    page.set_input_files("#file", {"name": "a.png", "mimeType": "image/png", "buffer": png(COLOURS["red"])})
    page.wait_for_selector("#bars .best .share:not(:empty)")
    page.fill("#new", "red")
    page.keyboard.press("Enter")
    page.wait_for_selector("#bars li:nth-child(7).best")
    share = float(page.text_content("#bars .best .share").rstrip(" %"))
    assert share > 50
    assert page.locator("#bars li:nth-child(7) .track span").evaluate("(bar) => parseFloat(bar.style.width)") == share
    page.fill("#bars li:nth-child(7) input", "blue")
    page.fill("#new", "red")
    page.keyboard.press("Enter")
    page.wait_for_selector("#bars li:nth-child(8).best")
    assert page.locator("#bars li.best").count() == 1
    page.click("#bars li:nth-child(8) button")
    page.wait_for_selector("#bars li:nth-child(7).best")
    assert page.locator("#bars li").count() == 7
    page.fill("#template", "no place for a name")
    page.wait_for_selector("#template[aria-invalid=true]")


@pytest.mark.slow
def test_the_keyboard_alone_is_enough(page: Any) -> None:
    page.keyboard.type("a red car in front of a green house")
    page.wait_for_selector("#grid li:nth-child(3)")
    focused = "() => document.activeElement.getAttribute('aria-label') ?? document.activeElement.id"
    page.keyboard.press("ArrowDown")
    assert page.evaluate(focused).startswith("1: ")
    page.keyboard.press("ArrowRight")
    assert page.evaluate(focused).startswith("2: ")
    page.keyboard.press("End")
    assert page.evaluate(focused).startswith("3: ")
    page.keyboard.press("Home")
    page.keyboard.press("Enter")
    page.wait_for_selector("dialog[open] .heat")
    first = page.text_content("#detail-name")
    words = page.locator(".heat span")
    heat = {words.nth(n).text_content(): words.nth(n).get_attribute("title") for n in range(words.count())}
    assert list(heat) == ["a", "red", "car", "in", "front", "of", "green", "house"]  # the second "a" is one key here
    assert float(heat[first.removesuffix(".png")]) > 0
    page.keyboard.press("ArrowRight")
    assert page.text_content("#detail-name") != first
    page.wait_for_selector("dialog[open] .heat")
    page.keyboard.press("Escape")
    page.wait_for_selector("dialog[open]", state="detached")
    assert page.evaluate(focused).startswith("2: ")
    page.keyboard.press("Escape")
    assert page.evaluate(focused) == "text"
    page.keyboard.press("Escape")
    assert page.input_value("#text") == ""
    page.evaluate("() => document.activeElement.blur()")
    page.keyboard.press("/")
    assert page.evaluate(focused) == "text"
    assert page.input_value("#text") == ""


@pytest.mark.slow
def test_a_found_picture_becomes_the_query(page: Any) -> None:
    page.fill("#text", "blue")
    page.wait_for_selector("#grid img[src]")
    page.click("#grid li:first-child button")
    page.click("#use")
    page.wait_for_selector("#picked:visible")
    page.wait_for_selector("#bars .best .share:not(:empty)")


@pytest.mark.slow
def test_a_key_is_asked_for_and_kept(browser: Any) -> None:
    with running(key=KEY) as client:
        for page in opened(browser, client.port):
            page.fill("#key", "wrong-wrong-wrong")
            page.keyboard.press("Enter")
            page.wait_for_selector("#locked[open]")
            page.fill("#key", KEY)
            page.keyboard.press("Enter")
            page.wait_for_selector("text=3 pictures")
            page.reload()
            page.fill("#text", "red")
            page.wait_for_selector("#grid img[src^='blob:']")  # thumbnails are asked for with the key too


@pytest.mark.slow
def test_who_gives_no_key_is_asked_once(browser: Any) -> None:
    with running(key=KEY) as client:
        for page in opened(browser, client.port):
            page.wait_for_selector("#locked[open]")
            page.keyboard.press("Escape")
            page.fill("#text", "red")
            page.wait_for_selector("#problem >> text=load the page again to give it")
            assert page.evaluate("sessionStorage.getItem('key')") is None
            assert not page.is_visible("#locked")
            page.reload()
            page.fill("#key", KEY)
            page.keyboard.press("Enter")
            page.wait_for_selector("text=3 pictures")


@pytest.mark.slow
def test_without_an_index_words_and_picture_are_compared(browser: Any) -> None:
    with running(index=None) as client:
        for page in opened(browser, client.port):
            page.wait_for_selector("text=no index of pictures")
            assert not page.is_visible("#search")
            page.set_input_files("#file", {"name": "a.png", "mimeType": "image/png", "buffer": png(COLOURS["red"])})
            page.fill("#text", "a red car")
            page.wait_for_selector("#pair-why >> text=Most of it comes from “red”")


@pytest.mark.slow
def test_what_the_server_says_is_shown(browser: Any) -> None:
    with running() as client:
        for page in opened(browser, client.port):
            page.wait_for_selector("text=3 pictures")
            page.fill("#text", "blue")
            page.wait_for_selector("#grid li")
            page.fill("#minus", "blue")
            page.wait_for_selector("#problem >> text=cancel each other out")
            page.fill("#minus", "red")
            page.wait_for_selector("#problem", state="hidden")


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_screen_and_everything_has_a_name(browser: Any, server: Client, width: int) -> None:
    for page in opened(browser, server.port, viewport={"width": width, "height": 800}):
        page.fill("#text", "Donaudampfschifffahrtsgesellschaft " * 20)
        page.wait_for_selector("#grid img[src]")
        assert page.evaluate("() => document.documentElement.scrollWidth") <= width
        page.click("#grid li:first-child button")
        page.wait_for_selector("dialog[open] .heat")
        box = page.locator("dialog[open]").bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width
        nameless = page.evaluate(
            """() => [...document.querySelectorAll("input, textarea, button")]
                .filter((one) => !(one.labels?.length || one.getAttribute("aria-label") || one.textContent.trim()))
                .map((one) => one.id)"""
        )
        assert nameless == []


@pytest.mark.slow
def test_the_documentation_lists_every_operation(browser: Any, server: Client) -> None:
    for page in opened(browser, server.port):
        page.goto(f"http://127.0.0.1:{server.port}/docs")
        page.wait_for_selector("text=POST /v1/explain")
        headings = page.locator("article h2").all_text_contents()
        schema = server.get("/openapi.json")[1]
        wanted = {f"{method.upper()} {path}" for path, one in schema["paths"].items() for method in one}
        assert wanted <= set(headings)


SENTENCES = {
    "en": "a red fire engine with a ladder on the roof",
    "de": "ein rotes Feuerwehrauto mit einer Leiter auf dem Dach",
    "fr": "un camion de pompiers rouge avec une échelle sur le toit",
    "es": "un camión de bomberos rojo con una escalera en el techo",
    "it": "un camion dei pompieri rosso con una scala sul tetto della casa",
    "pt": "um caminhão de bombeiros vermelho com uma escada em cima do teto",
    "nl": "een rode brandweerwagen met een ladder op het dak",
    "pl": "czerwony wóz strażacki z drabiną na dachu w mieście",
    "tr": "çatısında merdiven olan kırmızı bir itfaiye aracı ve bir köpek",
    "sv": "en röd brandbil med en stege på taket och det är inte natt",
    "ru": "красная пожарная машина с лестницей на крыше",
    "uk": "червона пожежна машина з драбиною на даху її",
    "zh": "一辆屋顶上有梯子的红色消防车",
    "ja": "屋根にはしごがある赤い消防車",
    "ko": "지붕에 사다리가 있는 빨간 소방차",
    "ar": "سيارة إطفاء حمراء مع سلم على السطح",
    "fa": "یک ماشین آتش‌نشانی قرمز با نردبانی روی پشت بام",
    "hi": "छत पर सीढ़ी वाली लाल दमकल गाड़ी",
    "th": "รถดับเพลิงสีแดงที่มีบันไดบนหลังคา",
    "el": "ένα κόκκινο πυροσβεστικό όχημα με σκάλα στην οροφή",
    "": "fox",
}


def test_languages_are_guessed() -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("needs node")
    program = (
        "import { readFileSync } from 'node:fs';"
        f"const code = readFileSync({str(PAGE / 'language.js')!r}, 'utf8');"
        "const { guessLanguage } = await import('data:text/javascript;base64,' + Buffer.from(code).toString('base64'));"
        "for (const line of readFileSync(0, 'utf8').split('\\n')) console.log(guessLanguage(line).code);"
    )
    command = [node, "--input-type=module", "-e", program]
    done = subprocess.run(command, input="\n".join(SENTENCES.values()), capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[: len(SENTENCES)] == list(SENTENCES)


def test_the_page_is_small_and_asks_nothing_of_other_hosts() -> None:
    files = [path for path in PAGE.iterdir() if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 100_000
    for path in files:
        text = path.read_text()
        assert len(text.splitlines()) <= 400
        assert not re.findall(r"(?:https?:)?//[a-z]", text.replace("http://www.w3.org/2000/svg", "")), path.name
        assert "innerHTML" not in text
