"""Models that must be signed: at the start, at a reload, when keys change, and when somebody alters them."""

from pathlib import Path

import bentoml
import pytest

from contract.datasets.iris import IRIS
from contract.errors import StartupError
from model.card import CARD_FILE, ONNX_FILE, ModelCard
from model.signing import SIGNATURE_FILE, PublicKeys, UntrustedModel, new_key_pair, sign
from serving.models import ARTIFACT_FOLDER, load
from serving.settings import Settings
from tests.serving import tiny_models


class Signer:
    """Somebody who signs models."""

    def __init__(self, folder: Path) -> None:
        private, self.public = new_key_pair()
        folder.mkdir(exist_ok=True)
        self.file = folder / "private.key"
        self.file.write_text(private)

    def sign(self, stored: bentoml.Model) -> bentoml.Model:
        folder = artifact(stored)
        (folder / SIGNATURE_FILE).write_bytes(sign((folder / CARD_FILE).read_bytes(), self.file))
        return stored


def artifact(stored: bentoml.Model) -> Path:
    return Path(stored.path_of(ARTIFACT_FOLDER))


@pytest.fixture
def signer(tmp_path: Path) -> Signer:
    return Signer(tmp_path / "signer")


@pytest.fixture
def other(tmp_path: Path) -> Signer:
    return Signer(tmp_path / "other")


def keys(*signers: Signer) -> PublicKeys:
    return Settings(MODEL_PUBLIC_KEYS=",".join(one.public for one in signers)).model_keys()


def test_a_signed_model_is_served(signer: Signer, other: Signer) -> None:
    stored = signer.sign(tiny_models.store(IRIS))
    assert load(IRIS, stored, keys(signer)).version == stored.tag.version
    load(IRIS, stored, keys(other, signer))
    load(IRIS, stored)  # no keys: no signature is asked for


def test_an_unsigned_model_is_refused() -> None:
    with pytest.raises(UntrustedModel, match="is not signed"):
        load(IRIS, tiny_models.store(IRIS), PublicKeys((bytes(32),)))


def test_the_model_of_a_stranger_is_refused(signer: Signer, other: Signer) -> None:
    with pytest.raises(UntrustedModel, match="signed by none of the keys"):
        load(IRIS, other.sign(tiny_models.store(IRIS)), keys(signer))


@pytest.mark.parametrize("text", [",", " ", " , ,"])
def test_a_list_without_a_key_is_no_leave_to_serve_unsigned_models(text: str) -> None:
    with pytest.raises(StartupError, match=f"MODEL_PUBLIC_KEYS={text!r}: there is no key; "):
        Settings.from_environment({"MODEL_PUBLIC_KEYS": text})


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        (["MODEL_PUBLIC_KEYS"], "MODEL_PUBLIC_KEYS"),
        (["MODEL_PUBLIC_KEYS_FILE"], "MODEL_PUBLIC_KEYS_FILE"),
        (["MODEL_PUBLIC_KEYS", "MODEL_PUBLIC_KEYS_FILE"], "MODEL_PUBLIC_KEYS and MODEL_PUBLIC_KEYS_FILE"),
    ],
)
def test_a_refusal_names_the_settings_that_are_set(
    variables: list[str], told: str, signer: Signer, other: Signer, tmp_path: Path
) -> None:
    (tmp_path / "public.keys").write_text(signer.public)
    values = {"MODEL_PUBLIC_KEYS": signer.public, "MODEL_PUBLIC_KEYS_FILE": str(tmp_path / "public.keys")}
    trusted = Settings.from_environment({name: values[name] for name in variables}).model_keys()
    with pytest.raises(UntrustedModel, match=rf"must be \({told}\)\. .* or unset {told}\."):
        load(IRIS, tiny_models.store(IRIS), trusted)
    with pytest.raises(UntrustedModel, match=f"none of the keys in {told}, or was altered"):
        load(IRIS, other.sign(tiny_models.store(IRIS)), trusted)


def alter_card(folder: Path) -> None:
    card = ModelCard.model_validate_json((folder / CARD_FILE).read_bytes())
    (folder / CARD_FILE).write_text(card.model_copy(update={"algorithm": "Better"}).model_dump_json())


def alter_spaces(folder: Path) -> None:
    (folder / CARD_FILE).write_bytes((folder / CARD_FILE).read_bytes() + b"\n")


def alter_onnx(folder: Path) -> None:
    (folder / ONNX_FILE).write_bytes((folder / ONNX_FILE).read_bytes() + b"\0")


@pytest.mark.parametrize(
    ("alter", "told"),
    [
        (alter_card, "altered after it was signed"),
        (alter_spaces, "altered after it was signed"),
        (alter_onnx, "checksum"),
    ],
)
def test_an_altered_model_is_refused(signer: Signer, alter: object, told: str) -> None:
    stored = signer.sign(tiny_models.store(IRIS))
    assert callable(alter)
    alter(artifact(stored))
    with pytest.raises(StartupError, match=told):
        load(IRIS, stored, keys(signer))


def test_a_signature_of_another_model_is_refused(signer: Signer) -> None:
    _, card = tiny_models.artifact(IRIS)
    mine = signer.sign(tiny_models.store(IRIS))
    swapped = tiny_models.store(IRIS, card=card.model_copy(update={"training_rows": 1}))
    signature = (artifact(mine) / SIGNATURE_FILE).read_bytes()
    (artifact(swapped) / SIGNATURE_FILE).write_bytes(signature)
    with pytest.raises(UntrustedModel):
        load(IRIS, swapped, keys(signer))


def test_keys_rotate_without_a_restart(signer: Signer, other: Signer, tmp_path: Path) -> None:
    file = tmp_path / "public.keys"
    file.write_text(f"# the one before\n{other.public}\n")
    settings = Settings(MODEL_PUBLIC_KEYS_FILE=file)
    old, new = other.sign(tiny_models.store(IRIS)), signer.sign(tiny_models.store(IRIS))
    load(IRIS, old, settings.model_keys())
    with pytest.raises(UntrustedModel):
        load(IRIS, new, settings.model_keys())
    file.write_text(f"{other.public}\n{signer.public} # from today on\n")
    load(IRIS, old, settings.model_keys())
    load(IRIS, new, settings.model_keys())
    file.write_text(f"{signer.public}\n")
    with pytest.raises(UntrustedModel):
        load(IRIS, old, settings.model_keys())


@pytest.mark.parametrize(
    ("content", "told"), [(None, "No such file"), ("", "has no key"), ("# none\n", "has no key"), ("key", "32 bytes")]
)
def test_a_file_without_keys_never_means_that_none_are_needed(tmp_path: Path, content: str | None, told: str) -> None:
    file = tmp_path / "public.keys"
    if content is not None:
        file.write_text(content)
    with pytest.raises(StartupError, match=f"MODEL_PUBLIC_KEYS_FILE names .*{told}"):
        Settings(MODEL_PUBLIC_KEYS_FILE=file).model_keys()


def test_what_is_no_public_key_is_no_setting() -> None:
    with pytest.raises(StartupError, match=r"MODEL_PUBLIC_KEYS='key'.*32 bytes in base64"):
        Settings.from_environment({"MODEL_PUBLIC_KEYS": "key"})
