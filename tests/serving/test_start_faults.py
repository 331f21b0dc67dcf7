"""What is damaged, missing or absurd when the service starts: one sentence that says what to do, and no stack."""

import hashlib
import json
import lzma
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import bentoml
import onnx
import pytest
from onnx import TensorProto, helper

from contract.datasets.iris import IRIS
from contract.errors import StartupError
from local_service import METRICS_DIRECTORY, PROJECT, free_port
from model.card import CARD_FILE, ONNX_FILE
from model.deployed import DEPLOYED_FILE, PREVIOUS_FILE, Deployment, DeploymentError
from serving.models import ARTIFACT_FOLDER, deployed_model, find, load
from serving.settings import Settings
from tests.serving import tiny_models
from tests.serving.test_startup import refusal

WAY_OUT = r"Run `|Delete |Set |Make room|Raise |Correct |Free |Name |Give |unset|start again|check out"
"""Each sentence says what to do."""


def refused(models: Path) -> str:
    """Why a start with these models is refused; everything else is a bug."""
    with pytest.raises((StartupError, DeploymentError), match=WAY_OUT) as told:
        load(IRIS, find(str(deployed_model("iris", models).tag), models))
    sentence = str(told.value)
    assert "\n" not in sentence
    assert "Traceback" not in sentence
    return sentence


# deployed.json and previous.json.


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b'{"housing": "housing:sha-0123", "ir',
        b"[]",
        b"null",
        b"3",
        b'"iris:sha-1"',
        b'{"iris": 3}',
        b'{"iris": null}',
        b'{"iris": ["iris:sha-1"]}',
        b'{"iris": ""}',
        b'{"iris": "iris"}',
        b'{"iris": "iris:"}',
        b'{"iris": "housing:sha-1"}',
        b'{"iris": "iris:../../etc"}',
        b'{"iris": "iris:A B"}',
        b'{"iris": "iris:' + b"a" * 100 + b'"}',
        b"\xff\xfe",
        b"[" * 100_000,
    ],
    ids=lambda content: repr(content[:30]),
)
def test_a_damaged_pointer_is_told(tmp_path: Path, content: bytes) -> None:
    (tmp_path / DEPLOYED_FILE).write_bytes(content)
    assert f"{DEPLOYED_FILE} must be a JSON object" in refused(tmp_path)


@pytest.mark.parametrize("name", [DEPLOYED_FILE, PREVIOUS_FILE])
def test_a_folder_in_the_place_of_a_pointer_is_told(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(DeploymentError, match=f"{name} must be a JSON object.*(Run|Delete)"):
        (Deployment(tmp_path).tags if name == DEPLOYED_FILE else Deployment(tmp_path).previous)()


# The stored model.


def artifact(stored: bentoml.Model) -> Path:
    return Path(stored.path_of(ARTIFACT_FOLDER))


def damaged(tmp_path: Path, damage: Callable[[Path], None]) -> str:
    stored = tiny_models.store(IRIS)
    damage(artifact(stored))
    tiny_models.pin(tmp_path, {"iris": str(stored.tag.version)})
    return refused(tmp_path)


def with_onnx(content: bytes) -> Callable[[Path], None]:
    """A model with the right checksum."""

    def damage(folder: Path) -> None:
        card = json.loads((folder / CARD_FILE).read_text())
        card["onnx"]["sha256"] = hashlib.sha256(content).hexdigest()
        (folder / CARD_FILE).write_text(json.dumps(card))
        (folder / ONNX_FILE).write_bytes(content)

    return damage


def graph(
    inputs: str = "input", outputs: str = "probabilities", columns: int = 4, kind: int = TensorProto.DOUBLE
) -> bytes:
    """A model that does nothing; it loads."""
    made = helper.make_graph(
        [helper.make_node("Identity", [inputs], [outputs])],
        "nothing",
        [helper.make_tensor_value_info(inputs, kind, [None, columns])],
        [helper.make_tensor_value_info(outputs, kind, [None, columns])],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def to_folder(name: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()

    return damage


def with_golden(rows: object) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        card = json.loads((folder / CARD_FILE).read_text())
        card["golden"] = rows
        (folder / CARD_FILE).write_text(json.dumps(card))

    return damage


GOOD = dict.fromkeys(IRIS.feature_names, 1.0)


@pytest.mark.parametrize(
    "damage",
    [
        to_folder(CARD_FILE),
        to_folder(ONNX_FILE),
        lambda folder: shutil.rmtree(folder),
        with_onnx(b""),
        with_onnx(b"garbage"),
        with_onnx(bytes(range(256)) * 100),
        with_onnx(graph()[:-20]),
        with_onnx(graph(inputs="other")),
        with_onnx(graph(outputs="other")),
        with_onnx(graph(columns=7)),
        with_onnx(graph(kind=TensorProto.STRING)),
        with_golden([]),
        with_golden([{"row": {}, "output": [0.3, 0.3, 0.4]}]),
        with_golden([{"row": GOOD, "output": []}]),
        with_golden([{"row": GOOD, "output": [1.0]}, {"row": GOOD, "output": [0.3, 0.3, 0.4]}]),
        with_golden([{"row": GOOD, "output": [1.0] * 7}]),
        with_golden("none"),
    ],
    ids=[
        "card a folder",
        "model a folder",
        "nothing",
        "empty model",
        "garbage",
        "bytes",
        "truncated model",
        "another input",
        "another output",
        "more columns",
        "text",
        "no golden rows",
        "golden row without features",
        "golden row without output",
        "ragged outputs",
        "too many outputs",
        "golden rows of text",
    ],
)
def test_a_damaged_model_is_told(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    assert "is damaged: " in damaged(tmp_path, damage)


def test_a_model_of_another_card_than_its_tag_says_is_refused(tmp_path: Path) -> None:
    onnx_content, card = tiny_models.artifact(IRIS)
    with bentoml.models.create("iris:sha-000000000000") as made:
        folder = artifact(made)
        folder.mkdir(parents=True)
        (folder / ONNX_FILE).write_bytes(onnx_content)
        (folder / CARD_FILE).write_text(card.model_dump_json())
    try:
        tiny_models.pin(tmp_path, {"iris": "sha-000000000000"})
        assert f"It holds the model {card.content_version}" in refused(tmp_path)
    finally:
        bentoml.models.delete("iris:sha-000000000000")


DESCRIPTIONS: list[tuple[str, Callable[[bytes], bytes]]] = [
    ("empty", lambda _: b""),
    ("a list", lambda _: b"[]"),
    ("open", lambda _: b"{"),
    ("bytes", lambda _: bytes(range(256))),
    ("truncated", lambda content: content[:200]),
    ("half", lambda content: content[: len(content) // 2]),
    ("no time", lambda content: content.replace(b"creation_time: ", b"creation_time: x")),
    ("another version", lambda content: content.replace(b"version: ", b"version: other", 1)),
    ("another name", lambda content: content.replace(b"name: iris", b"name: housing", 1)),
    ("a broken training run", lambda content: content.replace(b"trained_at:", b"trained_when:")),
]


@pytest.mark.parametrize(("kind", "change"), DESCRIPTIONS, ids=[kind for kind, _ in DESCRIPTIONS])
def test_a_damaged_description_is_told(tmp_path: Path, kind: str, change: Callable[[bytes], bytes]) -> None:
    stored = tiny_models.store(IRIS)
    tiny_models.pin(tmp_path, {"iris": str(stored.tag.version)})
    file = Path(stored.path) / "model.yaml"
    good = file.read_bytes()
    assert change(good) != good, kind
    file.write_bytes(change(good))
    try:
        assert "is damaged" in refused(tmp_path)
    finally:
        shutil.rmtree(stored.path)


# The export.


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, bytes]:
    """The version of an exported model, which is not in the store, and its archive."""
    stored = tiny_models.store(IRIS)
    file = tmp_path_factory.mktemp("exported") / "iris.bentomodel"
    bentoml.models.export_model(stored.tag, str(file))
    bentoml.models.delete(stored.tag)
    return str(stored.tag.version), file.read_bytes()


def archive(tmp_path: Path, files: dict[str, bytes]) -> bytes:
    folder = tmp_path / "files"
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    with tarfile.open(tmp_path / "made", "w:xz") as made:
        for name in files:
            made.add(folder / name, name)
    return (tmp_path / "made").read_bytes()


@pytest.mark.parametrize("share", [0, 0.001, 0.3, 0.5, 0.9, 0.99, 0.9999])
def test_a_truncated_archive_is_told(tmp_path: Path, exported: tuple[str, bytes], share: float) -> None:
    version, content = exported
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "iris.bentomodel").write_bytes(content[: int(len(content) * share)])
    tiny_models.pin(tmp_path, {"iris": version})
    assert "cannot be imported" in refused(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        b"garbage",
        lzma.compress(b"garbage" * 1000),
        lzma.compress(bytes(10_240)),
    ],
    ids=["no archive", "no tar", "empty tar"],
)
def test_what_is_no_archive_is_told(tmp_path: Path, exported: tuple[str, bytes], content: bytes) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "iris.bentomodel").write_bytes(content)
    tiny_models.pin(tmp_path, {"iris": exported[0]})
    refused(tmp_path)


@pytest.mark.parametrize("description", [b"", b"[]", b"name: iris", b"\xff", b"{", b"name: iris\nversion: other"])
def test_an_archive_of_something_else_is_told(tmp_path: Path, exported: tuple[str, bytes], description: bytes) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "iris.bentomodel").write_bytes(archive(tmp_path, {"model.yaml": description}))
    tiny_models.pin(tmp_path, {"iris": exported[0]})
    refused(tmp_path)


def test_an_archive_that_is_a_folder_is_told(tmp_path: Path, exported: tuple[str, bytes]) -> None:
    (tmp_path / "store" / "iris.bentomodel").mkdir(parents=True)
    tiny_models.pin(tmp_path, {"iris": exported[0]})
    refused(tmp_path)


# Settings.

NUMBERS = [
    name
    for name, field in Settings.model_fields.items()
    if {int, float} & set(getattr(field.annotation, "__args__", (field.annotation,)))
]

UNBOUNDED = {"SLOW_REQUEST_MS", "LEDGER_SPOOL_BYTES", "LEDGER_KEEP_BYTES"}
TOO_LARGE = {(name, str(2**80)) for name in ("LEDGER_SPOOL_BYTES", "LEDGER_KEEP_BYTES")}


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", [str(2**40), str(2**80), "1e400", "-1", "nan", "0x10", "1,5"])
def test_an_absurd_number_is_refused_or_harmless(name: str, value: str) -> None:
    # A time or a size without a natural end.
    harmless = {("SLOW_REQUEST_MS", "1e400"), *((name, str(2**power)) for name in UNBOUNDED for power in (40, 80))}
    if (name, value) in harmless and (name, value) not in TOO_LARGE:
        assert getattr(Settings.from_environment({name: value}), name) > 0
        return
    with pytest.raises(StartupError) as told:
        Settings.from_environment({name: value})
    assert f"{name}='{value}'" in str(told.value)
    assert "\n" not in str(told.value)


# The command itself.


def test_few_file_descriptors_are_told(pinned: Path) -> None:
    ended = subprocess.run(
        ["bash", "-c", f"ulimit -n 64; exec {sys.executable} -m bentoml serve"],
        cwd=PROJECT,
        env={
            **{name: text for name, text in os.environ.items() if name != METRICS_DIRECTORY},
            "MODELS_DIR": str(pinned),
            "API_PORT": str(free_port()),
            "GRPC_PORT": str(free_port()),
        },
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    printed = ended.stderr + ended.stdout
    assert ended.returncode != 0
    assert "may open 64 files" in printed
    assert "ulimit -n 4096" in printed
    assert "Traceback" not in printed
    assert "Aborted!" not in printed


def test_a_truncated_export_is_told_by_the_command(
    tmp_path: Path, stored: dict[str, str], exported: tuple[str, bytes]
) -> None:
    """A truncated archive raises EOFError, of which the command makes `Aborted!`."""
    version, content = exported
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "iris.bentomodel").write_bytes(content[: len(content) // 2])
    tiny_models.pin(tmp_path, {**stored, "iris": version})
    assert "cannot be imported" in refusal({"MODELS_DIR": str(tmp_path)})


@pytest.mark.parametrize("variable", ["STATE_DIR", METRICS_DIRECTORY, "LOG_FILE"])
def test_a_place_that_cannot_be_written_to_is_told(pinned: Path, tmp_path: Path, variable: str) -> None:
    """A file in the place of a folder: it stops root, too."""
    (tmp_path / "file").write_text("")
    place = str(tmp_path / "file" / "below")
    said = refusal({"MODELS_DIR": str(pinned), "LEDGER": "on", "STATE_DIR": str(tmp_path / "state"), variable: place})
    assert f"{variable}={place}" in said or f"log file {place}" in said


def test_two_servers_never_share_a_metrics_directory(pinned: Path, tmp_path: Path) -> None:
    from ledger import locks
    from serving.telemetry.directory import LOCK

    held = locks.acquire(tmp_path / LOCK)
    assert held is not None
    try:
        said = refusal({"MODELS_DIR": str(pinned), METRICS_DIRECTORY: str(tmp_path)})
    finally:
        os.close(held)
    assert "Another server uses" in said
