"""The commands that the documentation tells people to type, and what runs each of them.

A command is one that is typed as it stands there (``AS_TYPED``), one that another test runs in its own way
(``ELSEWHERE``), or one that no test runs (``NOT_RUN``), with the reason. Each key is a regular expression.
"""

import re
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path

from local_service import PROJECT

PAGES = (
    PROJECT / "README.md",
    PROJECT / "CONTRIBUTING.md",
    PROJECT / "SECURITY.md",
    PROJECT / "data" / "README.md",
    *sorted((PROJECT / "docs").rglob("*.md")),
)

AS_TYPED = (
    # Against a service that `make serve` has started, in this order.
    r"curl -s localhost:8000/predict/(housing|iris) .*",
    r"curl -s localhost:8000/feedback .*",
    r"curl -s '?localhost:8000/(logs/(recent|stats).*|models/info|health)",
    r"curl localhost:8000/retrain/jobs",
    r"python -m ledger (stats|export|check|forget) .*",
    r"python -m ledger feedback truth\.csv --actual actual",
    r"python -m load_tests\.benchmark\.capacity --price .*",
    r"python -m serving\.keys new .*",
    r"cd data/raw && sha256sum -c SHA256SUMS",
)
"""Run by ``tests/integration/test_documentation.py``; its service is the one of the page."""

ELSEWHERE = {
    r"make serve": ("tests/integration/conftest.py", '"make serve"'),
    r"make demo": ("tests/integration/test_tutorial.py", '"make demo"'),
    r"make monitor": ("tests/integration/test_access.py", "monitoring.terminal"),
    r"PROMETHEUS_URL=\S+ make monitor": ("tests/integration/test_monitoring.py", "PROMETHEUS_URL"),
    r"prometheus .*": ("tests/integration/local_monitoring.py", "prometheus"),
    r"prometheus-alertmanager .*": ("tests/integration/local_monitoring.py", "alertmanager"),
    r"python monitoring/webhook\.py": ("tests/integration/local_monitoring.py", "webhook.py"),
    r"make train": ("tests/integration/conftest.py", '"make serve"'),
    r"make train serve": ("tests/integration/conftest.py", '"make serve"'),
    r"make boosters": ("tests/integration/test_pipeline.py", '"make boosters"'),
    r"make dataset .*": ("tests/integration/test_own_table.py", "training.new_dataset"),
    r"make dataset-remove .*": ("tests/integration/test_own_table.py", "--remove"),
    r"TLS_CERT_FILE=\S+ .*make serve": ("tests/integration/test_tls.py", "TLS_CERT_FILE"),
    r"curl --cacert .*": ("tests/integration/test_tls.py", "verify"),
    r"python -m model\.signing new .*": ("tests/model/test_signing.py", "model.signing"),
    r"dvc repro -f -s import_models.*": ("tests/training/test_import_models.py", "PRIVATE_KEY_VARIABLE"),
    r"make (promote|rollback) MODEL=.*": ("tests/training/test_promote.py", "promote"),
    r"curl -X POST localhost:8000/models/\w+ .*": ("tests/serving/test_reload.py", "/models/rollback"),
    r"curl -X POST localhost:8000/retrain .*": ("tests/serving/http/test_retrain.py", "/retrain"),
    r"make retrain MODEL=.*": ("tests/integration/test_retraining.py", "loop.retrain"),
    r"make loop": ("tests/integration/small_project.py", "loop.worker"),
    r"python -m loop\.replay .*": ("tests/loop/test_replay.py", "replay"),
    r"python -m loop\.drift .*": ("tests/integration/test_drift.py", "loop.drift"),
    r"curl -s localhost:8000/drift/detect .*": ("tests/serving/http/test_drift.py", "drift.PATH"),
    r"python -m ledger feedback \S+ --actual (price|species).*": ("tests/ledger/test_feedback_file.py", "--actual"),
    r"curl --oauth2-bearer .*": ("tests/integration/test_access.py", "docs/access.md"),
    r"API_KEYS(_FILE)?=\S+ make serve": ("tests/integration/test_access.py", "API_KEYS"),
    r"dvc (repro|dag|metrics show|params diff)": ("tests/integration/test_pipeline.py", "dvc"),
    r"dvc exp run --temp -S .*": ("tests/integration/test_pipeline.py", "dvc exp run --temp"),
    r"dvc exp show .*": ("tests/integration/test_pipeline.py", "dvc exp show"),
    r"mlflow models serve -m .*": ("tests/integration/test_pipeline.py", "mlflow models serve"),
    r"dvc plots show": ("tests/integration/test_pipeline.py", "dvc plots show"),
    r"bentoml (models list|serve|build)": ("tests/integration/test_pipeline.py", "bentoml"),
    r"make load.*": ("tests/integration/test_load.py", "make load"),
    r"make image.*": ("tests/integration/test_image.py", "make image"),
    r"deploy/local_base\.sh .*": ("tests/integration/test_image.py", "deploy/local_base.sh"),
    r"docker run .*": ("tests/integration/test_image.py", "running("),
    r"make sbom": ("tests/integration/test_image.py", "bill_of_materials"),
    r"deploy/deploy_local\.sh": ("tests/integration/test_deploy_local.py", "deploy_local.sh"),
    r"deploy/deploy_local\.sh --full": ("tests/integration/test_compose.py", "--full"),
    r"docker compose (--profile loop up -d|logs -f loop|exec loop .*)": ("tests/integration/test_compose.py", '"loop"'),
    r"cp \.env\.example \.env": ("tests/deploy/test_compose_file.py", ".env.example"),
    r"MLFLOW_TRACKING_URI=\S+ make train": ("tests/integration/test_compose.py", "MLFLOW_TRACKING_URI"),
    r"python -m batch_predict [^-]* --model housing@champion": (
        "tests/integration/test_batch_predict.py",
        "batch_predict",
    ),
    r"make ray|ray (start|stop).*|python -m batch_predict .* --ray \S+": (
        "tests/integration/test_batch_predict.py",
        "ray",
    ),
    r"kubectl kustomize .*": ("tests/deploy/manifests.py", "kustomize"),
    r"python -m load_tests\.benchmark --publish .*": ("tests/load_tests/benchmark/test_report.py", "--publish"),
    r"mlflow ui .*": ("tests/integration/test_clones.py", "make -s ui"),
}
"""The test that runs it, and a word by which it can be found there."""

CLUSTER = "No cluster is there: the manifests are rendered and checked against schemas and policies."
LONG = "It takes minutes on a quiet machine; tests/load_tests/benchmark/ run its parts."
NOT_RUN = {
    r"(tar -c .* \| )?kubectl (-n|diff|apply|get) .*": CLUSTER,
    r"\$EDITOR .*": "Somebody edits.",
    r"for route in .*": CLUSTER,
    r"make benchmark.*": LONG,
    r"python -m load_tests\.benchmark(\.batch_predict|\.kinds| --against FOLDER)": LONG,
    r"make audit": "It asks PyPI for its list of vulnerabilities; the workflow runs it.",
    r"gh attestation .*": "There is no released image; the workflow attests it.",
    r"rsync .*": "It stands for whatever copies to a volume.",
    r"docker build -t registry\..*": "No base can be pulled; tests/deploy/test_compose_file.py checks its version.",
    r"amtool .*": "It asks Alertmanager, whose own tool it is; its configuration is tested.",
}


def commands(page: Path) -> Iterator[str]:
    """The commands of the blocks ``sh``, ``bash`` and ``console`` of a page, without comments."""
    blocks = re.findall(r"^ *```(sh|bash|console)\n(.*?)^ *```", page.read_text(), re.MULTILINE | re.DOTALL)
    for kind, block in blocks:
        lines = block.splitlines()
        if kind == "console":
            lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
        yield from _whole(lines)


def _whole(lines: list[str]) -> Iterator[str]:
    """Each command on one line, wherever it was broken."""
    pending = ""
    for line in lines:
        pending += f" {line.strip()}"
        if pending.endswith("\\"):
            pending = pending.removesuffix("\\")
            continue
        try:
            words = shlex.split(pending, comments=True)
        except ValueError:
            continue  # A quote goes on in the next line.
        if words and words[0] == "for" and words[-1] != "done":
            continue
        # A variable that is set is no command: those that follow read it.
        if not all(re.fullmatch(r"export|[A-Z_]+=.*", word) for word in words):
            yield re.sub(r"\s+# .*", "", " ".join(pending.split())).removesuffix(" &")
        pending = ""


def is_one_of(command: str, patterns: Iterable[str]) -> bool:
    """Whether a pattern matches all of a command."""
    return any(re.fullmatch(pattern, command) for pattern in patterns)
