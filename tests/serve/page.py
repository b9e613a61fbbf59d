"""The page in Chromium: writes, stops, shows alternatives, changes its theme, survives a restart of the server."""

import os
import pathlib
import signal
import sys
import time

from playwright.sync_api import sync_playwright

from server import Server, run

FOLDER = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else None
CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
PROMPT = "The rain had stopped, and the village came out to look."


def wait(page, expression, limit=60):
    """Playwright's own wait evaluates text in the page, which its policy forbids."""
    started = time.monotonic()
    while not page.evaluate(expression):
        assert time.monotonic() - started < limit, expression
        time.sleep(0.05)


def shot(page, name):
    if FOLDER:
        FOLDER.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=FOLDER / f"{name}.png")


def visit(browser, server, size, name):
    context = browser.new_context(viewport=size)
    page = context.new_page()
    wrong, hosts = [], set()
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.on("request", lambda request: hosts.add(request.url.split("/")[2]) if "://" in request.url else None)
    page.goto(server.url)
    wait(page, "document.querySelector('#model').textContent !== ''")

    # The text is that of `run`, in frames of a block.
    page.click("summary", no_wait_after=True)
    page.fill("#seed", "5")
    page.fill("#max_tokens", "24")
    page.fill("#n", "2")
    page.click("#write", no_wait_after=True)
    wait(page, "document.querySelector('#status').textContent.includes('tokens/s')")
    tokens = page.locator("article:first-child .token")
    assert tokens.count() == 24 and page.locator("article").count() == 2
    text = page.evaluate("[...document.querySelectorAll('article:first-child .token')].map((t) => t.textContent).join('')")
    assert run(PROMPT, 5, 24)["text"].startswith(text.rstrip("\ufffd")), text
    place = page.evaluate("document.querySelector('#answers .token').facts.place")
    assert page.locator("article:first-child .block").count() == (place + 24 + 3) // 4
    assert page.locator(".block.open").count() == 0

    # Alternatives by pointer and by keys.
    tokens.nth(3).hover()
    assert page.locator("#rows tr").count() >= 5
    tokens.first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.facts.place") == page.evaluate(
        "document.querySelectorAll('article:first-child .token')[5].facts.place"
    )
    shot(page, f"{name}-light")

    for theme in ["light", "dark"]:
        page.click("#theme", no_wait_after=True)
        assert page.evaluate("document.documentElement.dataset.theme") == theme
    shot(page, f"{name}-dark")
    page.click("#theme", no_wait_after=True)

    # Stop.
    page.fill("#max_tokens", "4000")
    page.fill("#n", "1")
    page.click("#write", no_wait_after=True)
    wait(page, "!document.querySelector('#stop').disabled && document.querySelectorAll('#answers .token').length > 8")
    page.click("#stop", no_wait_after=True)
    wait(page, "document.querySelector('#status').textContent.startsWith('Stopped')")
    server.wait_for("sequences_running", 0)

    # Guesses that came true are marked.
    page.fill("#prompt", "one two three four, " * 8)
    page.fill("#temperature", "0")
    page.fill("#max_tokens", "48")
    page.click("#write", no_wait_after=True)
    wait(page, "document.querySelector('#status').textContent.startsWith('48 tokens')")
    page.locator("#answers .token.guessed").first.hover()
    assert page.locator("#chosen").text_content().endswith(", guessed")
    shot(page, f"{name}-guessed")
    page.fill("#prompt", PROMPT)

    # Nothing is wider than the screen.
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "the page scrolls sideways"
    assert hosts == {server.url.split("/")[2]}, hosts
    assert not wrong, wrong
    return page


def main():
    # So slow that a text can be stopped before it ends.
    os.environ["CINDERBLOCK_ISA"] = "scalar"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        with Server("--threads", "1", "--speculate", "on") as server:
            visit(browser, server, {"width": 390, "height": 844}, "phone").close()
            page = visit(browser, server, {"width": 1280, "height": 900}, "desktop")
            page.fill("#max_tokens", "4000")
            page.click("#write", no_wait_after=True)
            wait(page, "!document.querySelector('#stop').disabled && document.querySelectorAll('#answers .token').length > 8")
            port = server.port
            server.stop(signal.SIGKILL)
            wait(page, "document.querySelector('#status').classList.contains('error')")
        with Server("--threads", "1", port=port):
            page.fill("#max_tokens", "8")
            page.click("#write", no_wait_after=True)
            wait(page, "document.querySelector('#status').textContent.includes('tokens/s')")
            assert page.locator("#answers .token").count() == 8
        browser.close()
    print("page: writes, stops, alternatives, themes, phone and desktop, a restart of the server")


main()
