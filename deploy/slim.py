"""Strips everything that serving does not need while the image is built. It needs nothing but Python.

``slim.py libraries /app/.venv``: removes what an environment does not read at run time, and compiles the rest.
``slim.py bento /app/bento``: removes the estimators, whose libraries are not in the image.
``slim.py system /``: removes every program of a Debian system but Python, and the files that they used.
"""

import compileall
import os
import py_compile
import re
import shutil
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

NOT_RUN = ("*.pyi", "*.pyx", "*.pxd", "*.pxi", "*.c", "*.cpp", "*.h", "*.hpp", "*.a", "*.js.map")
"""Sources and types of compiled extensions."""
LIBRARY_EXTRAS = (
    "**/tests",
    "**/test",
    "onnxruntime/datasets",
    "onnxruntime/quantization",
    "onnxruntime/tools",
    "onnxruntime/transformers",
    "alembic/testing",
    "numpy/distutils",
    "numpy/f2py",
    "pygments/lexers/[!_p]*.py",  # languages: BentoML's tracebacks are in Python
    "sqlalchemy/testing",
    "sqlalchemy/dialects/mssql",
    "sqlalchemy/dialects/mysql",
    "sqlalchemy/dialects/oracle",
    # SQLAlchemy runs the same modules as Python where they are not compiled. The ledger writes with the drivers
    # alone, so that 9 MB would speed up the pages of `/logs` by a little.
    "sqlalchemy/*/*_cy.*.so",
)
"""What no served request and no start imports, in ``site-packages``."""
MODEL_FILES = {
    "model.yaml",
    "mlflow_model/extra_files/model.onnx",
    "mlflow_model/extra_files/card.json",
    "mlflow_model/extra_files/card.sig",
    "mlflow_model/extra_files/reference.npz",
}
"""Of a stored model, what ``serving/`` reads. The estimator needs scikit-learn, which is not in the image."""

PROGRAMS = ("bin", "sbin", "usr/bin", "usr/sbin", "usr/local/bin", "usr/local/sbin")
PYTHON = re.compile(r"python3?(\.\d+)?")
INERT = ("/etc/", "/usr/share/", "/var/")
"""Where a package has its configuration, its documentation and its data."""
SYSTEM_EXTRAS = (
    "boot",
    "home",
    "media",
    "mnt",
    "opt",
    "root",
    "srv",
    "etc/apt",
    "etc/cron*",
    "etc/dpkg",
    "etc/init.d",
    "etc/pam*",
    "etc/perl",
    "etc/rc*.d",
    "etc/shadow*",
    "etc/gshadow*",
    "etc/skel",
    "etc/systemd",
    "usr/games",
    "usr/include",
    "usr/lib/apt",
    "usr/lib/dpkg",
    "usr/lib/init",
    "usr/lib/lsb",
    "usr/lib/mime",
    "usr/lib/systemd",
    "usr/lib/tmpfiles.d",
    "usr/lib/udev",
    "usr/lib/usrmerge",
    "usr/lib/*/e2fsprogs",
    "usr/lib/*/gconv",
    "usr/lib/*/libapt*",
    "usr/lib/*/libperl*",
    "usr/lib/*/perl*",
    "usr/lib/*/security",
    "usr/libexec",
    "usr/local/include",
    "usr/local/share",
    "usr/share/[!dz]*",  # all but the licences in doc and the time zones in zoneinfo
    "usr/share/d[!o]*",
    "usr/share/doc-base",
    "usr/share/doc/*/[!c]*",
    "usr/share/doc/*/c[!o]*",
    "usr/share/zsh",
    "usr/src",
    "var/backups",
    "var/cache",
    "var/lib/apt",
    "var/lib/dpkg/[!is]*",
    "var/lib/dpkg/status-old",
    "var/lib/shells.state",
    "var/lib/pam",
    "var/lib/systemd",
    "var/log",
    "var/spool",
    "var/tmp",
)
STANDARD_LIBRARY_EXTRAS = (
    "config-*",
    "ensurepip",
    "idlelib",
    "lib2to3",
    "pydoc_data",
    "site-packages",  # the base's installer; the service's libraries are in an environment of their own
    "test",
    "tkinter",
    "turtledemo",
)


def slim_libraries(environment: Path) -> None:
    """A virtual environment with the libraries of the service."""
    (libraries,) = (environment / "lib").glob("python3*/site-packages")
    for pattern in LIBRARY_EXTRAS:
        remove(libraries.glob(pattern))
    for pattern in NOT_RUN:
        remove(libraries.rglob(pattern))
    # Other programs than the service's were installed, and scripts that activate the environment in a shell.
    keep = re.compile(rf"bentoml|{PYTHON.pattern}")
    remove(path for path in (environment / "bin").iterdir() if not keep.fullmatch(path.name))
    compile_all(libraries)
    readable(environment)


def slim_bento(bento: Path) -> None:
    """A Bento with its models."""
    for model in (bento / "models").glob("*/*/"):
        files = [path for path in model.rglob("*") if path.is_file()]
        remove(path for path in files if str(path.relative_to(model)) not in MODEL_FILES)
    compile_all(bento / "src")
    readable(bento)


def slim_system(root: Path) -> None:
    """The system in ``root``: Debian with Python in ``usr`` or ``usr/local``."""
    owners = package_files(root)
    for folder in {(root / name).resolve() for name in PROGRAMS if (root / name).exists()}:
        remove(path for path in folder.iterdir() if not PYTHON.fullmatch(path.name))
    for pattern in SYSTEM_EXTRAS:
        remove(root.glob(pattern))
    for library in standard_libraries(root):
        for pattern in STANDARD_LIBRARY_EXTRAS:
            remove(library.glob(pattern))
        compile_all(library)
    for name in ("tmp", "var/tmp"):
        shutil.rmtree(root / name, ignore_errors=True)
        (root / name).mkdir(parents=True)
        (root / name).chmod(0o1777)
    forget_packages(root, owners)
    remove([root / "slim.py"])


def standard_libraries(root: Path) -> Iterator[Path]:
    """Where Python's own modules are; Debian has a link there for its own patches."""
    for prefix in ("usr/lib", "usr/local/lib"):
        yield from (path for path in (root / prefix).glob("python3.*") if (path / "os.py").exists())


def package_files(root: Path) -> dict[str, list[str]]:
    """The files of each Debian package, by its name, those left out that cannot do anything."""
    owners = {}
    for listing in (root / "var/lib/dpkg/info").glob("*.list"):
        files = [line for line in listing.read_text().splitlines() if not line.startswith(INERT)]
        owners[listing.stem.partition(":")[0]] = [name for name in files if (root / name.lstrip("/")).is_file()]
    return owners


def forget_packages(root: Path, owners: dict[str, list[str]]) -> None:
    """Leave in dpkg's list, which scanners for vulnerabilities read, the packages of which there is still something.

    A package without files of its own, such as one that only depends on others, has nothing to be vulnerable with.
    """
    status = root / "var/lib/dpkg/status"
    if not status.exists():
        return
    kept = {name for name, files in owners.items() if any((root / file.lstrip("/")).is_file() for file in files)}
    entries = status.read_text().strip().split("\n\n")
    status.write_text("\n\n".join(entry for entry in entries if package_name(entry) in kept) + "\n\n")
    remove([root / "var/lib/dpkg/info"])


def package_name(entry: str) -> str:
    """The name in an entry of dpkg's list."""
    found = re.search(r"^Package: (\S+)$", entry, re.MULTILINE)
    if not found:
        raise SystemExit(f"dpkg's list has an entry without a name: {entry[:100]!r}")
    return found[1]


def compile_all(folder: Path) -> None:
    """Byte code for every module: nothing can be written at run time, and each worker would compile anew.

    It is taken without a look at its source, whose time is not that of the build on every machine.
    """
    compileall.compile_dir(
        folder, quiet=2, workers=os.cpu_count() or 1, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH
    )


def readable(folder: Path) -> None:
    """Let every user read it, whatever the umask of who built it."""
    for path in [folder, *folder.rglob("*")]:
        if not path.is_symlink():
            executable = 0o111 if path.is_dir() or path.stat().st_mode & 0o100 else 0
            path.chmod(0o644 | executable)


def remove(paths: Iterable[Path]) -> None:
    """Files and whole directories; what is already gone is no error."""
    for path in list(paths):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


if __name__ == "__main__":
    {"libraries": slim_libraries, "bento": slim_bento, "system": slim_system}[sys.argv[1]](Path(sys.argv[2]))
