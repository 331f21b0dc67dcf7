"""The README against the code: what it lists exists, and what exists it lists."""

import re

import pytest

from local_service import PROJECT
from serving.http.openapi import document
from serving.settings import Settings

README = (PROJECT / "README.md").read_text()


def section(title: str) -> str:
    """The text under a heading, up to the next heading of any level."""
    match = re.search(rf"^#+ {re.escape(title)}\n(.*?)(?=^#|\Z)", README, re.MULTILINE | re.DOTALL)
    assert match, f"the README has no section {title}"
    return match.group(1)


def test_every_setting_is_listed_with_its_default() -> None:
    # Some share a line: `API_KEYS`, `API_KEYS_FILE`.
    lines = re.findall(r"^\| ((?:`[A-Z_]+`(?:, )?)+) \| (.+?) \|", section("Settings"), re.MULTILINE)
    rows = {name: default for names, default in lines for name in re.findall("[A-Z_]+", names)}
    assert rows.keys() == Settings.model_fields.keys()
    for name, field in Settings.model_fields.items():
        if name not in {"MODELS_DIR", "STATE_DIR", "FORWARDED_ALLOW_IPS"} and field.default is not None:
            assert rows[name] == f"`{field.default}`"


def test_every_route_is_listed() -> None:
    listed = set(re.findall(r"`(GET|POST) (/[^`]*)`", section("The service")))
    paths = document("test", "1", "A test.")["paths"]
    documented = {(method.upper(), path) for path, item in paths.items() for method in item}
    assert listed == documented | {("GET", path) for path in ("/", "/docs", "/docs.json", "/logs")}


@pytest.mark.parametrize(
    "name",
    [
        "README.md",
        "CONTRIBUTING.md",
        "data/README.md",
        "docs/access.md",
        "docs/batching.md",
        "docs/capacity.md",
        "docs/drift.md",
        "docs/kubernetes.md",
        "docs/ledger.md",
        "docs/loop.md",
        "docs/monitoring.md",
        "docs/proxies.md",
        "docs/reload.md",
        "docs/runbook.md",
        "docs/tls.md",
    ],
)
def test_every_file_that_is_named_exists_or_is_made(name: str) -> None:
    text = (PROJECT / name).read_text()
    made = (
        "models/",
        "reports/",
        "data/retraining/",
        "data/feedback/",
        "metrics/",
        "mlruns/",
        "data/prepared/",
        "data/features/",
    )
    ours = re.findall(
        r"`((?:contract|training|serving|load_tests|monitoring|deploy|docs|tests|examples|requirements|data)/[\w./]*"
        r"|\w+\.(?:py|yaml|toml))`",
        text,
    )
    assert ours
    for path in ours:
        found = path.startswith(made) or any((base / path).exists() for base in (PROJECT, PROJECT / "data"))
        assert found or "yours" in path, f"{name} names {path}"
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (PROJECT / name).parent.joinpath(link).exists()


@pytest.mark.parametrize("name", ["bootstrap", "serving", "training", "dev", "clients", "mlflow-server", "ray"])
def test_locks_have_hashes_and_no_addresses(name: str) -> None:
    lock = (PROJECT / "requirements" / f"{name}.txt").read_text()
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
