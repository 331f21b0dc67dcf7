"""Every object against the schemas of two releases of Kubernetes, the oldest we support and the newest there is.

Custom resources have the schemas of their own projects (``schemas/``). What an API server checks beyond a schema (CEL
rules, whether a gateway exists) is not seen here.
"""

import copy
import json
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest

from tests.deploy.manifests import FOLDERS, Manifests, Object

RELEASES = ("1.30", "1.37")
SCHEMAS: dict[str, Any] = {
    path.stem: json.loads(path.read_text()) for path in sorted((Path(__file__).parent / "schemas").glob("*.json"))
}
"""By kind, of the custom resources."""
OBJECTS = {
    f"{folder.rpartition('/')[2]}-{one['kind']}-{one['metadata']['name']}": one
    for folder in FOLDERS
    for one in Manifests(folder).objects
}


def custom(one: Object) -> bool:
    return one["kind"] in SCHEMAS


def check(one: Object, release: str) -> None:
    if custom(one):
        jsonschema.Draft202012Validator(SCHEMAS[one["kind"]]).validate(one)
    else:
        assert kubernetes_validate.validate(one, release, strict=True) == release


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("one", OBJECTS.values(), ids=OBJECTS.keys())
def test_it_is_what_the_release_knows(one: Object, release: str) -> None:
    check(one, release)


def test_the_newest_release_is_the_newest() -> None:
    assert kubernetes_validate.latest_version().startswith(f"{RELEASES[-1]}.")


SPECIFIED = {one["kind"]: one for one in OBJECTS.values() if "spec" in one}


@pytest.mark.parametrize("one", SPECIFIED.values(), ids=SPECIFIED.keys())
def test_a_misspelt_field_is_seen(one: Object) -> None:
    wrong = copy.deepcopy(one)
    wrong["spec"]["replicaz"] = 1
    with pytest.raises(jsonschema.ValidationError, match="replicaz"):
        check(wrong, RELEASES[-1])


def test_a_predictor_is_checked_to_the_bottom() -> None:
    (service,) = Manifests("kserve").of("InferenceService")
    service["spec"]["predictor"]["containers"][0]["readinessProbe"]["httpGet"]["path"] = 8000
    with pytest.raises(jsonschema.ValidationError, match="8000 is not of type 'string'"):
        check(service, RELEASES[-1])


def test_an_older_release_does_not_know_our_sleep() -> None:
    """Why 1.30 is the oldest: before, the field is unknown, or there and off, and nobody waits in preStop."""
    (deployment,) = Manifests("overlays/production").of("Deployment")
    with pytest.raises(jsonschema.ValidationError, match="sleep"):
        kubernetes_validate.validate(deployment, "1.28", strict=True)
