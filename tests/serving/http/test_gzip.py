"""Bodies that are compressed with gzip, on every POST route of the real service."""

import gzip
import json
import struct
import zlib

import httpx
import pytest

from contract.datasets.iris import IRIS
from contract.errors import cut
from tests.serving.http.test_guard import LIMIT, POSTS

ROW = POSTS["/predict/iris"]
GZIP = {"Content-Type": "application/json", "Content-Encoding": "gzip"}


@pytest.mark.parametrize("encoding", ["gzip", "GZip", "x-gzip", "identity, gzip"])
@pytest.mark.parametrize("path", POSTS)
def test_a_compressed_body_is_answered_as_the_same_body(client: httpx.Client, path: str, encoding: str) -> None:
    plain = client.post(path, content=POSTS[path])
    answer = client.post(path, content=gzip.compress(POSTS[path]), headers={**GZIP, "Content-Encoding": encoding})
    assert answer.status_code == plain.status_code == 200
    assert varying(answer) == varying(plain)


def varying(answer: httpx.Response) -> object:
    """An answer, without what differs from call to call."""
    content = answer.json()
    if isinstance(content, dict):
        content.pop("prediction_id", None)
        content.pop("parameters", None)
    return content


@pytest.mark.parametrize("encoding", ["identity", "Identity", "IDENTITY", ""])
@pytest.mark.parametrize("path", POSTS)
def test_identity_is_no_compression(client: httpx.Client, path: str, encoding: str) -> None:
    answer = client.post(path, content=POSTS[path], headers={"Content-Encoding": encoding})
    assert answer.status_code == 200


@pytest.mark.parametrize("encoding", ["br", "zstd", "deflate", "compress", "gzip, gzip", "gzip, br", "nonsense" * 30])
@pytest.mark.parametrize("path", POSTS)
def test_any_other_compression_is_refused_with_what_is_taken(client: httpx.Client, path: str, encoding: str) -> None:
    answer = client.post(path, content=zlib.compress(POSTS[path]), headers={**GZIP, "Content-Encoding": encoding})
    assert (answer.status_code, answer.headers["accept-encoding"]) == (415, "gzip")
    assert answer.json()["error"] == f"The body may be compressed with gzip, not with {cut(encoding)}."


WHOLE = gzip.compress(ROW)
BROKEN = {
    "plain": ROW,
    "empty": b"",
    "header": WHOLE[:10],
    "truncated": WHOLE[:-1],
    "damaged": WHOLE[:20] + bytes([WHOLE[20] ^ 0xFF]) + WHOLE[21:],
    "checksum": WHOLE[:-8] + b"12345678",
    "zlib": zlib.compress(ROW),
    "two members": WHOLE + WHOLE,
    "trailing": WHOLE + b"\0",
}


@pytest.mark.parametrize("body", BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("path", POSTS)
def test_what_is_no_gzip_is_refused_in_one_sentence(client: httpx.Client, path: str, body: bytes) -> None:
    answer = client.post(path, content=body, headers=GZIP)
    assert answer.status_code == 400
    assert "gzip" in answer.json()["error"]


@pytest.mark.parametrize("pieces", [1, 7])
def test_trailing_bytes_are_found_wherever_the_network_cuts(client: httpx.Client, pieces: int) -> None:
    body = WHOLE + b"\0"
    parts = (body[start : start + len(body) // pieces] for start in range(0, len(body), len(body) // pieces))
    assert client.post("/predict/iris", content=parts, headers=GZIP).status_code == 400


@pytest.mark.parametrize("path", ["/predict/iris/batch", "/v2/models/iris/infer", "/v2/repository/index"])
def test_the_limit_is_of_the_decompressed_body(client: httpx.Client, path: str) -> None:
    body = POSTS[path]
    assert client.post(path, content=gzip.compress(body.ljust(LIMIT)), headers=GZIP).status_code == 200
    for size in (LIMIT + 1, 500 * LIMIT):
        answer = client.post(path, content=gzip.compress(body.ljust(size), 1), headers=GZIP)
        assert (answer.status_code, f"{LIMIT} bytes" in answer.json()["error"]) == (413, True)


def test_the_limit_of_a_single_row_is_of_the_decompressed_body(client: httpx.Client) -> None:
    answer = client.post("/predict/iris", content=gzip.compress(ROW.ljust(70_000)), headers=GZIP)
    assert answer.status_code == 413


def test_the_compressed_body_has_the_limit_too(client: httpx.Client) -> None:
    answer = client.post("/predict/iris", content=gzip.compress(ROW.ljust(65_000), 0) + b"\0" * 1000, headers=GZIP)
    assert answer.status_code == 413


def test_the_length_of_the_json_is_that_of_the_decompressed_body(client: httpx.Client) -> None:
    values = list(IRIS.example.values())
    document = {
        "inputs": [
            {"name": "input", "shape": [1, 4], "datatype": "FP64", "parameters": {"binary_data_size": 32}},
        ]
    }
    head = json.dumps(document).encode()
    raw = struct.pack("<4d", *values)
    answer = client.post(
        "/v2/models/iris/infer",
        content=gzip.compress(head + raw),
        headers={
            "Content-Encoding": "gzip",
            "Content-Type": "application/octet-stream",
            "Inference-Header-Content-Length": str(len(head)),
        },
    )
    plain = client.post("/v2/models/iris/infer", content=POSTS["/v2/models/iris/infer"])
    assert answer.status_code == 200
    assert answer.json()["outputs"] == plain.json()["outputs"]
