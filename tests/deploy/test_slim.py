"""The real script on trees like those in the image."""

import subprocess
import sys
from pathlib import Path

import pytest

from deploy import slim

SCRIPT = Path(slim.__file__)


def tree(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("")


def files(root: Path) -> set[str]:
    found = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() or path.is_symlink()}
    return {name for name in found if "__pycache__" not in name}


def run(what: str, root: Path) -> None:
    # As in the image: with the standard library alone.
    subprocess.run([sys.executable, "-IS", str(SCRIPT), what, str(root)], check=True)


def test_of_the_libraries_remains_what_runs(tmp_path: Path) -> None:
    libraries = tmp_path / "lib/python3.11/site-packages"
    tree(
        libraries,
        "numpy/__init__.py",
        "numpy/__init__.pyi",
        "numpy/core.so",
        "numpy/tests/test_core.py",
        "numpy/testing/__init__.py",
        "uvloop/loop.pyx",
        "onnxruntime/transformers/gpt.py",
        "onnxruntime/capi/session.so",
        "numpy-2.dist-info/METADATA",
    )
    tree(tmp_path / "bin", "python", "python3.11", "bentoml", "f2py", "activate")
    (libraries / "numpy/core.so").chmod(0o600)
    run("libraries", tmp_path)
    assert files(libraries) == {
        "numpy/__init__.py",
        "numpy/core.so",
        "numpy/testing/__init__.py",
        "onnxruntime/capi/session.so",
        "numpy-2.dist-info/METADATA",
    }
    assert files(tmp_path / "bin") == {"python", "python3.11", "bentoml"}
    assert list((libraries / "numpy/__pycache__").iterdir())
    assert (libraries / "numpy/core.so").stat().st_mode & 0o777 == 0o644


def test_of_a_model_remains_what_the_service_reads(tmp_path: Path) -> None:
    model = "models/housing/v1"
    tree(
        tmp_path,
        "bento.yaml",
        "src/service.py",
        f"{model}/model.yaml",
        f"{model}/mlflow_model/MLmodel",
        f"{model}/mlflow_model/model.skops",
        f"{model}/mlflow_model/extra_files/model.onnx",
        f"{model}/mlflow_model/extra_files/card.json",
        f"{model}/mlflow_model/extra_files/reference.npz",
        "models/housing/latest",
    )
    run("bento", tmp_path)
    assert files(tmp_path) == {
        "bento.yaml",
        "src/service.py",
        "models/housing/latest",
        f"{model}/model.yaml",
        f"{model}/mlflow_model/extra_files/model.onnx",
        f"{model}/mlflow_model/extra_files/card.json",
        f"{model}/mlflow_model/extra_files/reference.npz",
    }


@pytest.fixture
def debian(tmp_path: Path) -> Path:
    """A small Debian, its programs in ``usr`` behind links, as it is since Debian 12."""
    tree(
        tmp_path,
        *("usr/bin/python3.11", "usr/bin/bash", "usr/bin/apt", "usr/sbin/useradd"),
        *("usr/lib/python3.11/os.py", "usr/lib/python3.11/test/test_os.py", "usr/lib/python3.11/ensurepip/__init__.py"),
        *("usr/lib/x86_64-linux-gnu/libc.so.6", "usr/lib/x86_64-linux-gnu/libapt-pkg.so.6.0"),
        *("usr/lib/x86_64-linux-gnu/perl-base/strict.pm", "usr/lib/os-release"),
        *(
            "usr/share/doc/bash/copyright",
            "usr/share/doc/bash/README",
            "usr/share/zoneinfo/UTC",
            "usr/share/perl5/a.pm",
        ),
        *("etc/passwd", "etc/shadow", "etc/bash.bashrc", "etc/ssl/certs/ca-certificates.crt", "var/lib/apt/lists/x"),
        *("var/log/dpkg.log", "tmp/left", "root/.bashrc", "slim.py"),
    )
    (tmp_path / "bin").symlink_to("usr/bin")
    (tmp_path / "usr/bin/python3").symlink_to("python3.11")
    info = tmp_path / "var/lib/dpkg/info"
    info.mkdir(parents=True)
    owned = {
        "bash": "/.\n/bin\n/bin/bash\n/etc/bash.bashrc\n/usr/share/doc/bash/copyright\n",
        "libc6:amd64": "/usr\n/usr/lib/x86_64-linux-gnu/libc.so.6\n",
        "apt": "/usr/bin/apt\n",
        "empty": "/.\n/usr\n",
    }
    for name, listing in owned.items():
        (info / f"{name}.list").write_text(listing)
    names = [name.partition(":")[0] for name in owned]
    status = "\n\n".join(f"Package: {name}\nStatus: install ok installed\nVersion: 1" for name in names)
    (tmp_path / "var/lib/dpkg/status").write_text(status + "\n\n")
    return tmp_path


def test_of_the_system_remains_python_and_its_libraries(debian: Path) -> None:
    run("system", debian)
    assert files(debian) == {
        *("bin", "usr/bin/python3", "usr/bin/python3.11", "usr/lib/python3.11/os.py", "usr/lib/os-release"),
        *("usr/lib/x86_64-linux-gnu/libc.so.6", "usr/share/doc/bash/copyright", "usr/share/zoneinfo/UTC"),
        *("etc/passwd", "etc/bash.bashrc", "etc/ssl/certs/ca-certificates.crt", "var/lib/dpkg/status"),
    }
    assert (debian / "tmp").stat().st_mode & 0o7777 == 0o1777


def test_the_list_of_packages_is_of_those_that_are_there(debian: Path) -> None:
    run("system", debian)
    assert (debian / "var/lib/dpkg/status").read_text() == (
        "Package: libc6\nStatus: install ok installed\nVersion: 1\n\n"
    )


def test_a_list_that_is_none_is_told(debian: Path) -> None:
    (debian / "var/lib/dpkg/status").write_text("Version: 1\n\n")
    ended = subprocess.run(
        [sys.executable, "-IS", str(SCRIPT), "system", str(debian)], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 1
    assert "an entry without a name: 'Version: 1'" in ended.stderr
