"""Keys: how they are made and written down, and files of them that change while the service runs."""

import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from contract.errors import StartupError
from local_service import PROJECT
from serving.keys import PREFIX, Holder, Key, KeyFile, Keys, Ring, digest, hashes, new_key
from serving.settings import Settings

# Fixed, since keys are in the names of tests, and each test process must find the same tests.
ONE, TWO, THREE = (f"{PREFIX}{name:x<43}" for name in ("one", "two", "three"))


def hash_of(key: str) -> str:
    return digest(key.encode()).hex()


def test_a_new_key_is_recognised_and_cannot_be_guessed() -> None:
    made = {new_key() for _ in range(100)}
    assert len(made) == 100
    assert all(re.fullmatch(rf"{PREFIX}[A-Za-z0-9]{{43}}", key) for key in made)


@pytest.mark.parametrize("ring", ["api", "admin", "metrics"])
def test_the_command_prints_a_key_and_its_hash_and_what_to_do(ring: str) -> None:
    command = [sys.executable, "-m", "serving.keys", "new", "--for", ring, "--name", "the shop"]
    ended = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True)
    key, line = re.fullmatch(r"key   (\S+)\nhash  (.+)\n", ended.stdout).groups()  # type: ignore[union-attr]
    assert line == f"{hash_of(key)} the shop"
    assert f"{ring.upper()}_KEYS_FILE" in ended.stderr
    # Shown once.
    assert ended.stdout.count(key) == 1
    assert key not in ended.stderr


@pytest.mark.parametrize("separator", [",", " ", "\n", ", ", "\t,\n"])
def test_a_setting_has_several_hashes(separator: str) -> None:
    text = separator.join([hash_of(ONE), hash_of(TWO).upper()])
    assert [key.digest.hex() for key in hashes(text)] == [hash_of(ONE), hash_of(TWO)]


@pytest.mark.parametrize("variable", [ring.value for ring in Ring])
@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (ONE, "entry 1 is a key, not its hash"),
        (f"{hash_of(TWO)},{ONE}", "entry 2 is a key, not its hash"),
        ("open sesame", "entry 1 is no SHA-256 hash"),
        (hash_of(ONE)[:-1], "entry 1 is no SHA-256 hash"),
        (hash_of(ONE) + "0", "entry 1 is no SHA-256 hash"),
        ("ü" * 64, "entry 1 is no SHA-256 hash"),
        (" , ", "there is no hash"),
        (",".join([hash_of(ONE)] * 1001), "there are 1001 hashes; at most 1000"),
    ],
)
def test_what_is_no_hash_is_refused_and_never_repeated(variable: str, text: str, problem: str) -> None:
    with pytest.raises(StartupError, match=f"{variable}: {problem}.*Correct or unset it") as refused:
        Settings.from_environment({variable: text})
    for word in text.replace(",", " ").split():
        assert word not in str(refused.value)
    assert refused.value.__suppress_context__


def test_settings_do_not_show_hashes() -> None:
    assert hash_of(ONE)[:8] not in repr(Settings.from_environment({"API_KEYS": hash_of(ONE)}))


def holders(found: Keys, *shown: str) -> list[Holder | None]:
    return [found.holder(key.encode()) for key in shown]


def test_a_ring_has_the_keys_of_the_setting_and_of_its_file(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# Clients.\n\n{hash_of(TWO)}   the shop  # since May\n  {hash_of(THREE).upper()}\n")
    environment = {"API_KEYS": hash_of(ONE), "API_KEYS_FILE": str(file), "METRICS_KEYS": hash_of(THREE)}
    found = Settings.from_environment(environment).keys()
    assert found.rings == {Ring.API, Ring.METRICS}
    one, two, three, four = holders(found, ONE, TWO, THREE, new_key())
    assert one == Holder(Key(digest(ONE.encode())), frozenset({Ring.API}))
    assert two == Holder(Key(digest(TWO.encode()), "the shop"), frozenset({Ring.API}))
    assert three is not None
    assert three.rings == {Ring.API, Ring.METRICS}
    assert four is None


def swap(link: Path, text: str) -> None:
    """Put a new directory in the place of the one that a link names, as the kubelet does with a Secret."""
    data = link.with_name(f"..data_{os.urandom(4).hex()}")
    data.mkdir()
    (data / "keys").write_text(text)
    new = link.with_name("..data_tmp")
    new.symlink_to(data.name)
    new.rename(link)


def rename(file: Path, text: str) -> None:
    new = file.with_suffix(".new")
    new.write_text(text)
    new.rename(file)


@pytest.mark.parametrize("way", ["written", "renamed", "Kubernetes"])
def test_a_file_that_changed_is_read_again(tmp_path: Path, way: str, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "keys"
    change: Callable[[str], object] = file.write_text
    if way == "renamed":
        change = lambda text: rename(file, text)  # noqa: E731
    elif way == "Kubernetes":
        file.symlink_to("..data/keys")
        change = lambda text: swap(tmp_path / "..data", text)  # noqa: E731
    change(hash_of(ONE))
    found = Keys({}, {Ring.API: file})
    assert not found.reread()
    # As long as before, and maybe within the same tick of the file system's clock.
    change(hash_of(TWO))
    assert found.reread()
    assert [bool(holder) for holder in holders(found, ONE, TWO)] == [False, True]
    (record,) = caplog.records
    assert vars(record) | {"setting": "API_KEYS_FILE", "keys": 1, "added": 1, "removed": 1} == vars(record)
    assert not found.reread()


def break_up(file: Path) -> None:
    file.unlink()
    file.mkdir()


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (Path.unlink, "No such file or directory"),
    "directory": (break_up, "Is a directory"),
    "empty": (lambda file: file.write_text("# none\n"), "there is no hash"),
    "a key": (lambda file: file.write_text(f"{hash_of(TWO)}\n{THREE}\n"), "line 2 is a key, not its hash"),
    "cut off": (lambda file: file.write_text(hash_of(TWO)[:30]), "line 1 is no SHA-256 hash"),
    "not text": (lambda file: file.write_bytes(b"\xff\xfe\x00"), "not UTF-8"),
    "large": (lambda file: file.write_text("#" * 2_000_000), "larger than"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_file_that_breaks_keeps_the_last_keys_and_the_log_says_so_once(
    tmp_path: Path, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    damage, reason = BROKEN[what]
    file = tmp_path / "keys"
    file.write_text(hash_of(ONE))
    found = Keys({}, {Ring.API: file})
    damage(file)
    for _ in range(3):
        assert not found.reread()
    assert [bool(holder) for holder in holders(found, ONE, TWO)] == [True, False]
    (record,) = caplog.records
    assert (record.levelno, record.getMessage()) == (logging.WARNING, "keys not reread")
    assert reason in vars(record)["reason"]
    assert THREE not in str(vars(record))
    # Once it is right again, it holds.
    if file.is_dir():
        file.rmdir()
    file.write_text(hash_of(TWO))
    assert found.reread()
    assert [bool(holder) for holder in holders(found, ONE, TWO)] == [False, True]


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_file_stops_the_start(tmp_path: Path, what: str) -> None:
    damage, reason = BROKEN[what]
    file = tmp_path / "keys"
    file.write_text(hash_of(ONE))
    damage(file)
    settings = Settings.from_environment({"ADMIN_KEYS_FILE": str(file)})
    with pytest.raises(StartupError, match=rf"ADMIN_KEYS_FILE names {re.escape(str(file))}.*{reason}") as refused:
        settings.keys()
    assert THREE not in str(refused.value)


def test_a_file_is_read_again_after_an_error_that_left_no_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A network file system may fail to read what it still shows unchanged."""
    path = tmp_path / "keys"
    path.write_text(hash_of(ONE))
    file = KeyFile("API_KEYS_FILE", path)
    path.write_text(hash_of(TWO))
    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", lambda *_: (_ for _ in ()).throw(OSError(5, "Input/output error")))
        assert not file.reread()
    assert file.reread()
    assert [record.getMessage() for record in caplog.records] == ["keys not reread", "keys reread"]
