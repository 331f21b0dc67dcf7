"""A custom resource's JSON schema, out of the definition (CRD) that its project publishes.

``python -m tests.deploy.schemas.extract CRD.yaml > tests/deploy/schemas/KIND.json``. Texts and CEL rules, which no JSON
schema has, are left out, and so are a predictor's runtimes of other projects in an InferenceService: 12 kB each. Where
an API server would drop a field that is not in the schema, the result refuses it: such a field is a typing error.
"""

import json
import sys
from pathlib import Path
from typing import Any

import yaml

JSON = dict[str, Any]
NOT_CHECKED = {"description", "default", "x-kubernetes-validations", "x-kubernetes-list-type", "x-kubernetes-map-type"}
NOT_CHECKED |= {"x-kubernetes-list-map-keys", "x-kubernetes-embedded-resource"}
INFERENCE_SERVICE_LEFT_OUT = {
    "spec": {"canary", "explainer", "transformer"},
    "predictor": {
        *("huggingface", "lightgbm", "model", "onnx", "paddle", "pmml", "pytorch", "sklearn", "tensorflow", "triton"),
        *("workerSpec", "xgboost"),
    },
}


def schema(definition: JSON) -> JSON:
    """The schema of the version that is stored."""
    version = next(version for version in definition["spec"]["versions"] if version["storage"])
    found = strict(version["schema"]["openAPIV3Schema"])
    del found["properties"]["status"], found["properties"]["metadata"]
    found["properties"]["metadata"] = {"type": "object"}
    if definition["spec"]["names"]["kind"] == "InferenceService":
        spec = found["properties"]["spec"]["properties"]
        for left_out, properties in (("spec", spec), ("predictor", spec["predictor"]["properties"])):
            for name in INFERENCE_SERVICE_LEFT_OUT[left_out] & properties.keys():
                del properties[name]
    return found


def strict(node: JSON) -> JSON:
    """The schema without what is not checked, and closed where the API server would drop what it does not know."""
    kept = {key: value for key, value in node.items() if key not in NOT_CHECKED}
    for key in ("properties", "additionalProperties", "items", "anyOf", "allOf", "oneOf", "not"):
        value = kept.get(key)
        if key == "properties" and value:
            kept[key] = {name: strict(child) for name, child in value.items()}
        elif isinstance(value, list):
            kept[key] = [strict(child) for child in value]
        elif isinstance(value, dict):
            kept[key] = strict(value)
    if kept.pop("x-kubernetes-preserve-unknown-fields", False):
        return kept
    if kept.get("type") == "object" and "properties" in kept and "additionalProperties" not in kept:
        kept["additionalProperties"] = False
    return kept


if __name__ == "__main__":
    print(json.dumps(schema(yaml.safe_load(Path(sys.argv[1]).read_text())), sort_keys=True))  # noqa: T201 - its output
