"""What an image holds, told by the image itself: ``python -IS`` runs this file in it, with the standard library alone.

It prints one JSON object: the Python libraries of ``/app/.venv``, Debian's packages, the models.
"""

import json
import re
import sys
from importlib.metadata import distributions
from pathlib import Path
from typing import Any


def libraries(folder: Path) -> list[dict[str, Any]]:
    """Name, version and licence of each installed distribution, by name."""
    found = []
    for one in distributions(path=[str(folder)]):
        metadata = one.metadata
        classifiers = metadata.get_all("Classifier") or []
        licences = [line.rpartition(" :: ")[2] for line in classifiers if line.startswith("License ::")]
        found.append(
            {
                "name": re.sub(r"[-_.]+", "-", metadata["Name"]).lower(),
                "version": one.version,
                "description": _field(metadata, "Summary"),
                "licence": _field(metadata, "License-Expression"),
                "licences": licences,
            }
        )
    return sorted(found, key=lambda one: str(one["name"]))


def _field(metadata: Any, name: str) -> str:
    """A field; "" if there is none, of which the standard library gives None and its backport a KeyError."""
    return metadata[name] or "" if name in metadata else ""


def packages(root: Path) -> list[dict[str, str]]:
    """Name, version and architecture of each Debian package of which there is something, by name."""
    status = root / "var/lib/dpkg/status"
    text = status.read_text() if status.exists() else ""
    fields = (dict(re.findall(r"^(\w+): (.*)$", entry, re.MULTILINE)) for entry in text.strip().split("\n\n"))
    found = [
        {"name": one["Package"], "version": one["Version"], "architecture": one["Architecture"]}
        for one in fields
        if one
    ]
    return sorted(found, key=lambda one: one["name"])


def models(folder: Path) -> list[dict[str, Any]]:
    """Name, version, task, algorithm, MLflow run and checksum of each model, from its card and its ``model.yaml``."""
    found = []
    for path in sorted(folder.glob("*/*/mlflow_model/extra_files/card.json")):
        card = json.loads(path.read_text())
        run = re.search(r"^ +run_id: '?(\w+)'?$", (path.parents[2] / "model.yaml").read_text(), re.MULTILINE)
        found.append(
            {
                "name": card["name"],
                "version": path.parts[-4],
                "task": card["task"],
                "algorithm": card["algorithm"],
                "run": run[1] if run else "",
                "sha256": card["onnx"]["sha256"],
            }
        )
    return found


def main() -> None:
    """Print the inventory of the image that this runs in."""
    (site_packages,) = Path("/app/.venv/lib").glob("python3*/site-packages")
    release = dict(re.findall(r'^(\w+)="?([^"\n]*)"?$', Path("/etc/os-release").read_text(), re.MULTILINE))
    json.dump(
        {
            "python": sys.version.partition(" ")[0],
            "system": {"name": release["ID"], "version": release.get("VERSION_ID", "")},
            "libraries": libraries(site_packages),
            "packages": packages(Path("/")),
            "models": models(Path("/app/bento/models")),
        },
        sys.stdout,
    )


if __name__ == "__main__":
    main()
