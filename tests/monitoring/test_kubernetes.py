"""The rules as an object of the Prometheus operator."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from monitoring import kubernetes
from monitoring.generate import KUBERNETES_RULES

MONITORING = Path(__file__).parents[2] / "monitoring"
FILES = [*sorted((MONITORING / "rules").glob("*.yml")), MONITORING / "alerts.yml"]


def groups(text: str) -> dict[str, Any]:
    return {group["name"]: group for group in yaml.safe_load(text)["groups"]}


def test_the_cluster_has_every_rule_but_those_of_prometheus_itself() -> None:
    ours = {name: group for path in FILES for name, group in groups(path.read_text()).items()}
    spec = yaml.safe_load(KUBERNETES_RULES.read_text())["spec"]
    cluster = {group["name"]: group for group in spec["groups"]}
    assert cluster == {name: group for name, group in ours.items() if name not in kubernetes.OPERATORS_OWN}
    # Nothing of the service is among what is left out.
    assert all(
        rule["labels"]["component"] == "monitoring" for name in kubernetes.OPERATORS_OWN for rule in ours[name]["rules"]
    )


def test_it_is_read_as_it_was_written() -> None:
    text = "groups:\n- name: one\n  rules:\n  - record: a:b\n    expr: |\n      sum(\n        up\n      )\n"
    written = kubernetes.prometheus_rule([text])
    assert "          expr: |\n            sum(\n              up\n            )\n" in written
    assert yaml.safe_load(written)["spec"] == yaml.safe_load(text)


def test_two_groups_of_one_name_are_refused() -> None:
    text = "groups: [{name: one, rules: []}]"
    with pytest.raises(ValueError, match="Two groups of rules are called one"):
        kubernetes.prometheus_rule([text, text])
