"""The pages of the tutorial, photographed in a newcomer's clone; ``make pictures`` puts them into ``docs/img``."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from local_service import PROJECT
from tests.integration.browser import Page, browser
from tests.integration.conftest import Newcomer
from tests.waiting import wait_until

PAGE = (PROJECT / "docs" / "tutorial.md").read_text()
ROWS = 500
"""Predictions on record that are enough to look at."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the pictures: ``PICTURES``, if it is set."""
    return Path(os.environ.get("PICTURES") or tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with browser("") as page:
        yield page


def photograph(page: Page, url: str, shown: str, path: Path, pressed: str = "") -> None:
    """A picture of a page once a text is shown on it, after something was pressed."""
    page.resize(1200, 900)
    page.open(url)
    if pressed:
        page.wait_for(f"document.readyState == 'complete' && document.querySelector({pressed!r}) !== null")
        page.run(f"document.querySelector({pressed!r}).click()")
    page.wait_for(f"location.href == {url!r} && document.body.innerText.includes({shown!r})")
    page.photograph(path)


@pytest.mark.weekly
def test_the_pages_are_as_the_tutorial_shows_them(served_once: Newcomer, page: Page, folder: Path) -> None:
    assert "make demo" in PAGE
    evaluation = served_once.clone / "reports/evaluation.html"
    photograph(page, evaluation.as_uri(), "Scores on", folder / "evaluation.png")
    with served_once.serving("make demo") as url:
        stats = f"{url}/logs/stats"
        wait_until(lambda: rows(stats) > ROWS, "the demo's predictions are on record", 300)
        photograph(page, f"{url}/?model=iris", "Answered by", folder / "try.png", ".actions button")
        photograph(page, f"{url}/docs", "/predict/housing", folder / "docs.png")
        # Live quality comes with what came true.
        wait_until(lambda: "rmse" in httpx.get(f"{url}/logs?window=1h").text, "the demo tells what came true", 300)
        photograph(page, f"{url}/logs?window=1h", "rmse", folder / "logs.png")


def rows(stats: str) -> int:
    """Predicted rows on record."""
    return sum(int(one["rows"]) for one in httpx.get(stats).raise_for_status().json()["models"])


def test_every_picture_of_the_tutorial_is_taken_by_a_test() -> None:
    taken = set(re.findall(r'"(\w+\.png)"', Path(__file__).read_text()))
    # The dashboards are drawn by the test of the monitoring.
    assert set(re.findall(r"\]\(img/(\S+)\)", PAGE)) == taken | {"service.png"}
