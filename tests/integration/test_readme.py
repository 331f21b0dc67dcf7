"""The README's commands, typed as they stand there, and its pages, in a browser."""

import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.conftest import Newcomer

README = (Path(__file__).parents[2] / "README.md").read_text()
EXAMPLES = re.findall(r"```sh\n(curl .*?)\n```\n```json\n(.*?)\n```", README, re.DOTALL)


@pytest.fixture(scope="module")
def url(served_once: Newcomer) -> Iterator[str]:
    with served_once.serving("make serve") as url:
        yield url


def test_there_is_an_example_for_each_model() -> None:
    assert len(EXAMPLES) == 2


@pytest.mark.parametrize(("command", "answer"), EXAMPLES)
def test_an_example_answers_as_the_readme_says(served_once: Newcomer, url: str, command: str, answer: str) -> None:
    got = json.loads(served_once.run(command.replace("localhost:8000", url)).stdout)
    told = json.loads(answer)
    assert got.keys() == told.keys()
    # Training may differ in the last digits from machine to machine.
    assert got["prediction"] == pytest.approx(told["prediction"], rel=0.02)
    assert got["unit"] == told["unit"]
    assert got["model"]["name"] == told["model"]["name"]
    assert got.get("label") == told.get("label")


def dom(address: str, script_milliseconds: int = 10_000) -> str:
    """A page as a browser has it after its scripts ran."""
    browser = shutil.which("chromium")
    assert browser, "the integration tests need chromium: apt-get install chromium"
    with tempfile.TemporaryDirectory() as profile:
        shown = subprocess.run(
            [
                browser,
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-background-networking",
                "--no-first-run",
                f"--user-data-dir={profile}",
                f"--virtual-time-budget={script_milliseconds}",
                "--dump-dom",
                address,
            ],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
    return shown.stdout


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_the_api_page_shows_every_route_in_a_browser(url: str, path: str) -> None:
    page = dom(f"{url}{path}")
    for route in ("/predict/housing/batch", "/predict/iris", "/models/info"):
        # Swagger puts a word break into long paths.
        assert route in re.sub(r"<wbr[^>]*>|\u200b", "", page)
    assert "Failed to load" not in page


def test_the_evaluation_page_shows_its_figures_in_a_browser(served_once: Newcomer) -> None:
    page = dom(f"file://{served_once.clone}/reports/evaluation.html")
    figures = re.findall(r"<img[^>]*>", page)
    assert len(figures) >= 10
    assert all('src="data:image/png;base64,' in figure and "alt=" in figure for figure in figures)


def test_the_data_can_be_checked_as_the_data_page_says(served_once: Newcomer) -> None:
    assert "housing.csv: OK" in served_once.run("cd data/raw && sha256sum -c SHA256SUMS").stdout
