"""The page in a real browser, against a running server."""

import hashlib
import json
import os
import re
import shutil
import threading
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from rag import collection as shelf
from rag import ingest as steps
from rag.demo import documents
from rag.orchestrator import Orchestrator
from services import page as module
from services.app import create_app
from tests.services.serving import BELL_ROCK, local_orchestrator, running

UI = Path(module.__file__).parent / "ui"
# Nothing that a browser does of its own accord.
ARGUMENTS = ["--disable-gpu", "--disable-background-networking", "--disable-component-update",
             "--disable-sync", "--disable-quic", "--no-first-run"]  # fmt: skip
WCAG = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}
ASKED = "When was the Bell Rock Lighthouse first lit?"
EVIL = '<img src=x onerror="window.hurt=1"><script>window.hurt=1</script>'


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api", reason="pip install 'ragstone[dev]'")
    found = next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )
    if found is None:
        pytest.skip("There is no Chromium: install Debian's chromium.")
    root = ["--no-sandbox"] if os.geteuid() == 0 else []
    with api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=found, args=ARGUMENTS + root)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def served(lighthouse, tmp_path_factory):
    """A server over the sample collection, of which the tests of this file may delete."""
    with Orchestrator.open(tmp_path_factory.mktemp("page"), profile="starter") as rag:
        for name in ("embedder", "reranker", "generator", "late interaction"):
            getattr(lighthouse.parts, name.replace(" ", "_"))
            rag.parts._loaded[name] = lighthouse.parts._loaded[name]
        shelf.ensure(rag.parts, rag.scope, "default")
        for source in documents():
            rag.add(source)
        with running(create_app(orchestrator=rag)) as client:
            yield client, rag


class Tab:
    """A page of the browser that notes what it asks for and what goes wrong in it."""

    def __init__(self, browser, address, **options):
        self.address = address
        self.context = browser.new_context(**options)
        self.page = self.context.new_page()
        self.requests, self.errors, self.dialogs = [], [], []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on(
            "dialog", lambda dialog: (self.dialogs.append(dialog.message), dialog.dismiss())
        )
        self.page.goto(address)
        self.page.get_by_role("textbox", name="Your question").wait_for()

    def is_unharmed(self):
        """Nothing ran that should not, and nobody else was asked for anything."""
        assert self.page.evaluate("window.hurt") is None
        assert self.dialogs == []
        assert self.errors == []
        hosts = {urlsplit(url).netloc for url in self.requests if not url.startswith("data:")}
        assert hosts == {urlsplit(self.address).netloc}

    def ask(self, question):
        box = self.page.get_by_role("textbox", name="Your question")
        box.fill(question)
        box.press("Enter")
        self.page.locator(".below").last.wait_for()


@pytest.fixture
def tab(browser, served):
    client, _ = served
    opened = []

    def open_tab(address=str(client.base_url), **options):
        opened.append(Tab(browser, address, **options))
        return opened[-1]

    yield open_tab
    for one in opened:
        one.context.close()


def test_a_document_from_upload_to_citation_to_its_end(tab, served, tmp_path):
    client, _ = served
    one = tab()
    page = one.page
    page.get_by_role("button", name="Documents", exact=True).click()
    page.get_by_role("heading", name="Documents in default").wait_for()
    file = tmp_path / "skerryvore.txt"
    text = "Skerryvore stands on a rock off Tiree. 🗼 Alan Stevenson finished Skerryvore in 1844."
    file.write_text(text + " It is the tallest lighthouse of Scotland." * 200, "utf8")
    with page.expect_response(lambda response: "/events" in response.url) as progress:
        page.get_by_label("Files to add").set_input_files(file)
    assert progress.value.headers["content-type"].startswith("text/event-stream")
    upload = page.get_by_role("group", name="Upload of skerryvore.txt")
    upload.get_by_text(re.compile(r"ingested, \d+ passages")).wait_for()
    # Dropped is as good as picked: unchanged.
    page.evaluate(
        """text => {
            const data = new DataTransfer();
            data.items.add(new File([text], "dropped.txt", {type: "text/plain"}));
            for (const type of ["dragover", "drop"]) document.querySelector(".drop").dispatchEvent(
                new DragEvent(type, {dataTransfer: data, bubbles: true, cancelable: true}));
        }""",
        "The Fastnet lighthouse was finished in 1904.",
    )
    dropped = page.get_by_role("group", name="Upload of dropped.txt")
    dropped.get_by_text("ingested, 1 passages").wait_for()

    page.get_by_role("button", name="Ask", exact=True).first.click()
    one.ask("Who finished Skerryvore?")
    marker = page.get_by_role("button", name=re.compile("^Source 1")).first
    marker.hover()
    quote = page.get_by_role("tooltip").locator("q").inner_text()
    marker.click()
    mark = page.locator(".reader mark")
    mark.wait_for()
    assert mark.inner_text() == quote
    assert "Alan Stevenson" in quote  # behind a character of two UTF-16 units
    assert page.evaluate("document.querySelector('.reader mark').getBoundingClientRect().top") > 0
    page.keyboard.press("Escape")
    assert page.locator(".reader").count() == 0
    assert page.evaluate("document.activeElement.className") == "marker"

    page.reload()  # the conversation is still there
    page.get_by_role("heading", name="Who finished Skerryvore?").wait_for()
    page.get_by_role("button", name="Documents", exact=True).click()
    page.reload()  # and so is the place
    page.get_by_role("button", name="Delete skerryvore").click()
    page.get_by_role("button", name="Keep it").click()
    assert client.get("/v1/documents").text.count("skerryvore.txt") == 1
    page.get_by_role("button", name="Delete skerryvore").click()
    page.get_by_role("button", name="Delete it").click()
    page.get_by_role("button", name="Delete skerryvore").wait_for(state="detached")
    assert "skerryvore.txt" not in client.get("/v1/documents").text
    one.is_unharmed()


def test_a_page_of_a_pdf_is_named_and_the_trace_is_a_waterfall(tab):
    one = tab()
    one.ask(ASKED)
    page = one.page
    page.get_by_role("button", name=re.compile("^Source 1")).first.click()
    page.locator(".reader mark").wait_for()
    assert re.search(r"Page \d", page.locator(".reader .bar").inner_text())
    page.get_by_role("button", name="Close the document").click()
    page.get_by_text("How it came about").click()
    page.locator(".waterfall rect").first.wait_for()
    stages = page.locator(".waterfall dt").all_inner_texts()
    assert {"embed", "retrieve", "rerank", "generate"} <= set(stages)
    rows = page.get_by_role("region", name="Candidates").get_by_role("row")
    assert rows.count() == 21  # the first twenty under their head
    page.get_by_role("button", name="Show all").click()
    assert rows.count() > 21
    assert (
        "cited as 1"
        in rows.nth(1).inner_text() + rows.nth(2).inner_text() + rows.nth(3).inner_text()
    )
    page.get_by_text(re.compile(r"^\d+ passages$")).click()
    scores = page.locator(".sources .scores").first.inner_text()
    assert {"dense", "bm25", "fused", "rerank"} <= set(scores.split())
    page.get_by_role("button", name="Yes").click()
    page.get_by_text("Thank you").wait_for()
    one.is_unharmed()


def test_what_documents_and_models_write_does_nothing(tab, served):
    """Through file names, titles, metadata, Markdown, collection names, and answers themselves."""
    client, _ = served
    evil = (
        f"The secret of the lantern is {EVIL} [click](javascript:window.hurt=1)"
        " ![p](https://evil.example/p.png)"
        ' <a href="data:text/html,x" onclick="window.hurt=1">there</a>'
        " <iframe src='//evil.example'></iframe>"
        " <svg onload=window.hurt=1><style>*{background:url(https://evil.example/x)}</style></svg>."
    )
    files = {"files": (f"{EVIL}.md".replace("/", "_"), evil.encode(), "text/markdown")}
    sent = {"title": f"Title {EVIL}", "metadata": json.dumps({"note": EVIL}), "id": f"id {EVIL}"}
    made = client.post("/v1/documents?wait=true", files=files, data=sent)
    assert made.status_code == 200, made.text
    as_text = {
        "id": "evil-text",
        "title": f"T {EVIL}",
        "source": EVIL,
        "text": evil,
        "metadata": {"note": EVIL},
    }
    made = client.post("/v1/documents?wait=true", json={"documents": [as_text]})
    assert made.status_code == 200, made.text
    one = tab()
    page = one.page
    one.ask(f"What is the secret of the lantern? {EVIL}")
    page.get_by_text(re.compile(r"^\d+ passages$")).click()
    page.get_by_text("How it came about").click()
    page.locator(".waterfall rect").first.wait_for()
    if (marker := page.locator("button.marker")).count():
        marker.first.hover()
        marker.first.click()
        page.locator(".reader .text").wait_for()
        page.keyboard.press("Escape")
    page.get_by_role("button", name="Documents", exact=True).click()
    page.get_by_role("button", name=f"T {EVIL}", exact=True).click()
    page.locator(".reader .text").wait_for()
    assert EVIL in page.locator(".reader .text").inner_text()
    page.keyboard.press("Escape")
    page.get_by_role("button", name=f"Delete T {EVIL}").click()
    page.get_by_role("button", name="Delete it").click()
    one.is_unharmed()

    # An answer that is nothing but an attack, as a language model could be made to write it.
    answer = {
        "answer": f"{evil}\n\n```html\n{EVIL}\n```\n\n[1] <b onmouseover=window.hurt=1>x</b>",
        "citations": [{"marker": 1, "document_id": "x", "title": EVIL, "source": EVIL, "page": 1,
                       "headings": [], "quote": EVIL, "start": 0, "end": 1, "scores": {}}],
        "abstained": False, "models": {}, "timings": {EVIL: 1}, "trace_id": "", "cuts": [],
        "usage": {"prompt_tokens": 0, "completion_tokens": 0}, "notes": [EVIL], "hits": [],
        "sentences": [{"start": 0, "end": 40, "supported": False, "support": 0.1}],
    }  # fmt: skip
    body = f"event: done\ndata: {json.dumps(answer)}\n\n"
    page.route(
        "**/v1/ask", lambda route: route.fulfill(body=body, content_type="text/event-stream")
    )
    page.get_by_role("button", name="Ask", exact=True).first.click()
    one.ask("Hurt me")
    last = page.locator(".prose").last
    assert last.locator("script, img, iframe, svg, style, [onclick], [onmouseover]").count() == 0
    hrefs = last.locator("a").evaluate_all("links => links.map(link => link.getAttribute('href'))")
    assert all(href is None or href.startswith("http") for href in hrefs)
    assert last.locator(".unsupported").count() > 0  # what nothing supports is marked
    page.locator("button.marker").last.hover()
    one.is_unharmed()


def test_the_policy_lets_nothing_inline_run(tab, served):
    client, _ = served
    headers = client.get("/").headers
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-frame-options"] == "DENY"
    assert headers["cache-control"] == "no-cache"
    name = re.search(r"/assets/[^\"]+\.js", client.get("/").text).group()
    assert "immutable" in client.get(name).headers["cache-control"]
    for wrong in ("/assets/nothing.js", "/assets/..%2findex.html", "/assets/%2e%2e"):
        assert client.get(wrong).status_code == 404
    page = tab().page
    page.evaluate("""() => {
        try { document.body.insertAdjacentHTML("beforeend", "<b>x</b>") }
        catch (error) { window.refused = error.name }
    }""")
    assert page.evaluate("window.refused") == "TypeError"  # trusted types: no string becomes HTML


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(tab, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    one = tab(color_scheme=scheme)
    page = one.page

    def check(where):
        found = axe.run(page, options=WCAG).response["violations"]
        assert [(v["id"], [n["html"] for n in v["nodes"]]) for v in found] == [], where

    check("empty")
    one.ask(ASKED)
    page.get_by_text("How it came about").click()
    page.locator(".waterfall rect").first.wait_for()
    page.get_by_text(re.compile(r"^\d+ passages$")).click()
    page.get_by_text("How it is written").click()
    page.get_by_role("button", name="No", exact=True).click()
    check("an answer")
    page.get_by_role("button", name=re.compile("^Source 1")).first.click()
    page.locator(".reader mark").wait_for()
    check("a document")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Documents", exact=True).click()
    page.locator(".rows li").first.wait_for()
    page.get_by_text("Collections", exact=True).click()
    check("documents")
    page.get_by_role("button", name=re.compile("^Delete ")).nth(1).click()
    check("a question back")


def test_it_fits_a_phone(tab):
    one = tab(viewport={"width": 360, "height": 740})
    page = one.page

    def fits():
        """Neither the page nor what scrolls within it is wider than the screen."""
        return page.evaluate(
            """[document.documentElement, document.querySelector("main")].every(
                one => one.scrollWidth <= one.clientWidth)"""
        )

    assert fits()
    one.ask(ASKED)
    page.get_by_text("How it came about").click()
    page.locator(".waterfall rect").first.wait_for()
    assert fits()
    page.get_by_role("button", name=re.compile("^Source 1")).first.click()
    page.locator(".reader mark").wait_for()
    assert fits()
    page.get_by_role("button", name="Close the document").click()
    page.get_by_role("button", name="Documents", exact=True).click()
    page.locator(".rows li").first.wait_for()
    assert fits()
    delete = page.locator(".rows li > button").first.bounding_box()
    assert delete["height"] < 48  # its word is on one line


def test_it_can_be_used_by_keyboard_alone(tab):
    page = tab().page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "question":
            break
    page.keyboard.type(ASKED)
    page.keyboard.press("Enter")
    page.locator(".below").wait_for()
    page.keyboard.press("Shift+Tab")
    for _ in range(20):
        if page.evaluate("document.activeElement.classList.contains('marker')"):
            break
        page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    page.locator(".reader mark").wait_for()
    assert page.evaluate("document.activeElement.className") == "reader"
    page.keyboard.press("Escape")
    assert page.locator(".reader").count() == 0


def test_stopping_leaves_the_page_usable(tab):
    one = tab()
    page = one.page
    page.route("**/v1/ask", lambda _: None)  # it never answers
    box = page.get_by_role("textbox", name="Your question")
    box.fill("Anybody?")
    box.press("Enter")
    page.get_by_role("button", name="Stop").click()
    page.get_by_text("Stopped.").wait_for()
    page.unroute("**/v1/ask")
    one.ask(ASKED)
    one.is_unharmed()


def test_problems_say_what_to_do(tab):
    one = tab()
    page = one.page
    problem = {
        "type": "/problems/overloaded",
        "title": "Full",
        "status": 429,
        "detail": "16 requests are being worked on.",
        "hint": "Try again in a moment.",
    }
    page.route(
        "**/v1/ask",
        lambda route: route.fulfill(
            status=429,
            json=problem,
            headers={"Retry-After": "7", "Content-Type": "application/problem+json"},
        ),
    )
    box = page.get_by_role("textbox", name="Your question")
    box.fill("Anybody?")
    box.press("Enter")
    alert = page.get_by_role("alert").inner_text()
    assert alert == "16 requests are being worked on. Try again in a moment. Try again in 7 s."


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (
            'event: token\ndata: {"text": "The light was"}\n\n',
            "The answer broke off before its end.",
        ),
        (
            'event: error\ndata: {"status": 503, "detail": "No model.", "hint": "Wait."}\n\n',
            "No model. Wait.",
        ),
    ],
)
def test_an_answer_that_ends_too_early_says_so_and_another_may_be_asked_for(tab, body, said):
    one = tab()
    page = one.page
    stream = {"Content-Type": "text/event-stream"}
    page.route("**/v1/ask", lambda route: route.fulfill(body=body, headers=stream))
    box = page.get_by_role("textbox", name="Your question")
    box.fill("Anybody?")
    box.press("Enter")
    page.get_by_role("alert").get_by_text(said.split(".")[0]).wait_for()
    assert page.get_by_role("alert").inner_text().startswith(said)
    page.unroute("**/v1/ask")
    one.ask(ASKED)
    one.is_unharmed()


def test_what_is_being_ingested_is_shown_after_a_reload_and_when_the_connection_breaks(
    tab, served, monkeypatch
):
    one, go_on = tab(), threading.Event()
    page = one.page

    def parse(*arguments, parse=steps.parse):
        assert go_on.wait(60)
        return parse(*arguments)

    monkeypatch.setattr(steps, "parse", parse)
    page.get_by_role("button", name="Documents", exact=True).click()
    note = {"name": "slow.txt", "mimeType": "text/plain", "buffer": b"The Eddystone light."}
    page.get_by_label("Files to add").set_input_files(note)
    upload = page.get_by_role("group", name="Upload of slow.txt")
    upload.get_by_role("progressbar").wait_for()
    page.reload()
    upload.get_by_role("progressbar").wait_for()

    page.route("**/events", lambda route: route.abort())
    page.reload()
    upload.get_by_text("The connection broke off.").wait_for()
    page.unroute("**/events")
    go_on.set()
    upload.get_by_text("ingested, 1 passages").wait_for()
    assert upload.get_by_text("The connection broke off.").count() == 0
    page.get_by_role("button", name="Delete slow").wait_for()
    client, _ = served
    (row,) = [row for row in client.get("/v1/documents").json()["documents"] if "slow" in row["id"]]
    assert client.delete(f"/v1/documents/{row['id']}").is_success
    one.is_unharmed()


def test_a_key_is_asked_for_and_decides_what_is_shown(browser, own_parts):
    key, text = own_parts.keys.create("reader", "read", collections=None)
    _, admins = own_parts.keys.create("admin", "admin", collections=None, groups=None)
    with running(create_app(orchestrator=local_orchestrator(own_parts))) as client:
        sent = {"documents": [{"id": "bell-rock", "title": "Bell Rock", "text": BELL_ROCK}]}
        headers = {"Authorization": f"Bearer {admins}"}
        assert client.post("/v1/documents?wait=true", json=sent, headers=headers).is_success
        one = Tab(browser, str(client.base_url))
        page = one.page
        page.get_by_role("heading", name="An API key is needed").wait_for()
        page.get_by_label("Key", exact=True).fill(text)
        page.get_by_role("button", name="Use it").click()
        page.get_by_role("heading", name="An API key is needed").wait_for(state="detached")
        one.ask("Who built Bell Rock?")
        page.get_by_role("button", name="Documents", exact=True).click()
        page.get_by_role("button", name="Bell Rock", exact=True).wait_for()
        assert (
            page.get_by_role("button", name=re.compile("^Delete")).count() == 0
        )  # it may only read
        assert page.locator(".drop").count() == 0
        own_parts.keys.revoke(key.prefix)
        page.reload()
        page.get_by_role("heading", name="Another API key").wait_for()
        page.get_by_role("button", name="Forget the key").click()
        page.get_by_role("heading", name="An API key is needed").wait_for()
        assert page.evaluate("sessionStorage.getItem('ragstone-key')") is None
        assert all(text not in url for url in one.requests)
        one.context.close()


def test_what_is_served_is_what_the_sources_build():
    """Needs no Node: the build notes the digest of what it was made of."""
    names = ["index.html", "package-lock.json", "tsconfig.json", "vite.config.js"]
    names += [f"src/{path.name}" for path in (UI / "src").iterdir()]
    digest = hashlib.sha256()
    for name in sorted(names):
        digest.update(name.encode() + b"\0" + (UI / name).read_bytes() + b"\0")
    built = (UI / "dist" / "sources.sha256").read_text()
    assert built == digest.hexdigest(), "run `npm ci && npm run build` in services/ui"
