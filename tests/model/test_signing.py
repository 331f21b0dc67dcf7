"""Keys, signatures, and what is wrong with them."""

import base64
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from contract.errors import StartupError
from local_service import PROJECT
from model import signing
from model.signing import SIGNATURE_FILE, PublicKeys, UntrustedModel, new_key_pair, public_key, sign, verify

CARD = b'{"name": "iris"}'


class Signed:
    """A folder with a signature of ``CARD``, and the keys of who made it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        private, public = new_key_pair()
        self.key_file = folder / "private.key"
        self.key_file.write_text(private)
        self.public = public_key(public)
        self.trusted = PublicKeys((self.public,))
        self.signature = folder / SIGNATURE_FILE
        self.signature.write_bytes(sign(CARD, self.key_file))


@pytest.fixture
def signed(tmp_path: Path) -> Signed:
    return Signed(tmp_path)


def test_a_signature_holds_under_its_key_among_others(signed: Signed) -> None:
    others = tuple(public_key(new_key_pair()[1]) for _ in range(2))
    verify(CARD, signed.folder, signed.trusted)
    verify(CARD, signed.folder, PublicKeys((others[0], signed.public, others[1])))
    with pytest.raises(UntrustedModel, match="signed by none of the keys"):
        verify(CARD, signed.folder, PublicKeys(others))


def test_the_signature_is_that_of_rfc_8032(tmp_path: Path) -> None:
    """The key of its first test vector: any library of Ed25519 can check what we sign."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    seed = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    (tmp_path / "key").write_text(base64.b64encode(seed).decode())
    theirs = Ed25519PrivateKey.from_private_bytes(seed)
    expected = theirs.sign(b"ml-prediction-bundle model card\n" + CARD)
    assert base64.b64decode(sign(CARD, tmp_path / "key")) == expected
    (tmp_path / SIGNATURE_FILE).write_bytes(base64.b64encode(expected))
    verify(CARD, tmp_path, PublicKeys((theirs.public_key().public_bytes_raw(),)))


def test_equal_cards_have_equal_signatures(signed: Signed) -> None:
    assert sign(CARD, signed.key_file) == signed.signature.read_bytes()


@pytest.mark.parametrize("card", [b"", CARD + b" ", CARD.replace(b"iris", b"Iris"), CARD[:-1]])
def test_an_altered_card_is_refused(signed: Signed, card: bytes) -> None:
    with pytest.raises(UntrustedModel, match="altered after it was signed"):
        verify(card, signed.folder, signed.trusted)


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"no base64!", base64.b64encode(b"short"), base64.b64encode(bytes(64)), bytes(range(256))]
)
def test_an_altered_signature_is_refused(signed: Signed, content: bytes) -> None:
    signed.signature.write_bytes(content)
    with pytest.raises(UntrustedModel, match="signed by none of the keys"):
        verify(CARD, signed.folder, signed.trusted)


def test_a_missing_or_unreadable_signature_is_refused_with_the_way_out(signed: Signed) -> None:
    signed.signature.unlink()
    with pytest.raises(UntrustedModel, match=r"is not signed.*MODEL_SIGNING_KEY_FILE"):
        verify(CARD, signed.folder, signed.trusted)
    signed.signature.mkdir()
    with pytest.raises(UntrustedModel, match="cannot be read: Is a directory"):
        verify(CARD, signed.folder, signed.trusted)


@pytest.mark.parametrize("text", ["", "short", base64.b64encode(bytes(31)).decode(), "ä" * 44, "=" * 44])
def test_what_is_no_key_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ValueError, match="32 bytes in base64"):
        public_key(text)
    (tmp_path / "key").write_text(text)
    with pytest.raises(StartupError, match=r"does not hold a private key.*model\.signing new key"):
        sign(CARD, tmp_path / "key")


def test_a_missing_private_key_is_told(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match=r"MODEL_SIGNING_KEY_FILE=.*cannot be read: No such file"):
        sign(CARD, tmp_path / "none")


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "model.signing", *arguments], cwd=PROJECT, capture_output=True, text=True, check=False
    )


def test_the_command_makes_a_pair_of_keys(tmp_path: Path) -> None:
    made = command("new", str(file := tmp_path / "signing.key"))
    assert made.returncode == 0, made.stderr
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    public = made.stdout.strip().rpartition("MODEL_PUBLIC_KEYS=")[2]
    (tmp_path / SIGNATURE_FILE).write_bytes(sign(CARD, file))
    verify(CARD, tmp_path, PublicKeys((public_key(public),)))
    assert file.read_text().strip() not in made.stdout
    again = command("new", str(file))
    assert again.returncode != 0
    assert again.stderr.strip() == f"{file} cannot be made: File exists."
    assert command().returncode != 0


def test_the_variable_of_the_private_key_is_the_documented_one() -> None:
    assert f"`{signing.PRIVATE_KEY_VARIABLE}`" in (PROJECT / "docs" / "signing.md").read_text()
    assert os.environ.get(signing.PRIVATE_KEY_VARIABLE) is None
