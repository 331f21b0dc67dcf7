"""``docker-compose.yml`` against what it names: files, settings, variables, versions."""

import json
import re
import subprocess
import sys
from typing import Any

import pytest
import yaml

from local_service import PROJECT
from loop.settings import LoopSettings
from model.signing import PRIVATE_KEY_VARIABLE
from serving.settings import Settings

TEXT = (PROJECT / "docker-compose.yml").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
EXAMPLE = (PROJECT / ".env.example").read_text()
SCRIPT = (PROJECT / "deploy" / "deploy_local.sh").read_text()
OURS = "ml-prediction-bundle:latest"
VARIABLES = dict(re.findall(r"(?<!\$)\$\{([A-Z_]+):-([^}]*)\}", TEXT))
MONITORING = {"ml-api", "prometheus", "alertmanager", "alert-webhook", "grafana"}
TRACKING = {"ml-api", "mlflow", "postgres"}
LEDGER = {"ml-api", "postgres"}
LOOP = {"ml-api", "postgres", "loop"}
MADE = {"./models"}
"""What `make train` makes."""
NO_FILE = "/dev/null"
"""Mounted in place of a file that is not named."""


def compose(*arguments: str, **variables: str) -> dict[str, Any]:
    """The file as a real compose reads it; no engine is asked."""
    ended = subprocess.run(
        [sys.executable, "-m", "podman_compose", "--dry-run", *arguments, "config"],
        cwd=PROJECT,
        env={"PATH": "/usr/bin:/bin", **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    document: dict[str, Any] = yaml.safe_load(ended.stdout)
    return document


@pytest.mark.parametrize(
    ("profiles", "expected"),
    [
        ([], {"ml-api"}),
        (["monitoring"], MONITORING),
        (["tracking"], TRACKING),
        (["ledger"], LEDGER),
        (["loop"], LOOP),
        (["full"], MONITORING | TRACKING),
    ],
)
def test_a_profile_starts_what_it_says(profiles: list[str], expected: set[str]) -> None:
    document = compose(*(f"--profile={profile}" for profile in profiles))
    assert set(document["services"]) == expected


def test_variables_are_honoured() -> None:
    ports = {
        "API_PORT": ("ml-api", 8000),
        "GRPC_PORT": ("ml-api", 8001),
        "PROMETHEUS_PORT": ("prometheus", 9090),
        "GRAFANA_PORT": ("grafana", 3000),
        "ALERTMANAGER_PORT": ("alertmanager", 9093),
        "MLFLOW_PORT": ("mlflow", 5000),
    }
    wanted = {name: str(12_000 + number) for number, name in enumerate(ports)}
    services = compose("--profile=full", **wanted, MAX_LATENCY_MS="77")["services"]
    for name, (service, inside) in ports.items():
        address = "" if service == "ml-api" else "127.0.0.1:"
        assert f"{address}{wanted[name]}:{inside}" in services[service]["ports"]
    assert services["ml-api"]["environment"]["MAX_LATENCY_MS"] == "77"


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_confined_watched_and_limited(name: str) -> None:
    service = SERVICES[name]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["read_only"] is (name != "postgres")
    assert service["healthcheck"]["test"][0] == "CMD"
    assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory"}
    assert service["restart"] == "unless-stopped"


@pytest.mark.parametrize("name", SERVICES)
def test_an_image_is_ours_or_pinned(name: str) -> None:
    service = SERVICES[name]
    if service["image"] == OURS:
        assert service["pull_policy"] == "never"
    else:
        assert re.search(r":v?\d+\.\d+", service["image"])


@pytest.mark.parametrize("name", SERVICES)
def test_what_is_mounted_is_there(name: str) -> None:
    for volume in SERVICES[name].get("volumes", []):
        source, target, *mode = volume.split(":")
        assert target.startswith("/")
        if source.startswith("."):
            assert source in MADE or (PROJECT / source).exists()
            # The worker of the loop works in the project.
            assert mode == ([] if name == "loop" else ["ro"])
        else:
            assert source in COMPOSE["volumes"]


def test_every_setting_of_the_service_passes_through() -> None:
    fixed = {"API_PORT": "8000", "GRPC_PORT": "8001", "STATE_DIR": "/state"}
    # Inside the container: all addresses, and no file on a root that is read-only.
    inside = {"API_HOST", "LOG_FILE"}
    environment = dict(SERVICES["ml-api"]["environment"])
    assert environment.pop("PGPASSWORD") == "${LEDGER_PASSWORD:-}"  # read by PostgreSQL's own library
    assert environment["MODELS_DIR"] == "${SERVED_MODELS:-}"  # a path in the container
    assert fixed.items() <= environment.items()
    assert environment.keys() == Settings.model_fields.keys() - inside
    # An empty text would undo the image's own setting.
    images = {"DRAIN_SECONDS": "5"}
    assert all(
        text == f"${{{name}:-{images.get(name, '')}}}"
        for name, text in environment.items()
        if name not in {*fixed, "MODELS_DIR"}
    )


def test_every_setting_of_the_worker_passes_through() -> None:
    environment = SERVICES["loop"]["environment"]
    assert LoopSettings.model_fields.keys() <= environment.keys()
    assert all(environment[name] == f"${{{name}:-}}" for name in LoopSettings.model_fields)
    for name in ("DATABASE_URL", "PGPASSWORD"):
        assert environment[name] == SERVICES["ml-api"]["environment"][name]


@pytest.mark.parametrize("key", ["", "/home/me/signing.key"])
def test_the_worker_gets_the_key_that_signs_models(key: str) -> None:
    document = compose("--profile=loop", **{PRIVATE_KEY_VARIABLE: key})
    worker = document["services"]["loop"]
    (secret,) = worker["secrets"]
    # Without a key there is an empty file, which nobody reads.
    assert document["secrets"][secret]["file"] == (key or NO_FILE)
    assert worker["environment"][PRIVATE_KEY_VARIABLE] == (f"/run/secrets/{secret}" if key else "")
    assert "secrets" not in document["services"]["ml-api"]


def test_the_service_can_follow_what_the_worker_deploys() -> None:
    document = compose("--profile=loop", SERVED_MODELS="/models", LOOP_USER="1234:5")
    service, worker = document["services"]["ml-api"], document["services"]["loop"]
    assert service["environment"]["MODELS_DIR"] == "/models"
    assert "./models:/models:ro" in service["volumes"]
    assert ".:/project" in worker["volumes"]
    assert worker["user"] == "1234:5"


def test_calls_in_flight_end_before_the_container_is_killed() -> None:
    grace = SERVICES["ml-api"]["stop_grace_period"]
    draining = float(SERVICES["ml-api"]["environment"]["DRAIN_SECONDS"].removeprefix("${DRAIN_SECONDS:-").rstrip("}"))
    assert float(grace.removesuffix("s")) > draining + Settings().TIMEOUT_SECONDS


def test_every_variable_is_in_the_example_with_its_default() -> None:
    listed = dict(re.findall(r"^(?:# )?([A-Z_]+)=(.*)$", EXAMPLE, re.MULTILINE))
    of_the_script = dict(re.findall(r"\$\(setting ([A-Z_]+) \"?([^\")]*)\"?\)", SCRIPT))
    del of_the_script["COMPOSE_PROJECT_NAME"]  # compose's own
    assert listed.keys() == VARIABLES.keys() | of_the_script.keys()
    for name, default in {**VARIABLES, **of_the_script}.items():
        fields = Settings.model_fields | LoopSettings.model_fields
        if name in fields and not default:
            field = fields[name]
            default = str(field.default) if field.default is not None else ""
        default = default.removeprefix(NO_FILE)
        assert listed[name] == default or name == "MLFLOW_ALLOWED_HOSTS", name


@pytest.mark.parametrize("variable", ["GRAFANA_ADMIN_PASSWORD", "POSTGRES_PASSWORD", "LEDGER_PASSWORD"])
def test_there_is_no_default_password(variable: str) -> None:
    assert VARIABLES[variable] == ""
    assert f"\n{variable}=\n" in EXAMPLE
    assert ".env" in (PROJECT / ".gitignore").read_text().splitlines()


@pytest.mark.parametrize(
    ("service", "given", "variable"),
    [
        ("grafana", {"GF_SECURITY_ADMIN_PASSWORD": ""}, "GRAFANA_ADMIN_PASSWORD"),
        ("postgres", {"POSTGRES_PASSWORD": "", "LEDGER_PASSWORD": "x"}, "POSTGRES_PASSWORD"),
        ("postgres", {"POSTGRES_PASSWORD": "x", "LEDGER_PASSWORD": ""}, "LEDGER_PASSWORD"),
        ("loop", {"DATABASE_URL": ""}, "DATABASE_URL"),
    ],
)
def test_what_is_missing_stops_the_container_with_its_name(service: str, given: dict[str, str], variable: str) -> None:
    command = [part.replace("$$", "$") for part in SERVICES[service]["entrypoint"]]
    ended = subprocess.run(command, env=given, capture_output=True, text=True, check=False)
    assert ended.returncode
    assert variable in ended.stderr
    assert ".env.example" in ended.stderr


def test_versions_are_those_of_the_locks() -> None:
    locked = dict(
        re.findall(r"^([a-z0-9-]+)==([^\s;]+)", (PROJECT / "requirements" / "mlflow-server.txt").read_text(), re.M)
    )
    pipeline = (PROJECT / "requirements" / "training.txt").read_text()
    assert SERVICES["mlflow"]["image"].endswith(f":{locked['mlflow']}")
    assert SERVICES["loop"]["image"].endswith(f":{locked['mlflow']}")
    assert f"\nmlflow=={locked['mlflow']} " in pipeline
    assert "psycopg2-binary" in locked
    sdk = re.search(r"grafana-foundation-sdk==\d+!([\d.]+)", (PROJECT / "pyproject.toml").read_text())
    assert sdk is not None
    assert SERVICES["grafana"]["image"].endswith(f":{sdk[1]}")


def test_configured_addresses_are_services() -> None:
    prometheus = yaml.safe_load((PROJECT / "monitoring" / "prometheus.yml").read_text())
    alertmanager = yaml.safe_load((PROJECT / "monitoring" / "alertmanager.yml").read_text())
    hosts = set(re.findall(r'"([a-z-]+):\d+"|names: \[([a-z-]+)\]', json.dumps(prometheus)))
    named = {name for pair in hosts for name in pair if name} | {
        name for job in prometheus["scrape_configs"] for sd in job.get("dns_sd_configs", []) for name in sd["names"]
    }
    named |= set(re.findall(r"http://([a-z-]+):", json.dumps(alertmanager) + TEXT))
    assert {"ml-api", "alertmanager", "alert-webhook", "prometheus"} <= named
    assert named <= SERVICES.keys() | {"localhost"}
