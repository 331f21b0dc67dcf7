import hashlib
from pathlib import Path

import numpy as np
import pytest

from model.card import CARD_FILE, ONNX_FILE
from model.session import Artifact, ArtifactError
from tests.training.tiny_models import PEBBLES, PEBBLES_WEIGHTS, PLOTS, PLOTS_WEIGHTS, card, write_model


def test_regression_answers_a_vector(tmp_path: Path) -> None:
    model = Artifact.read(write_model(tmp_path, PLOTS, PLOTS_WEIGHTS))

    np.testing.assert_allclose(model.predict(np.array([[1.0, 50, 10], [2.5, 50, 10]])), [2, 5])


def test_probabilities_add_up_in_double_precision(tmp_path: Path) -> None:
    model = Artifact.read(write_model(tmp_path, PEBBLES, PEBBLES_WEIGHTS))

    answer = model.predict(np.random.default_rng(0).normal(size=(200, 2)))

    assert answer.shape == (200, 3)
    np.testing.assert_allclose(answer.sum(axis=1), 1, rtol=0, atol=1e-15)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        (ONNX_FILE, None, "cannot be read"),
        (CARD_FILE, None, "cannot be read"),
        (CARD_FILE, b"{}", "was not written by this code"),
        (ONNX_FILE, b"another model", "checksum"),
    ],
)
def test_damage_is_told_in_a_sentence(tmp_path: Path, name: str, content: bytes | None, sentence: str) -> None:
    write_model(tmp_path, PLOTS, PLOTS_WEIGHTS)
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_bytes(content)

    with pytest.raises(ArtifactError, match=sentence):
        Artifact.read(tmp_path)


def test_what_is_no_onnx_is_told_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / ONNX_FILE).write_bytes(b"not a model")
    checksum = hashlib.sha256(b"not a model").hexdigest()
    (tmp_path / CARD_FILE).write_text(card(PLOTS, onnx_sha256=checksum).model_dump_json())

    with pytest.raises(ArtifactError, match="onnxruntime cannot load"):
        Artifact.read(tmp_path)
