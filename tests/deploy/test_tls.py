"""The files of ``docs/tls.md`` for Kubernetes and Prometheus."""

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from local_service import PROJECT
from serving import healthcheck
from serving.settings import Settings
from tests.deploy.manifests import KUBERNETES, Object, kustomized
from tests.deploy.test_access import only
from tests.deploy.test_schemas import RELEASES, check

DOCUMENT = (PROJECT / "docs" / "tls.md").read_text()
BLOCKS = dict(re.findall(r"```yaml\n# (\S+?\.ya?ml).*?\n(.*?)```", DOCUMENT, re.DOTALL))
PROBES = ("startupProbe", "readinessProbe", "livenessProbe")


@pytest.fixture(params=[False, True], ids=["TLS", "client certificates"])
def strict(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def objects(tmp_path: Path, strict: bool) -> tuple[Object, ...]:
    overlay = yaml.safe_load(BLOCKS["kustomization.yaml"])
    overlay["resources"] = [os.path.relpath(KUBERNETES / "overlays" / "production", tmp_path)]
    if strict:
        overlay["patches"].append(yaml.safe_load(BLOCKS["mtls.yaml"]))
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
    return kustomized(tmp_path)


@pytest.mark.parametrize("release", RELEASES)
def test_it_is_what_the_release_knows(objects: tuple[Object, ...], release: str) -> None:
    for kind in ("Deployment", "ServiceMonitor"):
        check(only(objects, kind), release)


def test_the_files_are_where_the_secret_is_mounted(objects: tuple[Object, ...], strict: bool) -> None:
    pod = only(objects, "Deployment")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    files = {one["name"]: Path(one["value"]) for one in container["env"] if one["name"].startswith("TLS_")}
    assert files.keys() <= Settings.model_fields.keys()
    # A Secret of this type has these names, and cert-manager adds the CA's.
    names = {"TLS_CERT_FILE": "tls.crt", "TLS_KEY_FILE": "tls.key"} | (
        {"TLS_CLIENT_CA_FILE": "ca.crt"} if strict else {}
    )
    (mount,) = (one for one in container["volumeMounts"] if one["name"] == "tls")
    assert "subPath" not in mount
    assert files == {name: Path(mount["mountPath"]) / file for name, file in names.items()}


def test_probes_ask_over_tls(objects: tuple[Object, ...], strict: bool) -> None:
    (container,) = only(objects, "Deployment")["spec"]["template"]["spec"]["containers"]
    for name in PROBES:
        probe = container[name]
        if not strict:
            assert probe["httpGet"]["scheme"] == "HTTPS"
            continue
        assert "httpGet" not in probe
        interpreter, options, program, *path = probe["exec"]["command"]
        assert f'["{interpreter}", "{options}", "{program}"]' in (PROJECT / "deploy" / "Dockerfile.j2").read_text()
        assert path == (["/livez"] if name == "livenessProbe" else [])
        assert probe["timeoutSeconds"] > healthcheck.TIMEOUT_SECONDS


def test_prometheus_asks_over_tls(objects: tuple[Object, ...]) -> None:
    for endpoint in only(objects, "ServiceMonitor")["spec"]["endpoints"]:
        assert endpoint["scheme"] == "https"
        assert endpoint["tlsConfig"]["ca"]["secret"] == {"name": "ml-api-tls", "key": "ca.crt"}


# The lines that are commented out, too.
SCRAPE = re.sub(
    r"# (cert_file|key_file)", r"\1", "".join(re.findall(r"```yaml\n(scrape_configs:.*?)```", DOCUMENT, re.DOTALL))
)


def test_the_scrape_configuration_is_ours_with_tls() -> None:
    (job,) = yaml.safe_load(SCRAPE)["scrape_configs"]
    ours: Any = yaml.safe_load((PROJECT / "monitoring" / "prometheus.yml").read_text())["scrape_configs"][0]
    assert {name: job[name] for name in ours} == ours
    assert job.keys() - ours.keys() == {"scheme", "tls_config"}


@pytest.mark.integration
def test_prometheus_takes_the_scrape_configuration(tmp_path: Path) -> None:
    (tmp_path / "prometheus.yml").write_text(SCRAPE)
    command = ["promtool", "check", "config", "--syntax-only", str(tmp_path / "prometheus.yml")]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert not checked.returncode, checked.stderr
