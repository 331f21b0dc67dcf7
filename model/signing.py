"""Signatures of models: a swapped or altered archive is noticed, also where its checksums are right.

Who trains has a private key of Ed25519 (RFC 8032), who serves has its public key. What is signed is the model card as
it is stored: it has the checksums of the ONNX model and of the reference rows, so that the signature is of all of them.

``python -m model.signing new FILE`` makes a pair of keys. Keys and signatures are written in base64, on one line.
"""

import base64
import binascii
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from contract.errors import StartupError

SIGNATURE_FILE = "card.sig"
"""Beside ``card.json``."""
PRIVATE_KEY_VARIABLE = "MODEL_SIGNING_KEY_FILE"
"""In the environment of a training: the file of the private key."""
KEY_BYTES = 32
_SIGNED = b"ml-prediction-bundle model card\n"
"""Before what is signed: a signature for another purpose is none of a model."""


class UntrustedModel(StartupError):
    """A model is not signed by any of the keys that are trusted."""


@dataclass(frozen=True)
class PublicKeys:
    """The public keys that are trusted; without any, no signature is asked for.

    Args:
        keys: one of them must have signed a model.
        setting: the variables that name them, for errors.
    """

    keys: tuple[bytes, ...] = ()
    setting: str = "MODEL_PUBLIC_KEYS"

    def __bool__(self) -> bool:
        return bool(self.keys)


NO_KEYS = PublicKeys()


def new_key_pair() -> tuple[str, str]:
    """A new private key and its public key."""
    from nacl.signing import SigningKey

    signer = SigningKey.generate()
    return _text(bytes(signer)), _text(bytes(signer.verify_key))


def public_key(text: str) -> bytes:
    """Read a public key.

    Raises:
        ValueError: it is none.
    """
    try:
        key = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != KEY_BYTES:
        raise ValueError("a public key is 32 bytes in base64, as `python -m model.signing new` prints it")
    return key


def sign(card: bytes, key_file: Path) -> bytes:
    """Sign a model card; return the content of its signature file.

    Raises:
        StartupError: the file of the private key cannot be used.
    """
    try:
        key = base64.b64decode(key_file.read_text(encoding="ascii").strip(), validate=True)
    except OSError as error:
        raise StartupError(f"{PRIVATE_KEY_VARIABLE}={key_file} cannot be read: {error.strerror}.") from None
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise StartupError(
            f"{PRIVATE_KEY_VARIABLE}={key_file} does not hold a private key. Make one with "
            f"`python -m model.signing new {key_file.name}`."
        )
    from nacl.signing import SigningKey

    signature = SigningKey(key).sign(_SIGNED + card).signature
    return f"{_text(signature)}\n".encode()


def verify(card: bytes, directory: Path, trusted: PublicKeys) -> None:
    """Check that a model card is signed by one of these keys.

    Args:
        card: the bytes that will be used.
        directory: where its signature is.
        trusted: the keys, of which one must have signed it.

    Raises:
        UntrustedModel: it is not signed, or by none of them, or was altered since.
    """
    try:
        signature = base64.b64decode((directory / SIGNATURE_FILE).read_bytes().strip(), validate=True)
    except FileNotFoundError:
        raise UntrustedModel(
            f"The model in {directory} is not signed, but must be ({trusted.setting}). Train it with "
            f"{PRIVATE_KEY_VARIABLE} set, or unset {trusted.setting}."
        ) from None
    except OSError as error:
        raise UntrustedModel(f"The signature {directory / SIGNATURE_FILE} cannot be read: {error.strerror}.") from None
    except ValueError:
        signature = b""
    # Imported where it is needed: most services ask for no signature.
    from nacl.exceptions import BadSignatureError
    from nacl.signing import VerifyKey

    for key in trusted.keys:
        try:
            VerifyKey(key).verify(_SIGNED + card, signature)
        except (BadSignatureError, ValueError):  # the latter for a signature of another length
            continue
        return
    raise UntrustedModel(
        f"The model in {directory} is signed by none of the keys in {trusted.setting}, or was altered after it "
        "was signed. Do not serve it before you know why: compare it with what was trained, or train and sign it anew."
    )


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode()


def main(arguments: Sequence[str]) -> None:
    """Make a pair of keys: ``new FILE``."""
    if len(arguments) != 2 or arguments[0] != "new":
        raise SystemExit("Usage: python -m model.signing new FILE")
    file = Path(arguments[1])
    private, public = new_key_pair()
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise SystemExit(f"{file} cannot be made: {error.strerror}.") from None
    with os.fdopen(descriptor, "w") as opened:
        opened.write(f"{private}\n")
    sys.stdout.write(
        f"The private key is in {file}: keep it where models are trained, and nowhere else.\n"
        f"  {PRIVATE_KEY_VARIABLE}={file} make train\n"
        f"The public key is for the service:\n  MODEL_PUBLIC_KEYS={public}\n"
    )


if __name__ == "__main__":
    main(sys.argv[1:])
