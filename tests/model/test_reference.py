from pathlib import Path

import numpy as np
import pytest

from model.card import REFERENCE_FILE, ModelCard
from model.reference import REFERENCE_ROWS, Reference
from model.session import ArtifactError
from tests.training.tiny_models import PLOTS, card


def rows(count: int) -> Reference:
    draws = np.random.default_rng(0)
    return Reference(draws.normal(size=(count, 3)), draws.normal(size=(count, 1)), draws.normal(size=count))


def of_reference(reference: Reference, directory: Path) -> ModelCard:
    """The card of an artifact with this reference, which is written."""
    content, described = reference.encode()
    (directory / REFERENCE_FILE).write_bytes(content)
    return card(PLOTS).model_copy(update={"reference": described})


def test_it_is_read_as_it_was_written(tmp_path: Path) -> None:
    written = rows(50)
    made = of_reference(written, tmp_path)
    read = Reference.read(tmp_path, made)
    for name in ("features", "outputs", "target"):
        assert np.array_equal(getattr(read, name), getattr(written, name))
    assert made.reference.rows == 50


def test_numpy_alone_reads_it(tmp_path: Path) -> None:
    of_reference(rows(5), tmp_path)
    with np.load(tmp_path / REFERENCE_FILE, allow_pickle=False) as arrays:
        assert {name: arrays[name].shape for name in arrays} == {"features": (5, 3), "outputs": (5, 1), "target": (5,)}


def test_equal_rows_have_equal_bytes_and_one_more_bit_changes_the_version() -> None:
    first, second = rows(50), rows(50)
    assert first.encode() == second.encode()
    second.features[7, 1] = np.nextafter(second.features[7, 1], 9)
    other = second.encode()[1]
    assert other != first.encode()[1]
    versions = {card(PLOTS).model_copy(update={"reference": one}).content_version for one in (first.encode()[1], other)}
    assert len(versions) == 2


def test_of_many_rows_it_is_a_sample_that_the_seed_tells() -> None:
    everything = rows(2 * REFERENCE_ROWS)
    parts = (everything.features, everything.outputs[:, 0], everything.target)
    first, again, other = (Reference.sample(*parts, seed=seed) for seed in (1, 1, 2))
    assert len(first.target) == REFERENCE_ROWS
    assert first.outputs.shape == (REFERENCE_ROWS, 1)
    assert first.encode() == again.encode() != other.encode()
    # Whole rows, each once.
    places = np.searchsorted(np.sort(everything.target), first.target)
    assert len(set(places.tolist())) == REFERENCE_ROWS
    index = {value: place for place, value in enumerate(everything.target.tolist())}
    chosen = [index[value] for value in first.target.tolist()]
    assert np.array_equal(everything.features[chosen], first.features)


def test_of_few_rows_it_has_all() -> None:
    everything = rows(120)
    sample = Reference.sample(everything.features, everything.outputs, everything.target, seed=1)
    assert np.array_equal(sample.features, everything.features)


@pytest.mark.parametrize(("content", "said"), [(None, "cannot be read"), (b"PK", "checksum")])
def test_a_damaged_one_is_refused(tmp_path: Path, content: bytes | None, said: str) -> None:
    made = of_reference(rows(5), tmp_path)
    (tmp_path / REFERENCE_FILE).unlink()
    if content is not None:
        (tmp_path / REFERENCE_FILE).write_bytes(content)
    with pytest.raises(ArtifactError, match=said):
        Reference.read(tmp_path, made)
