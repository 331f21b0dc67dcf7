from pathlib import Path

import pandas as pd
import pytest

from training import files


def test_json_refuses_what_json_lacks_and_keeps_the_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "report.json"
    files.write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="JSON compliant"):
        files.write_json(path, {"a": float("nan")})
    assert path.read_text() == '{\n  "a": 1\n}\n'
    assert [found.name for found in path.parent.iterdir()] == ["report.json"]


def test_failed_file_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "file"
    files.write_text(path, "old")

    def fail() -> None:
        with files.replaced_file(path) as partial:
            partial.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_failed_directory_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "model"
    with files.replaced_directory(path) as partial:
        (partial / "a").write_text("old")

    def fail() -> None:
        with files.replaced_directory(path) as partial:
            (partial / "b").write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert [found.name for found in path.iterdir()] == ["a"]
    assert list(tmp_path.iterdir()) == [path]


def test_directory_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "model"
    for name in ("a", "b"):
        with files.replaced_directory(path) as partial:
            (partial / name).touch()
    assert [found.name for found in path.iterdir()] == ["b"]


@pytest.mark.parametrize("left_over", [".model.partial", ".model.former"])
def test_what_a_killed_stage_left_does_not_matter(tmp_path: Path, left_over: str) -> None:
    (tmp_path / left_over).mkdir()
    (tmp_path / left_over / "half").touch()
    with files.replaced_directory(tmp_path / "model") as partial:
        (partial / "a").touch()
    assert [found.name for found in tmp_path.rglob("*") if found.is_file()] == ["a"]


def test_parquet_has_no_index(tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": [1.5, 2.5]}, index=[7, 8])
    files.write_parquet(tmp_path / "table.parquet", frame)
    assert pd.read_parquet(tmp_path / "table.parquet").to_dict("list") == {"a": [1.5, 2.5]}


@pytest.mark.parametrize(
    ("content", "checksum"),
    [
        (b"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
        (b"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
    ],
)
def test_sha256(tmp_path: Path, content: bytes, checksum: str) -> None:
    (tmp_path / "file").write_bytes(content)
    assert files.sha256(tmp_path / "file") == checksum
