"""The documentation against the code: what it lists exists, what exists it lists, and what it says to type is run."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import docs_reference
from contract import DATASETS
from local_service import PROJECT
from tests.documentation import AS_TYPED, ELSEWHERE, NOT_RUN, PAGES, commands, is_one_of
from tests.test_architecture import modules
from training.candidates import build
from training.params import CandidateParams, load

SITE = (PROJECT / "zensical.toml").read_text()
MADE = (
    "models/",
    "reports/",
    "data/retraining/",
    "data/feedback/",
    "metrics/",
    "mlruns/",
    "data/prepared/",
    "data/features/",
)
"""Folders that the pipeline writes."""


def name(page: Path) -> str:
    return str(page.relative_to(PROJECT))


def test_the_readme_is_short() -> None:
    assert len((PROJECT / "README.md").read_bytes()) <= 8_000


def test_generated_tables_are_not_stale(capsys: pytest.CaptureFixture[str]) -> None:
    assert docs_reference.main(["--check"]) == 0, capsys.readouterr().out


def test_a_stale_page_is_named_and_written_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"
    page.write_text("old")
    monkeypatch.setattr(docs_reference, "PROJECT", tmp_path)
    monkeypatch.setattr(docs_reference, "pages", lambda: {page: "new"})
    assert docs_reference.main(["--check"]) == 1
    assert capsys.readouterr().out == "page.md is stale: run `make docs-reference`.\n"
    assert page.read_text() == "old"
    assert docs_reference.main([]) == 0
    assert page.read_text() == "new"


def test_every_error_of_ours_is_in_the_reference() -> None:
    declared = {
        path.relative_to(PROJECT).with_suffix("").as_posix().replace("/", "."): path
        for path in modules()
        if re.search(
            r"^class \w+\((BundleError|StartupError|LedgerError|InvalidInput)\)", path.read_text(), re.MULTILINE
        )
    }
    assert set(declared) <= set(docs_reference.ERRORS)


def test_every_route_is_listed() -> None:
    """Those that the OpenAPI document does not have are written by hand."""
    page = (PROJECT / "docs/reference/routes.md").read_text()
    assert all(f"`GET {path}`" in page for path in ("/", "/docs", "/docs.json", "/openapi.json", "/logs", "/metrics"))


def test_the_site_is_built_without_a_warning_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    """In its strict mode, a link to a page or a heading that does not exist is an error."""
    shutil.copytree(PROJECT / "docs", tmp_path / "docs")
    shutil.copy(PROJECT / "zensical.toml", tmp_path)
    built = subprocess.run(
        [Path(sys.executable).with_name("zensical"), "build", "--strict"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) > 35
    for page in pages:
        loaded = re.findall(r"<(?:link|script|img|iframe)\b[^>]*?(?:href|src)=[\"']?([^\"' >]+)", page.read_text())
        assert loaded
        assert not [address for address in loaded if "//" in address], page.name


def test_every_page_is_in_the_navigation() -> None:
    named = re.findall(r'= "([\w/-]+\.md)"', SITE)
    assert sorted(named) == sorted(str(page.relative_to(PROJECT / "docs")) for page in (PROJECT / "docs").rglob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_file_that_is_named_exists_or_is_made(page: Path) -> None:
    text = page.read_text()
    ours = re.findall(
        r"`((?:contract|training|serving|load_tests|monitoring|deploy|docs|tests|examples|requirements|data)/[\w./]*"
        r"|\w+\.(?:py|yaml|toml))`",
        text,
    )
    for path in ours:
        found = path.startswith(MADE) or any((base / path).exists() for base in (PROJECT, PROJECT / "data"))
        assert found or "yours" in path or path == "kustomization.yaml", f"{name(page)} names {path}"
    for link in re.findall(r"\]\((?!http)([^)#]+)(?:#[^)]*)?\)", text):
        assert page.parent.joinpath(link).exists(), f"{name(page)} links to {link}"


@pytest.mark.parametrize("page", [page for page in PAGES if list(commands(page))], ids=name)
def test_every_command_is_run_or_has_its_reason(page: Path) -> None:
    for command in commands(page):
        kinds = [is_one_of(command, table) for table in (AS_TYPED, ELSEWHERE, NOT_RUN)]
        assert sum(kinds) == 1, f"{command}: tests/documentation.py must say what runs it, or why nothing does"


def test_what_runs_a_command_is_there() -> None:
    for file, word in ELSEWHERE.values():
        assert word in (PROJECT / file).read_text(), file


def test_the_examples_of_estimators_can_be_trained() -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", (PROJECT / "docs/how-to/own-estimator.md").read_text(), re.DOTALL)
    sections = [section for block in blocks for section in yaml.safe_load(block)["train"].items()]
    assert len(sections) == 2
    for dataset, section in sections:
        for title, candidate in section["candidates"].items():
            estimator = CandidateParams.model_validate(candidate)
            build(
                DATASETS[dataset],
                title,
                estimator,
                load(PROJECT / "params.yaml").training(dataset).features,
                random_state=1,
            )


def test_no_line_about_commands_is_left_over() -> None:
    typed = [command for page in PAGES for command in commands(page)]
    for pattern in (*AS_TYPED, *ELSEWHERE, *NOT_RUN):
        assert any(re.fullmatch(pattern, command) for command in typed), pattern


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("```sh\nmake serve   # starts it\n```\n", ["make serve"]),
        ("```console\n$ make serve\nready\n```\n", ["make serve"]),
        ("```sh\nrun --one \\\n    --two\n```\n", ["run --one --two"]),
        ("```sh\ncurl -d '[\n  1]' url\nmake a &\n```\n", ["curl -d '[ 1]' url", "make a"]),
        ("```sh\nexport A=1 # one\nB=2\nC=3 make serve\n```\n", ["C=3 make serve"]),
        ("```json\n{}\n```\n", []),
    ],
)
def test_commands_are_found(tmp_path: Path, text: str, found: list[str]) -> None:
    page = tmp_path / "page.md"
    page.write_text(text)
    assert list(commands(page)) == found


@pytest.mark.parametrize("lock_name", ["bootstrap", "serving", "training", "dev", "clients", "mlflow-server", "ray"])
def test_locks_have_hashes_and_no_addresses(lock_name: str) -> None:
    lock = (PROJECT / "requirements" / f"{lock_name}.txt").read_text()
    packages = re.findall(r"^[a-z0-9][^\s]*==", lock, re.MULTILINE)
    assert packages
    assert "--hash=sha256:" in lock
    assert "://" not in lock
    assert "index-url" not in lock


def test_serving_is_a_part_of_training_and_that_of_dev() -> None:
    def pins(name: str) -> set[str]:
        lock = (PROJECT / "requirements" / f"{name}.txt").read_text()
        return set(re.findall(r"^([a-z0-9][^\s;]*==[^\s;]+)", lock, re.MULTILINE))

    assert pins("serving") < pins("training") < pins("dev")
    assert not {pin.partition("==")[0] for pin in pins("serving")} & {"scikit-learn", "pandas", "mlflow", "dvc", "onnx"}
