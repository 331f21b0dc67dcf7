"""Set up before anything of BentoML is imported: a home and a metrics directory of the tests' own."""

import os
import tempfile
from pathlib import Path

from local_service import bypass_proxies

HOME = tempfile.TemporaryDirectory(prefix="tests-")  # removed when the process ends
os.environ["BENTOML_HOME"] = str(Path(HOME.name) / "bentoml")
os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(Path(HOME.name) / "metrics")
os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{HOME.name}/mlflow.db"
os.environ["BENTOML_DO_NOT_TRACK"] = "True"
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
bypass_proxies(os.environ)
for directory in ("bentoml", "metrics"):
    (Path(HOME.name) / directory).mkdir()
