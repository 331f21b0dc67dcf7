"""The rules and alerts as an object of the Prometheus operator.

The operator reads rules from the cluster and not from files, so ``prometheusrule.yaml`` is written from those files:
each alert is defined once.
"""

from collections.abc import Iterable
from typing import Any

import yaml

NAME = "ml-api"
OPERATORS_OWN = {"storage"}
"""Groups that are left out: alerts on Prometheus itself, which the cluster's operator already brings."""
WIDTH = 120
_HEAD = "# Written by `make dashboards` from monitoring/alerts.yml and monitoring/rules/: change it there.\n"


class _Dumper(yaml.SafeDumper):
    """Keeps the line breaks of queries."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002 - yaml's signature
        """Indent list items below their key, as in our other YAML."""
        super().increase_indent(flow, indentless=False)


def _text(dumper: _Dumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Dumper.add_representer(str, _text)


def prometheus_rule(rule_files: Iterable[str]) -> str:
    """The text of a PrometheusRule with the groups of these rule files (their texts), in order.

    Raises:
        ValueError: two groups have one name, of which the operator refuses the second.
    """
    groups: list[dict[str, Any]] = [group for text in rule_files for group in yaml.safe_load(text)["groups"]]
    names = [group["name"] for group in groups]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"Two groups of rules are called {', '.join(sorted(twice))}. Rename one.")
    document = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": NAME, "labels": {"app.kubernetes.io/name": NAME}},
        "spec": {"groups": [group for group in groups if group["name"] not in OPERATORS_OWN]},
    }
    return _HEAD + yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=WIDTH, allow_unicode=True)
