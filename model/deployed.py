"""Which models are deployed: the pointer that running services follow, the exported models, and the way back.

A directory of models, ``models/`` in the project or ``MODELS_DIR`` of a service, holds::

    deployed.json            each model's tag: {"housing": "housing:sha-3f9a0c1b2d4e", …}
    store/housing.bentomodel the export of the deployed model
    previous.json            what was deployed before: {"housing": {"tag": "housing:sha-…"}, …}
    previous/                its export

``deployed.json`` alone decides what is served, and is replaced by a rename. A rollback changes it to the tag in
``previous.json``; the exports stay where they are.
"""

import fcntl
import json
import lzma
import os
import re
import shutil
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from lzma import LZMAError
from pathlib import Path
from typing import NamedTuple

import yaml

from contract.errors import BundleError

DEPLOYED_FILE = "deployed.json"
PREVIOUS_FILE = "previous.json"
DAMAGED = (OSError, EOFError, ValueError, LZMAError, tarfile.TarError, yaml.YAMLError)
"""What reading an export raises, if it is incomplete or damaged."""
_LOCK = ".deployed.lock"
MODEL_DESCRIPTION = "model.yaml"
"""In the folder of a BentoML model."""
IMPORTED_MARK = ".imported"
"""Beside it, if a service has imported the model from an export; see ``serving.imported``."""
_TAG = re.compile(r"[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?:[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?")
"""As BentoML has them; no part of one leads out of a folder."""


class DeploymentError(BundleError):
    """The directory of models is damaged, or has no way back; the sentence says what to do."""


class Previous(NamedTuple):
    """What was deployed before. ``left`` is the tag that a rollback has left; None if there was no rollback."""

    tag: str
    left: str | None = None


class Deployment:
    """A directory of models.

    Args:
        directory: it may not exist yet.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.deployed = directory / DEPLOYED_FILE
        self.store = directory / "store"
        self._previous = directory / PREVIOUS_FILE
        self._previous_store = directory / "previous"

    def tags(self) -> dict[str, str]:
        """The deployed tag of each model; none without ``deployed.json``.

        Raises:
            DeploymentError: the file is damaged.
        """
        try:
            content = json.loads(self.deployed.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, RecursionError) as error:
            raise self._unreadable(str(error)) from error
        if not isinstance(content, dict):
            raise self._unreadable(f"it is {str(content)[:60]!r}")
        for name, tag in content.items():
            if not (isinstance(tag, str) and _TAG.fullmatch(tag) and tag.startswith(f"{name}:")):
                raise self._unreadable(f"{name[:60]!r} has the tag {str(tag)[:60]!r}")
        return content

    def _unreadable(self, reason: str) -> DeploymentError:
        return DeploymentError(
            f"{self.deployed} must be a JSON object of model names and tags ({reason}). "
            "Run `dvc repro -f -s import_models`."
        )

    def previous(self) -> dict[str, Previous]:
        """What was deployed before, by model.

        Raises:
            DeploymentError: the file is damaged.
        """
        try:
            content = json.loads(self._previous.read_text(encoding="utf-8"))
            found = {name: Previous(**entry) for name, entry in content.items()}
            tags = [_TAG.fullmatch(entry.tag) for entry in found.values()]
        except FileNotFoundError:
            return {}
        except (AttributeError, OSError, TypeError, ValueError, RecursionError) as error:
            raise DeploymentError(
                f"{self._previous} must be a JSON object of model names and tags ({error}). Delete it: the next "
                "promotion writes it anew."
            ) from error
        if not all(tags):
            raise DeploymentError(
                f"{self._previous} has a tag that is none. Delete it: the next promotion writes it anew."
            )
        return found

    def export_path(self, tag: str) -> Path:
        """Where the export of a tag is; if there is none, where that of the deployed model should be."""
        deployed = self.store / f"{tag.partition(':')[0]}.bentomodel"
        paths = (deployed, self._previous_store / deployed.name)
        return next((path for path in paths if _exported_tag(path) == tag), deployed)

    def watched(self) -> list[Path]:
        """The files whose change may bring another model."""
        folders = (self.store, self._previous_store)
        return [self.deployed, *(path for folder in folders for path in sorted(folder.glob("*.bentomodel")))]

    def keep_former(self, tags: Mapping[str, str], *, going_back: str | None = None) -> None:
        """Keep what these tags will replace as the way back. Call it before ``store`` and ``deployed.json`` change.

        Args:
            tags: what will be deployed.
            going_back: the model that is rolled back: what it leaves is no way back.

        Raises:
            DeploymentError: a file is damaged.
        """
        former = {name: tag for name, tag in self.tags().items() if tags.get(name, tag) != tag}
        if not former:
            return
        previous = self.previous()
        for name, tag in former.items():
            if name == going_back:
                previous[name] = Previous(tags[name], left=tag)
                continue
            export = self.export_path(tag)
            kept = self._previous_store / export.name
            if export != kept and _exported_tag(export) == tag:
                kept.parent.mkdir(parents=True, exist_ok=True)
                partial = kept.with_name(f".{kept.name}.partial")
                shutil.copyfile(export, partial)
                partial.replace(kept)
            previous[name] = Previous(tag)
        self._write_previous(previous)

    def write(self, tags: Mapping[str, str]) -> None:
        """Deploy these tags: replace ``deployed.json``."""
        with self._alone():
            _write_json(self.deployed, dict(tags))

    def way_back(self, name: str) -> str:
        """The tag that a rollback of a model would deploy.

        Raises:
            DeploymentError: nothing was deployed before, or it is deployed again already.
        """
        deployed, previous = self.tags().get(name), self.previous().get(name)
        if deployed is None or previous is None:
            raise DeploymentError(
                f"There is nothing to roll {name} back to: {self.directory} keeps the model that was deployed before, "
                "and this is the first."
            )
        if deployed == previous.tag:
            raise DeploymentError(
                f"{name} is rolled back to {deployed} already, and what was before it is not kept. "
                f"`make promote MODEL={name} VERSION=…` deploys any version of the registry."
            )
        return previous.tag

    def roll_back(self, name: str) -> str:
        """Deploy what was deployed before, and return its tag.

        Raises:
            DeploymentError: as ``way_back`` does.
            OSError: the directory cannot be written to.
        """
        with self._alone():
            tag, tags = self.way_back(name), self.tags()
            # First who was left: a pipeline that finds the pointer moved knows why.
            self._write_previous({**self.previous(), name: Previous(tag, left=tags[name])})
            _write_json(self.deployed, {**tags, name: tag})
        return tag

    def forget(self, name: str) -> None:
        """Drop the way back of a model that no longer exists.

        Raises:
            DeploymentError: a file is damaged.
        """
        if not self.directory.is_dir():
            return
        with self._alone():
            previous = self.previous()
            if previous.pop(name, None) is not None:
                self._write_previous(previous)
            (self._previous_store / f"{name}.bentomodel").unlink(missing_ok=True)

    def _write_previous(self, previous: Mapping[str, Previous]) -> None:
        _write_json(
            self._previous,
            {
                name: {key: text for key, text in entry._asdict().items() if text is not None}
                for name, entry in previous.items()
            },
        )

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One writer at a time."""
        self.directory.mkdir(parents=True, exist_ok=True)
        with (self.directory / _LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _exported_tag(export: Path) -> str | None:
    """The tag of an exported model; None if there is none, or it is damaged."""
    try:
        with tarfile.open(export, "r:xz") as archive:
            content = archive.extractfile(MODEL_DESCRIPTION)
            return _tag(content.read()) if content is not None else None
    except (*DAMAGED, KeyError):
        return None


def _tag(description: bytes) -> str:
    described = yaml.safe_load(description)
    if not isinstance(described, dict):
        raise tarfile.TarError(f"{MODEL_DESCRIPTION} has no name and no version")
    return f"{described.get('name')}:{described.get('version')}"


def unpack(export: Path, folder: Path) -> str:
    """Unpack an exported model into an empty folder, and return its tag.

    Raises:
        OSError, EOFError, ValueError, LZMAError, tarfile.TarError, yaml.YAMLError: it is damaged; see ``DAMAGED``.
    """
    with lzma.open(export) as stream, tarfile.open(fileobj=stream, mode="r:") as archive:
        for entry in archive:
            target = folder / entry.name
            if not entry.isfile():
                continue
            if not target.resolve().is_relative_to(folder.resolve()):
                raise tarfile.TarError(f"{entry.name} leaves the folder")
            content = archive.extractfile(entry)
            if content is None:
                raise tarfile.TarError(f"{entry.name} has no content")
            target.parent.mkdir(parents=True, exist_ok=True)
            with content, target.open("wb") as file:
                shutil.copyfileobj(content, file)
        while stream.read(1024 * 1024):
            pass  # To the end, where the checksum is: a truncated file raises here, if not before.
    return _tag((folder / MODEL_DESCRIPTION).read_bytes())


def _write_json(path: Path, content: object) -> None:
    # As the pipeline writes it, which compares bytes.
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_text(json.dumps(content, indent=2, ensure_ascii=False) + os.linesep, encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
