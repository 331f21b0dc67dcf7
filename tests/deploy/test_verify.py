import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from contract import DATASETS
from local_service import free_port, running_service
from tests.serving import tiny_models

VERIFY = Path(__file__).parents[2] / "deploy" / "verify.py"
FEATURES = [{"name": "width", "deciles": [float(decile) for decile in range(11)]}]
MODEL = {"name": "iris", "version": "v1", "features": FEATURES}


def verify(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, VERIFY, *options], capture_output=True, text=True, check=False)


@pytest.mark.integration
def test_it_verifies_the_real_service(tmp_path: Path) -> None:
    tiny_models.pin(tmp_path, {name: str(tiny_models.store(dataset).tag.version) for name, dataset in DATASETS.items()})
    port = free_port()
    with running_service(environment={"MODELS_DIR": str(tmp_path), "WORKERS": "1", "GRPC_PORT": str(port)}) as url:
        both = verify("--http", url, "--grpc", f"127.0.0.1:{port}")
        assert not both.returncode, both.stderr
        for line, name in zip(both.stdout.splitlines(), DATASETS, strict=True):
            assert line.startswith(f"{name} ")
            assert line.endswith(": 9 predictions over HTTP, the same over gRPC")
        assert verify("--http", url).stdout.splitlines()[0].endswith("over HTTP")
        nowhere = verify("--http", url, "--grpc", f"127.0.0.1:{free_port()}")
        assert nowhere.returncode == 1
        assert "UNAVAILABLE" in nowhere.stderr


class Service(BaseHTTPRequestHandler):
    """Answers what it is told to, as no service of ours would."""

    answers: dict[str, object]

    def do_GET(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.answer()

    def answer(self) -> None:
        body = self.answers.get(self.path)
        self.send_response(200 if body is not None else 503)
        self.end_headers()
        self.wfile.write(b"not ready" if body is None else json.dumps(body).encode())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's names
        pass


@pytest.fixture
def strange() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Service) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.mark.parametrize(
    ("prediction", "said"),
    [
        ({"prediction": None, "model": {"version": "v1"}}, "predicts None"),
        ({"prediction": float("nan"), "model": {"version": "v1"}}, "predicts nan"),
        ({"prediction": "3", "model": {"version": "v1"}}, "predicts '3'"),
        ({"prediction": 3, "model": {"version": "v2"}}, "v2 answers, not v1"),
        ({"prediction": 3, "model": {"version": "v1"}}, "predicts 3.0 for every row"),
        (None, "503 not ready"),
    ],
)
def test_a_wrong_prediction_fails(strange: str, prediction: object, said: str) -> None:
    Service.answers = {"/models/info": {"models": {"iris": MODEL}}, "/predict/iris": prediction}
    ended = verify("--http", strange)
    assert ended.returncode == 1
    assert said in ended.stderr


def test_no_model_and_no_service_fail(strange: str) -> None:
    Service.answers = {"/models/info": {"models": {}}}
    assert "serves no model" in verify("--http", strange).stderr
    ended = verify("--http", f"http://127.0.0.1:{free_port()}")
    assert ended.returncode == 1
    assert "refused" in ended.stderr
