import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import skops.io
from sklearn.ensemble import RandomForestClassifier

from training.registry.archives import normalise_skops, write_tar


@pytest.fixture
def forest() -> RandomForestClassifier:
    rows = np.random.default_rng(0).normal(size=(60, 3))
    return RandomForestClassifier(n_estimators=3, random_state=0).fit(rows, rows[:, 0] > 0)


def test_an_estimator_has_the_same_bytes_each_time_it_is_saved(forest: RandomForestClassifier, tmp_path: Path) -> None:
    first, second = tmp_path / "first.skops", tmp_path / "second.skops"
    trusted = ["sklearn.tree._tree.Tree"]
    skops.io.dump(forest, first)
    normalise_skops(first)
    loaded = skops.io.load(first, trusted=trusted)
    skops.io.dump(loaded, second)
    assert second.read_bytes() != first.read_bytes()
    normalise_skops(second)
    assert second.read_bytes() == first.read_bytes()
    rows = np.random.default_rng(1).normal(size=(20, 3))
    np.testing.assert_array_equal(loaded.predict_proba(rows), forest.predict_proba(rows))


def test_a_folder_has_the_same_bytes_whenever_and_however_it_was_written(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    (first / "below").mkdir(parents=True)
    for name in ("b", "a", "below/c"):
        (first / name).write_text(name)
    shutil.copytree(first, second)
    for path in second.rglob("*"):
        os.utime(path, (0, 0))
        path.chmod(0o700)
    write_tar(first, tmp_path / "first.tar.xz")
    write_tar(second, tmp_path / "second.tar.xz")
    assert (tmp_path / "first.tar.xz").read_bytes() == (tmp_path / "second.tar.xz").read_bytes()
    shutil.unpack_archive(tmp_path / "first.tar.xz", tmp_path / "unpacked", filter="data")
    assert (tmp_path / "unpacked/below/c").read_text() == "below/c"
