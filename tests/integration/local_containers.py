"""Real containers of ``docker-compose.yml`` without a registry: podman, podman-compose, and images that are made here.

What the compose file says is what runs: commands, users, capabilities, read-only roots, limits, volumes, health checks.
Two things differ, and only those:

- No image can be pulled. An image here has the entry point, user and folders of the one it stands in for, and takes its
  program from this machine: Debian's Prometheus, Alertmanager and PostgreSQL, MLflow and the service from the virtual
  environment. Grafana is packaged nowhere that tests reach: its stand-in answers as healthy if what Grafana needs is
  there, namely its provisioning, its dashboards and a Prometheus at the datasource's address.
- All containers share one network, that of the test, whose DNS knows the services' names.
"""

import io
import pwd
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from local_service import PROJECT

COMPOSE: dict[str, Any] = yaml.safe_load((PROJECT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
CONTAINERS_CONF = """\
[containers]
netns = "host"
default_ulimits = ["nofile=20000:20000", "nproc=20000:20000"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "none"
"""
STORAGE_CONF = """\
[storage]
driver = "overlay"
graphroot = "{directory}/graph"
runroot = "{directory}/run"
"""
POSTGRES = """\
#!/bin/sh -e
# What the image's own does on a first start: a cluster with the user, the password and the database of the environment.
export PATH="$(echo /usr/lib/postgresql/*/bin):$PATH"
if [ ! -e "$PGDATA/PG_VERSION" ]; then
    printf '%s\\n' "$POSTGRES_PASSWORD" >/tmp/password
    initdb -U "$POSTGRES_USER" --pwfile=/tmp/password --auth-local=trust --auth-host=scram-sha-256 >/dev/null
    echo "host all all all scram-sha-256" >>"$PGDATA/pg_hba.conf"
    pg_ctl -w start -o "-c listen_addresses=''" >/dev/null
    createdb -U "$POSTGRES_USER" "$POSTGRES_DB"
    for script in /docker-entrypoint-initdb.d/*.sh; do "$script"; done
    pg_ctl -w stop >/dev/null
fi
exec "$@" -c listen_addresses='*'
"""
GRAFANA = """\
#!/bin/sh -e
test -n "$(ls /var/lib/grafana/dashboards/*.json)"
grep -q PROMETHEUS_URL /etc/grafana/provisioning/datasources/*.yml
until wget -q -O /dev/null "$PROMETHEUS_URL/-/ready"; do sleep 0.2; done
mkdir -p /var/lib/grafana/www/api && touch /var/lib/grafana/www/api/health
exec python3 -m http.server --directory /var/lib/grafana/www 3000
"""


@dataclass(frozen=True)
class Image:
    """An image that takes its programs from this machine."""

    entrypoint: str
    user: str = "nobody"
    own: str | None = None
    """A folder that belongs to the user."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Executables by path."""
    labels: Mapping[str, str] = field(default_factory=dict)


def service_image(version: str, script: str = "exec python3 -m bentoml serve") -> Image:
    """The service of the clone, or a script that does something else in its place."""
    files = {"/entrypoint": f"#!/bin/sh\ncd /bundle && {script}\n"}
    return Image('["/entrypoint"]', "1034", own="/state", files=files, labels={"version": version})


STAND_INS = {
    "prometheus": Image('["/bin/prometheus"]', own="/prometheus"),
    "alertmanager": Image('["/usr/bin/prometheus-alertmanager"]', own="/alertmanager"),
    "grafana": Image('["/run.sh"]', own="/var/lib/grafana", files={"/run.sh": GRAFANA}),
    "mlflow": Image('["mlflow"]', "1035", own="/mlartifacts"),
    # It works in the clone, which the test gives to this user.
    "loop": Image('["python3", "-m", "loop.worker"]'),
    "postgres": Image(
        '["docker-entrypoint.sh"]',
        "postgres",
        own="/var/lib/postgresql/data",
        files={"/stand-in/docker-entrypoint.sh": POSTGRES},
    ),
}


@dataclass(frozen=True)
class Containers:
    """A container engine with its own store, and the compose project of a clone."""

    directory: Path
    clone: Path
    environment: dict[str, str]

    def run(self, *command: str, check: bool = True, **variables: str) -> subprocess.CompletedProcess[str]:
        """A command in the clone."""
        ended = subprocess.run(
            command,
            cwd=self.clone,
            env=self.environment | variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert not check or not ended.returncode, f"{command}: {ended.returncode}\n{ended.stdout}\n{ended.stderr}"
        return ended

    def podman(self, *arguments: str) -> str:
        """What it prints."""
        return self.run("podman", *arguments).stdout.strip()

    def deploy(self, *options: str, check: bool = True, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run ``deploy_local.sh``."""
        return self.run("deploy/deploy_local.sh", *options, check=check, **variables)

    def name(self, service: str) -> str:
        """The container of a service, as podman-compose names it."""
        return f"{COMPOSE['name']}_{service}_1"

    def make_image(self, name: str, image: Image) -> str:
        """Make an image, and return its id."""
        archive = self.directory / "image.tar"
        with tarfile.open(archive, "w") as tar:
            for folder in ("usr", "etc", "proc", "sys", "dev", "run", "var", "bundle", "project"):
                tar.addfile(_member(folder, tarfile.DIRTYPE))
            for folder in ("tmp", "run/postgresql"):
                tar.addfile(_member(folder, tarfile.DIRTYPE, mode=0o1777))
            for link in ("bin", "sbin", "lib", "lib64"):
                tar.addfile(_member(link, tarfile.SYMTYPE, link=f"usr/{link}"))
            tar.addfile(_member("var/run", tarfile.SYMTYPE, link="/run"))
            # Where the service's own image has its environment and the Bento.
            for folder in ("app", "app/bento"):
                tar.addfile(_member(folder, tarfile.DIRTYPE))
            tar.addfile(_member("app/.venv", tarfile.SYMTYPE, link=sys.prefix))
            tar.addfile(_member("app/bento/src", tarfile.SYMTYPE, link="/bundle"))
            for file in ("/etc/passwd", "/etc/group", "/etc/ld.so.cache", "/etc/nsswitch.conf"):
                tar.add(file)
            if image.own:
                uid = int(image.user) if image.user.isdecimal() else pwd.getpwnam(image.user).pw_uid
                tar.addfile(_member(image.own.lstrip("/"), tarfile.DIRTYPE, uid=uid))
            for path, text in image.files.items():
                member = _member(path.lstrip("/"), tarfile.REGTYPE)
                member.size = len(text.encode())
                tar.addfile(member, io.BytesIO(text.encode()))
        changes = [
            f"ENTRYPOINT {image.entrypoint}",
            f"USER {image.user}",
            "ENV HOME=/tmp",
            "ENV STATE_DIR=/state",
            "ENV BENTOML_HOME=/tmp/bentoml",
        ]
        changes += [f"ENV PATH={sys.prefix}/bin:/stand-in:/usr/local/bin:/usr/bin:/bin"]
        changes += [f"LABEL {label}={text}" for label, text in image.labels.items()]
        options = [option for change in changes for option in ("--change", change)]
        return self.podman("import", "--quiet", *options, str(archive), name)


def _member(name: str, kind: bytes, *, link: str = "", uid: int = 0, mode: int = 0o755) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.uid, member.mode = kind, link, uid, mode
    return member


@contextmanager
def local_containers(clone: Path, directory: Path) -> Iterator[Containers]:
    """Containers for the compose file of a clone with trained models; all are gone when the block ends.

    Args:
        clone: what ``make serve`` left.
        directory: for the store of the engine, and ``resolv.conf``.
    """
    (directory / "containers.conf").write_text(CONTAINERS_CONF)
    (directory / "storage.conf").write_text(STORAGE_CONF.format(directory=directory))
    file = clone / "docker-compose.on-this-machine.yml"  # Its paths are relative to it.
    file.write_text(on_this_machine(clone, directory / "resolv.conf"))
    environment = {
        "PATH": f"{sys.prefix}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": str(directory),
        "LANG": "C.UTF-8",
        "CONTAINERS_CONF": str(directory / "containers.conf"),
        "CONTAINERS_STORAGE_CONF": str(directory / "storage.conf"),
        "CONTAINER_ENGINE": "podman",
        "COMPOSE_FILE": file.name,
        "WORKERS": "1",
    }
    containers = Containers(directory, clone, environment)
    try:
        yield containers
    finally:
        containers.run("podman", "rm", "--all", "--force", "--volumes", "--time", "5", check=False)
        containers.run("podman", "volume", "rm", "--all", "--force", check=False)
        containers.run("podman", "rmi", "--all", "--force", check=False)
        containers.run("umount", str(directory / "graph" / "overlay"), check=False)


def on_this_machine(clone: Path, resolv_conf: Path) -> str:
    """The compose file of a clone with the two differences: this machine's programs, the shared network."""
    document: dict[str, Any] = yaml.safe_load((clone / "docker-compose.yml").read_text())
    del document["networks"]
    folders = ["/usr", *(path for path in (sys.prefix, sys.base_prefix) if not path.startswith("/usr"))]
    shared = [f"{path}:{path}:ro" for path in folders]
    shared += [f"{clone}:/bundle:ro", f"{resolv_conf}:/etc/resolv.conf:ro"]
    for service in document["services"].values():
        service["network_mode"] = "host"
        service.pop("networks", None)
        service.pop("ports", None)
        service["volumes"] = [*service.get("volumes", []), *shared]
    return yaml.safe_dump(document)
