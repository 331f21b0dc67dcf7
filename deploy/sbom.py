"""``make sbom``: the bill of materials of the image as CycloneDX JSON, from what is in it and not from what should be.

Python libraries, Debian packages and the models, each with its version; of the models the checksum that the service
verifies at start-up.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import DisjunctiveLicense, License
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from packageurl import PackageURL

from deploy import engines
from deploy.errors import DeployError

INVENTORY = Path(__file__).with_name("inventory.py")
NAMESPACE = "ml-prediction-bundle"
"""Of the properties that CycloneDX has no field for."""


def inventory(engine: str, image: str) -> dict[str, Any]:
    """What the image says it holds.

    Raises:
        DeployError: it is not there, or does not run.
    """
    # Without a network, and without a file of the host but the one that looks around, which comes by standard input.
    command = [engine, "run", "--rm", "-i", "--network=none", "--read-only", "--entrypoint=python", image, "-IS", "-"]
    ended = subprocess.run(  # noqa: S603 - our engine, an operator's image
        command, input=INVENTORY.read_text(), capture_output=True, text=True, check=False
    )
    if ended.returncode:
        raise DeployError(
            f"The image {image} does not tell what it holds; run `make image` first. {ended.stderr.strip()}"
        )
    told: dict[str, Any] = json.loads(ended.stdout)
    return told


def bom(name: str, version: str, told: dict[str, Any]) -> Bom:
    """The bill of an inventory, as ``inventory.py`` prints it."""
    made = Bom()
    made.metadata.component = Component(
        type=ComponentType.CONTAINER, name=name, version=version, bom_ref=f"{name}@{version}"
    )
    system = told["system"]
    made.components.add(
        Component(type=ComponentType.OPERATING_SYSTEM, name=system["name"], version=system["version"], bom_ref="system")
    )
    made.components.add(Component(type=ComponentType.PLATFORM, name="python", version=told["python"], bom_ref="python"))
    for component in (*_libraries(told["libraries"]), *_packages(told["packages"], system), *_models(told["models"])):
        made.components.add(component)
    made.register_dependency(made.metadata.component, made.components)
    return made


def _libraries(libraries: Iterable[dict[str, Any]]) -> Iterable[Component]:
    for one in libraries:
        url = PackageURL("pypi", name=one["name"], version=one["version"])
        yield Component(
            type=ComponentType.LIBRARY,
            name=one["name"],
            version=one["version"],
            description=one["description"] or None,
            purl=url,
            bom_ref=str(url),
            licenses=_licences(one),
        )


def _licences(library: dict[str, Any]) -> list[License]:
    """Either one expression of SPDX or names, as CycloneDX has it."""
    if library["licence"]:
        return [LicenseFactory().make_from_string(library["licence"])]
    return [DisjunctiveLicense(name=name) for name in library["licences"]]


def _packages(packages: Iterable[dict[str, str]], system: dict[str, str]) -> Iterable[Component]:
    for one in packages:
        qualifiers = {"arch": one["architecture"], "distro": f"{system['name']}-{system['version']}"}
        url = PackageURL("deb", system["name"], one["name"], one["version"], qualifiers)
        yield Component(
            type=ComponentType.LIBRARY, name=one["name"], version=one["version"], purl=url, bom_ref=str(url)
        )


def _models(models: Iterable[dict[str, Any]]) -> Iterable[Component]:
    for one in models:
        yield Component(
            type=ComponentType.MACHINE_LEARNING_MODEL,
            name=one["name"],
            version=one["version"],
            bom_ref=f"model:{one['name']}@{one['version']}",
            hashes=[HashType(alg=HashAlgorithm.SHA_256, content=one["sha256"])],
            properties=[Property(name=f"{NAMESPACE}:{key}", value=one[key]) for key in ("task", "algorithm", "run")],
        )


def main() -> None:
    """Write the bill of the image that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m deploy.sbom", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("image", nargs="?", default="ml-prediction-bundle:latest", help="(default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("reports/sbom.cdx.json"), help="(default: %(default)s)")
    parser.add_argument(
        "--engine",
        default=os.environ.get(engines.VARIABLE, ""),
        help=f"one of {', '.join(engines.RUNNERS)} (default: {engines.VARIABLE}, or the first that works)",
    )
    wanted = parser.parse_args()
    try:
        told = inventory(engines.found(wanted.engine, engines.RUNNERS), wanted.image)
    except DeployError as error:
        sys.exit(f"make sbom: {error}")
    name, _, tag = wanted.image.rpartition(":")
    wanted.output.parent.mkdir(parents=True, exist_ok=True)
    text = make_outputter(bom(name, tag, told), OutputFormat.JSON, SchemaVersion.V1_6).output_as_string(indent=2)
    wanted.output.write_text(text + "\n")
    counts = f"{len(told['libraries'])} libraries, {len(told['packages'])} packages, {len(told['models'])} models"
    print(f"{wanted.output}: {counts}")  # noqa: T201 - what a person wants to know


if __name__ == "__main__":
    main()
