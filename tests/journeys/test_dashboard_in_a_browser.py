"""An operator's night: sign in, read the first line, open the alert, see what changes while looking.

Observable oracles (assert ONLY on these): what a real Chromium shows, which requests it makes,
and what it complains about.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import threading
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import pytest
import uvicorn
from playwright.sync_api import Browser, Page, expect, sync_playwright
from pydantic import SecretStr
from sqlalchemy import text

from app import access, doorstep, main
from app.database import Database
from app.settings import Settings
from tests.app import board_cast
from tests.conftest import TEMPLATE

T = TypeVar("T")

ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--disable-lcd-text",
)
# What an eye needs of small text (WCAG 2.2, 1.4.3): 4.5 to 1 against the ground it stands on.
POOR_CONTRAST = """() => {
  const linear = (v) => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
  const ground = (e) => {
    for (; e; e = e.parentElement) {
      const colour = rgb(getComputedStyle(e).backgroundColor);
      if (colour.length < 4 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const poor = [];
  for (const e of document.querySelectorAll("main *, header *")) {
    const speaks = [...e.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!speaks || !e.checkVisibility() || e.closest("svg")) continue;
    const both = [light(rgb(getComputedStyle(e).color)), light(ground(e))];
    const ratio = (Math.max(...both) + 0.05) / (Math.min(...both) + 0.05);
    if (ratio < 4.5) poor.push(`${ratio.toFixed(2)} ${e.className} ${e.textContent.trim().slice(0, 40)}`);
  }
  return poor;
}"""
SIZES = {"readme": (1280, 800), "desk": (1440, 900), "phone": (390, 844)}


def _elsewhere(work: Coroutine[Any, Any, T]) -> T:
    """Runs it on a thread of its own: Playwright keeps a loop on this one."""
    with ThreadPoolExecutor(1) as other:
        return other.submit(asyncio.run, work).result()


@dataclass(slots=True)
class Desk:
    """The service on a real socket, and the key of *zita*, who watches."""

    url: str
    key: str
    database_url: str
    server: uvicorn.Server = field(repr=False)

    def change(self, statement: str) -> None:
        """Changes something behind the service's back."""

        async def changed() -> None:
            database = Database(self.database_url)
            async with database.begin() as connection:
                await connection.execute(text(statement))
            await database.close()

        _elsewhere(changed())


@pytest.fixture(scope="module")
def desk(postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    now = datetime.now(UTC)
    url = _elsewhere(board_cast.stage(postgres_url, TEMPLATE, "stage_of_browser", now))
    settings = Settings(
        data_dir=tmp_path_factory.mktemp("desk"),
        database_url=url,
        secret_key=SecretStr("a secret key for tests, long enough to be one"),
        log_level="error",
    )

    async def key() -> str:
        database = Database(url)
        async with database.begin() as connection:
            made = await access.issue_key(connection, name="zita", role="operator", now=now)
        await database.close()
        return made.token

    with doorstep.listen("127.0.0.1", 0) as listening:
        app = main.create_app(settings, role="api")
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False))
        thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listening])))
        thread.start()
        port = listening.getsockname()[1]
        try:
            yield Desk(f"http://127.0.0.1:{port}", _elsewhere(key()), url, server)
        finally:
            server.should_exit = True
            thread.join(timeout=20)


@pytest.fixture(scope="module")
def browser(desk: Desk) -> Iterator[Browser]:
    """A real Chromium; after the desk, so that nothing else is made while its loop runs here."""
    del desk
    chromium = (
        shutil.which("chromium")
        or shutil.which("chromium-browser")
        or shutil.which("google-chrome")
    )
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=chromium, args=list(ARGUMENTS))
        yield launched
        launched.close()


@contextmanager
def looking(
    browser: Browser,
    desk: Desk,
    *,
    size: str = "desk",
    scheme: str = "light",
    script: bool = True,
    may_say: str = "$nothing",
) -> Iterator[Page]:
    """A signed-in operator's page; fails if the browser complains or asks another origin.

    ``may_say`` is a pattern of what the browser may complain about, where that is the point.
    """
    width, height = SIZES[size]
    context = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme="dark" if scheme == "dark" else "light",
        java_script_enabled=script,
        reduced_motion="reduce",
    )
    page = context.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: said.append(f"error: {error}"))
    page.on(
        "request",
        lambda request: (
            None if request.url.startswith(f"{desk.url}/") else said.append(f"asked: {request.url}")
        ),
    )
    page.goto(f"{desk.url}/")
    page.get_by_label("Your operator key").fill(desk.key)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    yield page
    assert [words for words in said if not re.search(may_say, words)] == []
    context.close()


def _look_again(page: Page) -> None:
    """As if the operator came back to the tab: the page asks at once."""
    page.evaluate("() => document.dispatchEvent(new Event('visibilitychange'))")


def _open_alert(page: Page, title: str) -> None:
    page.locator("#open-alerts").get_by_role("link", name=title).click()
    expect(page.get_by_role("heading", name="Timeline")).to_be_visible()


@pytest.mark.parametrize("size", ["desk", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_an_operator_sees_at_once_what_is_wrong(
    browser: Browser, desk: Desk, size: str, scheme: str
) -> None:
    with looking(browser, desk, size=size, scheme=scheme) as page:
        first = page.get_by_role("heading", level=1)
        expect(first).to_contain_text(
            "Severe early warning: Gallium (semiconductors) since 2023-07-03"
        )
        assert first.bounding_box()["y"] < 120  # type: ignore[index]
        for name in ("Sectors", "Open alerts", "What changed", "Feeds", "Deliveries"):
            expect(page.get_by_role("heading", name=name)).to_be_visible()
        row = page.get_by_role("row", name="Semiconductors")
        expect(row).to_contain_text("early warning")
        expect(row).to_contain_text("severe")
        expect(row).to_contain_text("1 silent")
        expect(page.locator("#deliveries")).to_contain_text("suspended")
        expect(page.locator("#pulse")).to_contain_text("live")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_can_be_read_on_their_ground(browser: Browser, desk: Desk, scheme: str) -> None:
    with looking(browser, desk, scheme=scheme) as page:
        assert page.evaluate(POOR_CONTRAST) == []
        _open_alert(page, "Gallium")
        assert page.evaluate(POOR_CONTRAST) == []


def test_the_alert_is_drawn_and_the_same_values_stand_in_a_table(
    browser: Browser, desk: Desk
) -> None:
    with looking(browser, desk) as page:
        _open_alert(page, "Gallium")
        figures = page.locator("figure.plot")
        expect(figures).to_have_count(2)
        expect(figures.locator("canvas")).to_have_count(2)
        ink = page.evaluate(
            "() => [...document.querySelectorAll('figure canvas')].map((c) => new Set(new Uint32Array("
            "c.getContext('2d').getImageData(0, 0, c.width, c.height).data.buffer)).size)"
        )
        assert min(ink) > 20, "a canvas is empty"
        volume = figures.filter(has_text="Volume exported")
        volume.locator("summary").click()
        expect(volume.get_by_role("row", name="2023-08-31")).to_contain_text("7,833")
        canvas = volume.locator(".u-over")
        canvas.hover()
        expect(volume.locator(".readout")).to_contain_text("baseline")


def test_everything_can_be_reached_by_keyboard(browser: Browser, desk: Desk) -> None:
    with looking(browser, desk) as page:
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "Skip to what matters"
        reached = set()
        for _ in range(80):
            page.keyboard.press("Tab")
            reached.add(
                page.evaluate(
                    "document.activeElement.getAttribute('href') ?? document.activeElement.tagName"
                )
            )
            outlined = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
            assert outlined != "none" or page.evaluate("document.activeElement === document.body")
        links = set(
            page.evaluate(
                "[...document.querySelectorAll('a[href]')].map((a) => a.getAttribute('href'))"
            )
        )
        assert links - reached == set()
        assert "BUTTON" in reached


def test_without_javascript_everything_can_still_be_read(browser: Browser, desk: Desk) -> None:
    with looking(browser, desk, script=False) as page:
        expect(page.locator("#pulse")).to_contain_text("as of")
        _open_alert(page, "Germanium")
        page.locator("figure summary").click()
        expect(page.get_by_role("row", name="2023-08-31").first).to_contain_text("0")
        expect(page.get_by_role("heading", name="Who was told")).to_be_visible()


def test_the_page_follows_what_happens_and_keeps_the_reader_where_they_are(
    browser: Browser, desk: Desk
) -> None:
    with looking(browser, desk) as page:
        link = page.locator("#open-alerts").get_by_role("link", name="Suez")
        link.focus()
        desk.change("UPDATE alerts SET severity = 4 WHERE place = 'suez' AND state = 'open'")
        first = page.get_by_role("heading", level=1)
        expect(first).to_contain_text("Extreme early warning: Suez Canal", timeout=15_000)
        expect(page).to_have_title(re.compile(r"^extreme: Suez Canal \(shipping\)"))
        expect(link).to_be_focused()
        desk.change("UPDATE alerts SET severity = 3 WHERE place = 'suez' AND state = 'open'")
        _look_again(page)
        expect(first).to_contain_text("Gallium", timeout=15_000)


def _to_the_failing_delivery(page: Page) -> None:
    """From the board by links alone: the endpoint that fails, then what it is owed."""
    page.locator("#deliveries").get_by_role("link", name="dorado").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("dorado failing")
    page.get_by_role("navigation", name="Deliveries by state").get_by_role(
        "link", name="owed"
    ).click()
    page.locator("table.listed").get_by_role("link").first.click()
    expect(page.get_by_role("heading", name="Tries")).to_be_visible()


@pytest.mark.parametrize(
    ("size", "scheme"), [("desk", "light"), ("readme", "dark"), ("phone", "light")]
)
def test_an_operator_sees_why_a_subscriber_is_not_told(
    browser: Browser, desk: Desk, size: str, scheme: str
) -> None:
    def fits() -> None:
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), page.url
        assert page.evaluate(POOR_CONTRAST) == [], page.url

    with looking(browser, desk, size=size, scheme=scheme) as page:
        page.get_by_role("navigation", name="Pages").get_by_role("link", name="Deliveries").click()
        first = page.get_by_role("heading", level=1)
        expect(first).to_contain_text("2 of 3 endpoints in trouble")
        expect(page.locator("#verdict")).to_contain_text("ember is suspended since")
        expect(page.locator("#verdict")).to_contain_text("breaker open until")
        fits()
        page.get_by_role("link", name="Now").click()
        _to_the_failing_delivery(page)
        expect(page.locator("#verdict")).to_contain_text("Owed")
        tries = page.get_by_role("region", name="Tries and their times")
        expect(tries.get_by_role("row")).to_have_count(4)
        expect(tries.locator("svg rect.wait").first).to_have_attribute("width", re.compile(r"\d"))
        expect(tries.get_by_role("row").nth(1)).to_contain_text("4 ms")
        expect(page.locator("pre.answer").first).to_contain_text("upstream is away")
        fits()


def test_without_javascript_an_endpoint_is_suspended_and_resumed_by_keyboard(
    browser: Browser, desk: Desk
) -> None:
    with looking(browser, desk, script=False) as page:
        page.goto(f"{desk.url}/endpoints/sub_baltica")
        page.get_by_label("Suspend it, because").focus()
        page.keyboard.type("Their office moves.")
        page.keyboard.press("Enter")
        expect(page.locator(".said")).to_contain_text("It is suspended.")
        expect(page.locator("#verdict")).to_contain_text("suspended by zita: Their office moves.")
        page.get_by_label("Resume it, with").focus()
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        expect(page.locator(".said")).to_contain_text("It is resumed.")
        expect(page.get_by_role("heading", level=1)).to_contain_text("baltica active")


def test_what_is_typed_and_unfolded_stays_while_the_page_follows_and_nothing_jumps(
    browser: Browser, desk: Desk
) -> None:
    shifts = (
        "() => new Promise((done) => new PerformanceObserver((list) => done(list.getEntries()"
        ".reduce((sum, entry) => sum + entry.value, 0))).observe({type: 'layout-shift', buffered: true})"
        " || setTimeout(() => done(0), 300))"
    )
    with looking(browser, desk) as page:
        page.goto(f"{desk.url}/endpoints/sub_dorado")
        page.locator("#hours summary").click()
        reason = page.get_by_label("Suspend it, because")
        reason.fill("It pages them")
        desk.change("UPDATE subscriptions SET description = 'ring twice' WHERE id = 'sub_dorado'")
        _look_again(page)
        expect(page.get_by_text("ring twice")).to_be_visible(timeout=15_000)
        expect(reason).to_have_value("It pages them")
        expect(page.locator("#hours table")).to_be_visible()
        for path in ("/deliveries", "/endpoints/sub_ember", "/deliveries/msg_ember_1"):
            page.goto(f"{desk.url}{path}")
            expect(page.locator("#pulse")).to_have_attribute("data-state", "live")
            assert page.evaluate(shifts) < 0.01, path


def test_a_page_that_is_no_longer_live_says_so_and_recovers(browser: Browser, desk: Desk) -> None:
    with looking(browser, desk, may_say="gone") as page:
        expect(page.locator("#pulse")).to_have_attribute("data-state", "live")
        page.evaluate(
            "() => { window.kept = fetch; window.fetch = async () => { throw Error('gone'); }; }"
        )
        _look_again(page)
        expect(page.locator("#pulse")).to_contain_text("not live since", timeout=15_000)
        page.evaluate("() => { window.fetch = window.kept; }")
        _look_again(page)
        expect(page.locator("#pulse")).to_have_attribute("data-state", "live", timeout=15_000)


def test_a_key_that_is_revoked_sends_the_page_to_the_door(browser: Browser, desk: Desk) -> None:
    with looking(browser, desk, may_say="401") as page:
        desk.change("UPDATE keys SET expires_at = now() WHERE role = 'operator'")
        try:
            _look_again(page)
            expect(page.get_by_label("Your operator key")).to_be_visible(timeout=15_000)
        finally:
            desk.change("UPDATE keys SET expires_at = NULL WHERE role = 'operator'")


def test_the_picture_for_the_readme_is_small(browser: Browser, desk: Desk, tmp_path: Path) -> None:
    """Takes the picture again; copy it to docs/dashboard.png when the pages have changed."""
    with looking(browser, desk, size="readme") as page:
        picture = tmp_path / "dashboard.png"
        page.screenshot(path=picture)
    for taken in (picture, Path(__file__).parents[2] / "docs" / "dashboard.png"):
        assert 20_000 < taken.stat().st_size < 300_000
