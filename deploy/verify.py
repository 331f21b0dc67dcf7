"""Real predictions of a service that runs: ``python deploy/verify.py --http URL [--grpc HOST:PORT]``.

It asks the service which models it has and makes a row of each decile of their training data. ``API_KEY`` is a key, if
the service asks for one. Over HTTP it needs nothing but Python; over gRPC it needs what the service's image has, so
``deploy_local.sh`` runs it in there.
"""

import argparse
import json
import math
import os
import ssl
import struct
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from typing import Any

TIMEOUT_SECONDS = 10
AUTHORIZATION = {"authorization": f"Bearer {key}"} if (key := os.environ.get("API_KEY")) else {}
TLS = ssl.create_default_context()
# A proxy of the environment has no business with a service of this machine.
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=TLS))


class VerificationFailed(Exception):
    """The service does not predict as it should; the sentence says where."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Verify, say a line for each model, and return the exit status."""
    parser = argparse.ArgumentParser(description="Check a running service with predictions by each of its models.")
    parser.add_argument("--http", required=True, help="its URL, as in http://localhost:8000")
    parser.add_argument("--grpc", help="its gRPC address, as in localhost:8001; without TLS")
    parser.add_argument("--insecure", action="store_true", help="take any certificate, as on this machine's loopback")
    options = parser.parse_args(arguments)
    if options.insecure:
        TLS.check_hostname = False
        TLS.verify_mode = ssl.CERT_NONE
    try:
        for line in verify(options.http, options.grpc):
            sys.stdout.write(f"{line}\n")
    except VerificationFailed as failure:
        sys.stderr.write(f"{failure}\n")
        return 1
    return 0


def verify(url: str, address: str | None = None) -> list[str]:
    """A line for each model that predicts.

    Raises:
        VerificationFailed: a model is missing, refuses a row, answers no finite number, or not the same over gRPC.
    """
    models = _json(f"{url}/models/info")["models"]
    if not models:
        raise VerificationFailed(f"{url} serves no model.")
    lines = []
    for name, model in models.items():
        features = [feature["name"] for feature in model["features"]]
        # Columns of deciles, read across: its rows grow in every feature.
        rows = [list(row) for row in zip(*(feature["deciles"] for feature in model["features"]), strict=True)][1:-1]
        predictions = [_predict(url, model, dict(zip(features, row, strict=True))) for row in rows]
        if len(set(predictions)) == 1:
            raise VerificationFailed(f"{name} predicts {predictions[0]} for every row.")
        line = f"{name} {model['version']}: {len(rows)} predictions over HTTP"
        if address:
            over_grpc = _infer(address, name, rows)
            if over_grpc != predictions:
                raise VerificationFailed(f"{name} predicts {over_grpc} over gRPC and {predictions} over HTTP.")
            line += ", the same over gRPC"
        lines.append(line)
    return lines


def _predict(url: str, model: dict[str, Any], row: dict[str, float]) -> float:
    """The prediction for one row, over ``/predict``."""
    answer = _json(f"{url}/predict/{model['name']}", row)
    prediction = answer.get("prediction")
    if not isinstance(prediction, (int, float)) or not math.isfinite(prediction):
        raise VerificationFailed(f"{model['name']} predicts {prediction!r} for {row}.")
    if answer["model"]["version"] != model["version"]:
        raise VerificationFailed(f"{model['name']}: {answer['model']['version']} answers, not {model['version']}.")
    return float(prediction)


def _infer(address: str, model: str, rows: list[list[float]]) -> list[float]:
    """The predictions for rows, over gRPC's ModelInfer with raw contents."""
    import grpc  # Over HTTP alone this file needs no library.
    from open_inference.grpc import protocol as pb
    from open_inference.grpc.service import GRPCInferenceServiceStub

    request = pb.ModelInferRequest(model_name=model)
    request.inputs.add(name="input", datatype="FP64", shape=[len(rows), len(rows[0])])
    request.outputs.add(name="predict")
    values = [value for row in rows for value in row]
    request.raw_input_contents.append(struct.pack(f"<{len(values)}d", *values))
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            answer = GRPCInferenceServiceStub(channel).ModelInfer(
                request, metadata=tuple(AUTHORIZATION.items()), timeout=TIMEOUT_SECONDS
            )
        except grpc.RpcError as error:
            raise VerificationFailed(
                f"{model} over gRPC at {address}: {error.code().name}: {error.details()}"
            ) from error
    # An answer has the form of the question: raw.
    form = "d" if answer.outputs[0].datatype == "FP64" else "q"
    return [float(value) for value in struct.unpack(f"<{len(rows)}{form}", answer.raw_output_contents[0])]


def _json(url: str, body: dict[str, float] | None = None) -> dict[str, Any]:
    data = None if body is None else json.dumps(body).encode()
    headers = {"content-type": "application/json", **AUTHORIZATION}
    request = urllib.request.Request(url, data, headers)  # noqa: S310 - the caller's URL
    try:
        with OPENER.open(request, timeout=TIMEOUT_SECONDS) as response:
            answer: dict[str, Any] = json.load(response)
            return answer
    except urllib.error.HTTPError as error:
        raise VerificationFailed(f"{url}: {error.code} {error.read().decode(errors='replace')}") from error
    except (OSError, ValueError) as error:
        raise VerificationFailed(f"{url}: {error}") from error


if __name__ == "__main__":
    sys.exit(main())
