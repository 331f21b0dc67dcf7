"""Write the generated files: ``python -m monitoring.generate``, or ``make dashboards``."""

import sys
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from monitoring import kubernetes, slo
from monitoring.dashboards import DASHBOARDS

HERE = Path(__file__).resolve().parent
KUBERNETES_RULES = HERE.parent / "deploy" / "kubernetes" / "components" / "monitoring" / "prometheusrule.yaml"


def generated() -> dict[Path, str]:
    """The text of every generated file."""
    encode = JSONEncoder(indent=2, sort_keys=True, ensure_ascii=False).encode
    files = {
        HERE / "grafana" / "dashboards" / f"{name}.json": encode(b.build()) + "\n" for name, b in DASHBOARDS.items()
    }
    budgets = {HERE / "rules" / "slo.yml": slo.rules()}
    rules = {path: path.read_text() for path in sorted((HERE / "rules").glob("*.yml"))} | budgets
    rule_files = [*rules.values(), (HERE / "alerts.yml").read_text()]
    local = {HERE / "alertmanager-local.yml": _local((HERE / "alertmanager.yml").read_text())}
    return {**budgets, **local, KUBERNETES_RULES: kubernetes.prometheus_rule(rule_files), **files}


def _local(alertmanager: str) -> str:
    """The configuration of compose's Alertmanager, with the addresses of this machine."""
    header = "# For an Alertmanager on this machine. `make dashboards` writes this file from alertmanager.yml.\n"
    return header + alertmanager.replace("alert-webhook:9095", "localhost:9095").replace(
        "ml-api:8000", "localhost:8000"
    )


def main() -> None:
    """Write the files."""
    for path, text in generated().items():
        path.write_text(text, encoding="utf-8")
        sys.stdout.write(f"{path.relative_to(HERE.parent)}\n")


if __name__ == "__main__":
    main()
