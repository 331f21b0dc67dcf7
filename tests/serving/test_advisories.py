"""BentoML's advisories, tried on the real service: docs/advisories.md."""

import io
import os
import pickle
import socket
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from contract.datasets.housing import HOUSING
from local_service import PROJECT
from model.deployed import DAMAGED, unpack

PAGE = (PROJECT / "docs" / "advisories.md").read_text()
ROUTES = ["/predict/housing", "/predict/iris", "/predict/housing/batch", "/v2/models/iris/infer", "/"]


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": "application/vnd.bentoml+pickle"},
        {"content-type": "application/vnd.bentoml.pickle"},
        {"content-type": "application/octet-stream"},
        # What the runner server took (CVE-2025-32375).
        {
            "content-type": "application/vnd.bentoml.multiple_outputs",
            "payload-container": "NdarrayContainer",
            "payload-meta": '{"format": "default"}',
            "batch-size": "1",
            "args-number": "1",
        },
    ],
    ids=["pickle", "pickle of runners", "octets", "runner"],
)
def test_nothing_is_unpickled(client: httpx.Client, tmp_path: Path, path: str, headers: dict[str, str]) -> None:
    mark = tmp_path / "mark"
    answer = client.post(path, content=pickle.dumps(Bomb(mark)), headers=headers)
    assert 400 <= answer.status_code < 500
    assert not mark.exists()


@pytest.mark.parametrize("path", ROUTES)
def test_a_long_multipart_boundary_costs_nothing(client: httpx.Client, path: str) -> None:
    boundary = "x" * 60
    body = (
        f'--{boundary}\r\ncontent-disposition: form-data; name="rows"\r\n\r\n1\r\n--{boundary}'.encode() + b"-" * 10**6
    )
    headers = {"content-type": f"multipart/form-data; boundary={boundary}"}
    answer = client.post(path, content=body, headers=headers)
    assert answer.status_code in {404, 405, 415}


@pytest.fixture
def bait() -> Iterator[tuple[str, list[str]]]:
    """A server that must not be asked: its URL, and who has come."""
    came: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            while True:
                try:
                    connection, address = listener.accept()
                except OSError:
                    return
                came.append(str(address))
                connection.close()

        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/secret", came


@pytest.mark.parametrize("content", ["value", "field", "body", "form"])
def test_no_url_is_fetched(client: httpx.Client, bait: tuple[str, list[str]], content: str) -> None:
    url, came = bait
    if content == "form":
        answer = client.post("/predict/housing", files={"file": (None, url)})
    elif content == "body":
        answer = client.post("/predict/housing", json=url)
    else:
        row = {**HOUSING.example, **({"MedInc": url} if content == "value" else {"file": url})}
        answer = client.post("/predict/housing", json=row)
    assert answer.status_code in {400, 415}
    assert not came


@pytest.mark.parametrize("name", ["ctx", "context", "__bentoml_context__"])
def test_a_caller_passes_no_context(client: httpx.Client, name: str) -> None:
    answer = client.post("/predict/housing", json={**HOUSING.example, name: {"state": {}}})
    assert answer.status_code == 400
    assert "unknown field" in answer.text


@pytest.mark.parametrize("end", ["%0A", "%0D", "%00", "/", "%2F", "?\n"])
def test_no_path_falls_through_to_bentoml(client: httpx.Client, end: str) -> None:
    answer = client.post(f"/predict/housing{end}".replace("\n", "%0A"), json=HOUSING.example)
    assert answer.status_code in {200, 404} if end.startswith("?") else answer.status_code == 404
    assert client.post(f"/predict_housing{end}".replace("\n", "%0A"), json=HOUSING.example).status_code == 404


@pytest.mark.parametrize("kind", ["link", "hard link", "absolute", "parent"])
def test_an_archive_writes_nothing_outside(tmp_path: Path, kind: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (folder := tmp_path / "model").mkdir()
    with tarfile.open(tmp_path / "evil.bentomodel", "w:xz") as archive:
        if kind in {"link", "hard link"}:
            entry = tarfile.TarInfo("way")
            entry.type = tarfile.SYMTYPE if kind == "link" else tarfile.LNKTYPE
            entry.linkname = str(outside)
            archive.addfile(entry)
            names = ["way/mark"]
        else:
            names = [str(outside / "mark") if kind == "absolute" else "../outside/mark"]
        for name in names:
            entry = tarfile.TarInfo(name)
            entry.size = 3
            archive.addfile(entry, io.BytesIO(b"bad"))
    with pytest.raises(DAMAGED):
        unpack(tmp_path / "evil.bentomodel", folder)
    assert not list(outside.iterdir())


def test_the_page_names_the_version_that_is_installed() -> None:
    import bentoml

    assert f"BentoML {bentoml.__version__};" in PAGE
