"""Files whose bytes depend on their content alone: no times, no owners, no addresses in memory."""

import io
import json
import re
import tarfile
import zipfile
from collections import defaultdict
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import yaml

_ZIP_TIME = (1980, 1, 1, 0, 0, 0)
"""The earliest that a zip file can hold."""
_INSTALLER = re.compile(r"^(- (?:pip|setuptools|wheel))[=<>][^\n]*", re.MULTILINE)
_DIFFERS_BY_RUN = ("artifact_path", "model_id", "model_size_bytes", "model_uuid", "run_id", "utc_time_created")
"""The fields of MLflow's ``MLmodel`` that differ each time the same model is logged."""


def write_tar(directory: Path, target: Path) -> None:
    """Pack the files of a directory as ``tar.xz``, sorted by name."""
    # Four times as quick as with xz's own preset, and the archive of trees is a fifth larger.
    with tarfile.open(target, "w:xz", format=tarfile.PAX_FORMAT, preset=1) as archive:
        for path in sorted(directory.rglob("*")):
            if path.is_file():
                entry = tarfile.TarInfo(path.relative_to(directory).as_posix())
                content = path.read_bytes()
                entry.size, entry.mode = len(content), 0o644
                archive.addfile(entry, io.BytesIO(content))


def normalise_mlmodel(path: Path) -> None:
    """Drop from an ``MLmodel`` what tells of the run that logged it; MLflow loads it all the same."""
    described = yaml.safe_load(path.read_text(encoding="utf-8"))
    kept = {name: value for name, value in described.items() if name not in _DIFFERS_BY_RUN}
    path.write_text(yaml.safe_dump(kept), encoding="utf-8")


def normalise_environments(directory: Path) -> None:
    """Drop the versions of the installers from MLflow's ``python_env.yaml`` and ``conda.yaml``.

    They are those of the environment that logged the model, which no lock pins.
    """
    for name in ("python_env.yaml", "conda.yaml"):
        path = directory / name
        text = path.read_text(encoding="utf-8")
        path.write_text(_INSTALLER.sub(r"\1", text), encoding="utf-8")


def normalise_skops(path: Path) -> None:
    """Rewrite a skops file so that equal estimators have equal bytes.

    skops numbers the objects by their addresses in memory and names the arrays after these numbers. Here both are
    numbered in the order in which the schema mentions them. The nodes of trees are records with gaps between their
    fields, which hold whatever was in memory before: the gaps are set to zero.
    """
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    schema = json.loads(content.pop("schema.json"))
    names: dict[str, str] = {}
    _renumber(schema, defaultdict(count(1).__next__), names)
    with zipfile.ZipFile(path, "w") as archive:
        for former, name in names.items():
            array = content[former]
            archive.writestr(zipfile.ZipInfo(name, _ZIP_TIME), _without_gaps(array) if name.endswith(".npy") else array)
        archive.writestr(zipfile.ZipInfo("schema.json", _ZIP_TIME), json.dumps(schema, indent=2))


def _renumber(node: Any, ids: defaultdict[int, int], names: dict[str, str]) -> None:
    if isinstance(node, dict):
        if isinstance(node.get("__id__"), int):
            node["__id__"] = ids[node["__id__"]]
        if isinstance(node.get("file"), str):
            former = node["file"]
            node["file"] = names.setdefault(former, f"{len(names) + 1}{Path(former).suffix}")
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        _renumber(child, ids, names)


def _without_gaps(file: bytes) -> bytes:
    """A file of ``numpy.save``, with zeros between the fields of its records."""
    array = np.load(io.BytesIO(file), allow_pickle=False)
    if array.dtype.names is None or array.ndim != 1:
        return file
    # numpy copies records field by field, so what it writes itself has gaps with garbage again.
    content = np.zeros(array.nbytes, dtype=np.uint8)
    for name in array.dtype.names:
        content.view(array.dtype)[name] = array[name]
    return file[: len(file) - content.size] + content.tobytes()
