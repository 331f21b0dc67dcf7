"""Keys: how they are made, and which are accepted.

A key is shown once, by ``python -m serving.keys new``. The service gets only SHA-256 hashes, in the environment or
in files, which are read again when they change. A key has 256 random bits: its hash needs neither salt nor stretching.
"""

import logging
import re
import secrets
import string
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from hmac import compare_digest
from pathlib import Path

import click

from contract.errors import StartupError

logger = logging.getLogger(__name__)

PREFIX = "mlpb_"
"""Prefix of every key, so that people and secret scanners recognise one."""
MAXIMUM_KEYS = 1000
"""Maximum hashes in one place: an unknown key is compared with all of them."""
MAXIMUM_FILE_BYTES = 1024 * 1024
_ALPHABET = string.ascii_letters + string.digits
_LETTERS = 43
"""43 of 62 letters are 256 bits."""
_HASH = re.compile(r"[0-9a-fA-F]{64}").fullmatch
_NAME_LETTERS = 60


class Ring(StrEnum):
    """The keys for one purpose, by the setting that names them; those of a file are in ``<setting>_FILE``."""

    API = "API_KEYS"
    ADMIN = "ADMIN_KEYS"
    METRICS = "METRICS_KEYS"


@dataclass(frozen=True, slots=True)
class Key:
    """What is known of a key: its SHA-256 hash, 32 bytes, and the name that its file gives it."""

    digest: bytes
    name: str = ""

    @property
    def label(self) -> str:
        """The first digits of the hash: they tell keys apart in the log and the ledger, and open nothing."""
        return self.digest.hex()[:16]


@dataclass(frozen=True, slots=True)
class Holder:
    """The holder of an accepted key: the key, and every ring it is on."""

    key: Key
    rings: frozenset[Ring]


def new_key() -> str:
    """A new key: the prefix and 256 random bits."""
    return PREFIX + "".join(secrets.choice(_ALPHABET) for _ in range(_LETTERS))


def digest(key: bytes) -> bytes:
    """The SHA-256 hash of a key, 32 bytes."""
    return sha256(key).digest()


def hashes(text: str) -> tuple[Key, ...]:
    """The keys of a setting: hashes in hexadecimal digits, between commas or white space.

    Raises:
        ValueError: names the position of what is no hash. The text itself is left out: it may be a key.
    """
    words = text.replace(",", " ").split()
    return _checked((Key(_hash(word, f"entry {number}")) for number, word in enumerate(words, 1)))


def file_hashes(text: str) -> tuple[Key, ...]:
    """The keys of a file: on each line a hash and, if there is one, a name; ``#`` begins a comment.

    Raises:
        ValueError: names the line without a hash, or says that there is none. The text itself is left out: it may be a
        key.
    """
    lines = ((number, line.partition("#")[0].split(maxsplit=1)) for number, line in enumerate(text.splitlines(), 1))
    return _checked(
        Key(_hash(words[0], f"line {number}"), " ".join(words[1:]).strip()[:_NAME_LETTERS])
        for number, words in lines
        if words
    )


def _hash(word: str, where: str) -> bytes:
    if _HASH(word):
        return bytes.fromhex(word)
    what = "a key, not its hash" if word.startswith(PREFIX) else "no SHA-256 hash of 64 hexadecimal digits"
    raise ValueError(f"{where} is {what}; `python -m serving.keys new` prints both")


def _checked(keys: Iterable[Key]) -> tuple[Key, ...]:
    found = tuple(keys)
    if not found:
        raise ValueError("there is no hash; `python -m serving.keys new` prints one")
    if len(found) > MAXIMUM_KEYS:
        raise ValueError(f"there are {len(found)} hashes; at most {MAXIMUM_KEYS} are taken")
    return found


class KeyFile:
    """A file of hashes.

    Args:
        variable: the setting that names it.
        path: where it is. A symbolic link is followed each time, as Kubernetes swaps them.

    Raises:
        StartupError: it cannot be read, or a line has no hash.
    """

    def __init__(self, variable: str, path: Path) -> None:
        self._variable = variable
        self._path = path
        self._state = self._look()
        self._told = ""
        """Why the file cannot be used, as logged last; None if it can."""
        try:
            self.keys = self._read()
        except (OSError, ValueError) as error:
            raise StartupError(f"{variable} names {path}, which cannot be used: {_reason(error)}.") from None

    def reread(self) -> bool:
        """Read the file again if it has changed. One that cannot be used changes nothing; the log says so once.

        Returns:
            Whether there are other keys now.
        """
        # Look before reading: what is written in between is read the next time.
        state = self._look()
        if state == self._state:
            return False
        self._state = state
        fields: dict[str, object] = {"setting": self._variable, "file": str(self._path)}
        try:
            keys = self._read()
        except (OSError, ValueError) as error:
            if isinstance(error, OSError):
                self._state = None  # Try again: it may be readable without having changed.
            reason = _reason(error)
            if reason != self._told:
                logger.warning("keys not reread", extra={**fields, "reason": reason, "still_valid": len(self.keys)})
            self._told = reason
            return False
        before = {key.digest for key in self.keys}
        now = {key.digest for key in keys}
        changed = keys != self.keys
        if changed or self._told:
            counts = {"keys": len(now), "added": len(now - before), "removed": len(before - now)}
            logger.warning("keys reread", extra={**fields, **counts})
        self.keys, self._told = keys, ""
        return changed

    def _look(self) -> object:
        """A value that changes when the file is written or replaced; None if it does not exist."""
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size

    def _read(self) -> tuple[Key, ...]:
        with self._path.open("rb") as file:
            content = file.read(MAXIMUM_FILE_BYTES + 1)
        if len(content) > MAXIMUM_FILE_BYTES:
            raise ValueError(f"it is larger than {MAXIMUM_FILE_BYTES} bytes")
        return file_hashes(content.decode())


def _reason(error: OSError | ValueError) -> str:
    if isinstance(error, UnicodeDecodeError):
        # The error's own text contains some of the bytes.
        return "it is not UTF-8 text"
    return (error.strerror or "it cannot be read") if isinstance(error, OSError) else str(error)


class Keys:
    """The keys of all rings.

    Args:
        given: those of the environment, by ring.
        files: those of files, by ring. A ring may have both.

    Raises:
        StartupError: a file cannot be used.
    """

    def __init__(self, given: Mapping[Ring, tuple[Key, ...]], files: Mapping[Ring, Path]) -> None:
        self._given = given
        self._files = {ring: KeyFile(f"{ring.value}_FILE", path) for ring, path in files.items()}
        self.rings = frozenset({*given, *files})
        """The rings that have keys. A ring with a file always has keys: an empty file is refused."""
        self.in_files = bool(files)
        self._holders = self._all()

    def reread(self) -> bool:
        """Read the files that have changed again; whether any has other keys now."""
        changed = [file.reread() for file in self._files.values()]
        if any(changed):
            self._holders = self._all()
        return any(changed)

    def holder(self, key: bytes) -> Holder | None:
        """The holder of this key; None for a key that is on no ring.

        It is compared with every hash, in constant time.
        """
        shown = digest(key)
        found = None
        for holder in self._holders:
            if compare_digest(holder.key.digest, shown):
                found = holder
        return found

    def _all(self) -> tuple[Holder, ...]:
        keys: dict[bytes, Key] = {}
        rings: dict[bytes, set[Ring]] = {}
        for ring in Ring:
            file = self._files.get(ring)
            for key in (*self._given.get(ring, ()), *(file.keys if file is not None else ())):
                known = keys.get(key.digest)
                if known is None or not known.name:
                    keys[key.digest] = key
                rings.setdefault(key.digest, set()).add(ring)
        return tuple(Holder(key, frozenset(rings[found])) for found, key in keys.items())


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Keys for the service."""


@main.command()
@click.option("--for", "ring", type=click.Choice(["api", "admin", "metrics"]), default="api", help="What it opens.")
@click.option("--name", default="", help="Who gets it; stands beside the hash in a file.")
def new(ring: str, name: str) -> None:
    """Print a new key, once, and the hash to give to the service."""
    key = new_key()
    variable = Ring[ring.upper()].value
    line = f"{digest(key.encode()).hex()} {name}".strip()
    click.echo(f"key   {key}")
    click.echo(f"hash  {line}")
    click.echo(
        "\nThe key is for the client, and is not shown again:\n"
        "  Authorization: Bearer <key>\n"
        f"The hash is for the service. Add it to {variable}, between commas, and start the service again;\n"
        f"or add it as a line to the file that {variable}_FILE names, which takes effect within a second.",
        err=True,
    )


if __name__ == "__main__":
    main(prog_name="python -m serving.keys")
