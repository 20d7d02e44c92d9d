import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rlff_lightning.report.page import render
from rlff_lightning.report.run_folder import find_run

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")
sync_api = pytest.importorskip("playwright.sync_api")
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed"),
    pytest.mark.timeout(600),
]
PHONE, DESK = {"width": 360, "height": 740}, {"width": 1280, "height": 900}


@pytest.fixture(scope="module")
def report(small_run: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = small_run(tmp_path_factory.mktemp("browser") / "run")
    file = folder / "report.html"
    file.write_text(render(find_run(folder), max_items=10), encoding="utf-8")
    return file.as_uri()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        # Without a sandbox of its own, for it may run as root in a container.
        chromium = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox"], timeout=240_000
        )
        yield chromium
        chromium.close()


@pytest.fixture
def visit(browser: Any, report: str) -> Iterator[Callable[..., Any]]:
    """Open the report; a console error, a script's error or a request fails the test."""
    trouble: list[str] = []
    contexts = []

    def open_page(viewport: dict[str, int], **settings: Any) -> Any:
        context = browser.new_context(viewport=viewport, **settings)
        contexts.append(context)
        context.set_default_timeout(120_000)
        page = context.new_page()
        page.on("console", lambda message: trouble.append(message.text))
        page.on("pageerror", lambda error: trouble.append(str(error)))
        page.on("request", lambda request: request.url != report and trouble.append(request.url))
        page.goto(report)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert trouble == []


def people(page: Any) -> list[str]:
    """First line of every entry of the list: problem and policy."""
    found: list[str] = page.locator("#list strong").all_inner_texts()
    return [" ".join(text.split()) for text in found]


def test_what_was_said_is_shown_as_it_was_said_and_runs_nothing(visit: Callable[..., Any]) -> None:
    page = visit(DESK)
    assert "</script><script>window.harmed" in page.locator("#pane .said").first.inner_text()
    assert page.evaluate("window.harmed") is None
    assert page.locator("#pane .verdict").all_inner_texts() == ["same \u22120.50", "solved +1.00"]


def test_filters_leave_what_they_say(visit: Callable[..., Any]) -> None:
    page = visit(DESK)
    assert len(people(page)) == 6
    page.locator("#filters").get_by_label("Policy").select_option("rlff")
    assert sorted(people(page)) == ["exam rlff", "moving rlff", "sleep rlff"]
    page.locator("#filters").get_by_label("Goal").select_option("true")
    assert sorted(people(page)) == ["exam rlff", "moving rlff"]
    assert page.locator("#list .ending").all_inner_texts() == ["reached", "reached"]
    page.locator("#filters").get_by_label("Problem").select_option("moving")
    assert people(page) == ["moving rlff"]
    assert page.locator("#count").inner_text() == "1 of 6"
    assert page.locator("#pane h3").inner_text() == "moving"
    page.locator("#filters").get_by_label("Words").fill("nobody said this")
    assert people(page) == []
    assert page.locator("#pane").inner_text() == ""
    page.locator("#filters").get_by_label("Words").fill("SAYS RLFF")
    assert people(page) == ["moving rlff"]


def test_the_reader_obeys_the_keyboard_alone(visit: Callable[..., Any]) -> None:
    page = visit(DESK)
    page.locator("#list button").first.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    assert page.locator("#list button[aria-current=true]").get_attribute("data-index") == "2"
    assert page.evaluate("document.activeElement.dataset.index") == "2"
    page.keyboard.press("End")
    assert page.locator("#pane .note").first.inner_text().startswith("rlff")
    # From the chosen tab an arrow moves on to the next.
    page.locator("[name=kind]:checked").focus()
    page.keyboard.press("ArrowRight")
    assert page.locator("#pane h4").inner_text() == "Candidates and their futures"


def test_the_same_person_is_one_step_away_with_another_policy(visit: Callable[..., Any]) -> None:
    page = visit(DESK)
    name = page.locator("#pane .note").first.inner_text().split(" \u00b7 ")[-1]
    page.locator("#pane .others").get_by_role("button", name="rlff").click()
    about = page.locator("#pane .note").first.inner_text().split(" \u00b7 ")
    assert (about[0], about[-1]) == ("rlff", name)


def test_candidates_stand_side_by_side_with_their_futures_and_rewards(
    visit: Callable[..., Any],
) -> None:
    page = visit(DESK)
    page.get_by_text("Simulated futures").click()
    assert page.locator("#list .ending").all_inner_texts() == ["2 tried, \u22120.25 to +0.75"]
    branches = page.locator("#pane .branch")
    assert branches.locator("header b").all_inner_texts() == ["+0.75", "\u22120.25"]
    first, second = (branches.nth(place).bounding_box() for place in range(2))
    assert first["y"] == second["y"]
    assert first["x"] + first["width"] < second["x"]
    assert branches.first.locator("h5").all_inner_texts() == [
        "Future 1: goal not reached",
        "Future 2: goal not reached",
    ]
    page.locator("#filters").get_by_label("reasoning").uncheck()
    assert not branches.first.locator(".thought").is_visible()
    page.get_by_text("Training samples").click()
    assert page.locator("#pane h3").inner_text() == "iteration 1"
    assert people(page) == ["iteration 1 policy"]


def test_a_phone_shows_the_list_then_the_conversation_and_back(visit: Callable[..., Any]) -> None:
    page = visit(PHONE)
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    assert not page.locator("#pane").is_visible()
    page.locator("#list button").nth(1).click()
    assert page.locator("#pane .said").first.is_visible()
    assert not page.locator("#list").is_visible()
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    page.go_back()
    page.locator("#list").wait_for()
    assert not page.locator("#pane").is_visible()


def test_the_page_ends_with_its_footer(visit: Callable[..., Any]) -> None:
    page = visit(DESK)
    footer = page.locator("footer").bounding_box()
    height = page.evaluate("document.documentElement.scrollHeight")
    assert height == pytest.approx(footer["y"] + footer["height"], abs=2)


@pytest.mark.parametrize(("scheme", "is_dark"), [("light", False), ("dark", True)])
def test_ink_and_paper_follow_the_reader_and_stay_apart(
    visit: Callable[..., Any], scheme: str, is_dark: bool
) -> None:
    page = visit(DESK, color_scheme=scheme)
    paper, ink = (
        page.evaluate(f"getComputedStyle(document.body)['{name}'].match(/\\d+/g).map(Number)")
        for name in ("backgroundColor", "color")
    )
    assert (sum(paper) < 200) is is_dark
    assert abs(sum(paper) - sum(ink)) > 500
