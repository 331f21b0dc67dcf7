"""The commands of the documentation, typed as they stand there; its site and the pages it names, in a browser."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from contract.datasets.iris import IRIS
from local_service import PROJECT
from tests.documentation import AS_TYPED, PAGES, commands
from tests.integration.browser import browser
from tests.integration.conftest import Newcomer
from tests.waiting import wait_until

PREDICTIONS = [
    example
    for page in ("README.md", "docs/tutorial.md")
    for example in re.findall(
        r"```sh\n(curl \S+ localhost:8000/predict/.*?)\n```\n```json\n(.*?)\n```",
        (PROJECT / page).read_text(),
        re.DOTALL,
    )
]
TYPED = sorted(
    {
        (number, command)
        for page in PAGES
        for command in commands(page)
        for number, pattern in enumerate(AS_TYPED)
        if re.fullmatch(pattern, command)
    }
)
"""The commands to type, in the order of ``AS_TYPED``."""


@pytest.fixture(scope="module")
def url(served_once: Newcomer) -> Iterator[str]:
    with served_once.serving("make serve") as url:
        yield url


def test_there_is_an_example_for_each_model() -> None:
    assert len(PREDICTIONS) == 5


@pytest.mark.parametrize(("command", "answer"), PREDICTIONS)
def test_an_example_answers_as_its_page_says(served_once: Newcomer, url: str, command: str, answer: str) -> None:
    got = json.loads(served_once.run(command.replace("localhost:8000", url)).stdout)
    told = json.loads(answer)
    assert got.keys() == told.keys()
    if "error" in told:
        assert got == told
        return
    # Training may differ in the last digits from machine to machine.
    assert got["prediction"] == pytest.approx(told["prediction"], rel=0.02)
    assert got["unit"] == told["unit"]
    assert got["model"]["name"] == told["model"]["name"]
    assert got.get("label") == told.get("label")


def test_commands_do_what_they_are_for(served_once: Newcomer, url: str) -> None:
    """One after the other: some read what those before them have written."""
    flower = next(json.loads(answer) for _, answer in PREDICTIONS if "setosa" in answer)
    own = httpx.post(f"{url}/predict/iris", json=IRIS.example).json()["prediction_id"]
    recorded = {"prediction_id": own}
    wait_until(
        lambda: httpx.get(f"{url}/logs/recent", params=recorded).raise_for_status().json()["predictions"],
        "the prediction is on record",
    )
    for _, command in TYPED:
        # The page's service is on another port here, and so is its prediction another one.
        typed = re.sub(r"(http://)?localhost:8000", url, command).replace(flower["prediction_id"], own)
        printed = served_once.run(typed).stdout
        assert printed, command
        if command.startswith("curl") and '"petal_length":200' not in command:
            assert "error" not in json.loads(printed), command


def test_the_site_loads_nothing_from_elsewhere_and_fits_a_phone(tmp_path: Path) -> None:
    shutil.copytree(PROJECT / "docs", tmp_path / "docs")
    shutil.copy(PROJECT / "zensical.toml", tmp_path)
    subprocess.run(
        [Path(sys.executable).with_name("zensical"), "build", "--strict"], cwd=tmp_path, check=True, capture_output=True
    )
    with browser("") as page:
        page.resize(360, 800)
        # Pictures; the widest table; a diagram; a page that was there before the site.
        for name in ("index", "reference/metrics", "explanation/architecture", "kubernetes"):
            url = (tmp_path / "site" / f"{name}.html").as_uri()
            page.open(url)
            page.wait_for(f"document.readyState == 'complete' && location.href == {json.dumps(url)}")
            page.wait_for("document.documentElement.scrollWidth <= 360")
            # A picture that is not there has no width.
            page.wait_for("[...document.images].every(image => image.naturalWidth > 0)")
        assert page.requested
        assert [one for one in page.requested if not one.startswith((tmp_path.as_uri(), "data:", "blob:"))] == []


def test_the_evaluation_page_shows_its_figures_in_a_browser(served_once: Newcomer) -> None:
    with browser("") as page:
        page.open((served_once.clone / "reports/evaluation.html").as_uri())
        page.wait_for("document.readyState == 'complete' && document.images.length >= 10")
        # A picture that is not there has no width.
        page.wait_for("[...document.images].every(image => image.naturalWidth > 0)")
        assert page.run("[...document.images].every(image => image.alt && image.src.startsWith('data:image/png;'))")


def test_the_data_can_be_checked_as_the_data_page_says(served_once: Newcomer) -> None:
    assert "housing.csv: OK" in served_once.run("cd data/raw && sha256sum -c SHA256SUMS").stdout
