"""People's own tables, from the file to equal answers over every protocol, with no line written by hand."""

import json
import re
import resource
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import yaml

from local_service import free_port
from tests.integration import own_tables
from tests.integration.pipeline_runs import stages_run
from tests.integration.small_project import SmallProject
from tests.waiting import wait_until

TABLES = {
    "penguins": (own_tables.penguins, "species", ","),
    "chile": (own_tables.chile, "vote", ","),
    "flchain": (own_tables.flchain, "death", "\t"),
    "everything": (own_tables.everything, "score (EUR)", ";"),
}
LEFT_OUT = {
    "chile": ("column 1: it numbers the rows", r"\d+ rows without vote are left out"),
    "everything": (
        "^  ID: it .*another text in each row",
        "^  constant: it .*the same value",
        "^  note: it .*free text",
    ),
}
"""What is said of columns and rows that are left out, as regular expressions."""
AT_EACH_COMMIT = ("penguins",)
WEEKLY = ("chile", "flchain", "everything")


def most_cpu_seconds(tables: int) -> float:
    """Of ``make dataset`` and the pipeline: half a minute of two cores a table, and as much for what all share."""
    return 60.0 * (tables + 1)


def git(project: SmallProject, *words: str) -> str:
    return project.command("git", "-c", "user.name=somebody", "-c", "user.email=somebody@example.org", *words)


def add(project: SmallProject, folder: Path, name: str) -> str:
    make, target, separator = TABLES[name]
    path = own_tables.write(folder / f"{name}.csv", make(np.random.default_rng(0)), separator)
    return project.run("training.new_dataset", f"CSV={path}", f"TARGET={target}")


@pytest.fixture(
    scope="module",
    params=[AT_EACH_COMMIT, pytest.param(WEEKLY, marks=pytest.mark.weekly)],
    ids=" and ".join,
)
def tables(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """The tables that are brought."""
    names: tuple[str, ...] = request.param
    return names


@pytest.fixture(scope="module")
def project(
    small_project: SmallProject, tables: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SmallProject]:
    """A trained project, as it was committed, for these tables."""
    assert tables
    with small_project.copied(tmp_path_factory.mktemp("own")) as copy:
        # What the new rows teach is of no use for the old ones: here it may cost something.
        parameters = yaml.safe_load((copy.folder / "params.yaml").read_text())
        parameters["retraining"]["tolerance"] = 1.0
        parameters["retraining"]["group"]["tolerance"] = 5.0
        (copy.folder / "params.yaml").write_text(yaml.safe_dump(parameters, sort_keys=False))
        copy.run("docs_reference")
        git(copy, "add", "-A")
        git(copy, "commit", "-qm", "small models")
        yield copy


@pytest.fixture(scope="module")
def told(project: SmallProject, tables: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the pipeline printed, once each table is a dataset."""
    folder, before = tmp_path_factory.mktemp("tables"), cpu_seconds()
    said = {name: add(project, folder, name) for name in tables}
    for path in ("contract/datasets", "params.yaml"):
        assert git(project, "status", "--porcelain", path)
    project.command("ruff", "check", "contract")
    project.command("ruff", "format", "--check", "contract")
    said["pipeline"] = project.run("dvc", "repro")
    assert cpu_seconds() - before < most_cpu_seconds(len(tables))
    return said


def cpu_seconds() -> float:
    """Of the processes that were started and have ended."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


def test_what_is_left_out_is_said(told: dict[str, str], tables: tuple[str, ...]) -> None:
    for name in tables:
        for reason in LEFT_OUT.get(name, ()):
            assert re.search(reason, told[name], re.MULTILINE), told[name]


def test_nothing_else_is_trained(told: dict[str, str], tables: tuple[str, ...]) -> None:
    trained = [stage for stage in stages_run(told["pipeline"]) if stage.startswith("train_")]
    assert sorted(trained) == sorted(f"train_{name}" for name in tables)


@pytest.fixture(scope="module")
def served(project: SmallProject, told: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Where the project is served: HTTP and gRPC."""
    assert told
    grpc_port = free_port()
    with project.served(GRPC_PORT=str(grpc_port), LEDGER="on") as url:
        yield url, f"127.0.0.1:{grpc_port}"


def test_every_way_to_ask_gives_the_answer_of_the_estimator(
    project: SmallProject, served: tuple[str, str], tables: tuple[str, ...], tmp_path: Path
) -> None:
    for name in tables:
        predictions = tmp_path / f"{name}.parquet"
        project.run("batch_predict", f"data/raw/{name}.csv", str(predictions), "--model", f"{name}@champion")
        project.run("tests.integration.own_table_answers", name, *served, str(predictions))


def test_everything_else_picks_them_up(project: SmallProject, served: tuple[str, str], tables: tuple[str, ...]) -> None:
    url, _ = served
    paths = httpx.get(f"{url}/docs.json").json()["paths"]
    metrics = httpx.get(f"{url}/metrics/prometheus").text
    for name in tables:
        assert {f"/predict/{name}", f"/predict/{name}/batch"} <= paths.keys()
        assert "ml_model_info{" in metrics
        assert re.search(rf'ml_predictions_total{{.*model="{name}"', metrics)
        assert (project.folder / "metrics" / f"{name}.json").is_file()
    page = (project.folder / "reports/evaluation.html").read_text()
    assert all(name in page for name in tables)
    plots = yaml.safe_load((project.folder / "dvc.yaml").read_text())["plots"]
    drawn = [path for plot in plots for path in ([plot] if isinstance(plot, str) else next(iter(plot.values()))["y"])]
    assert all((project.folder / path).is_file() for path in drawn)
    # What is generated for the monitoring does not depend on datasets.
    project.run("monitoring.generate")
    assert not git(project, "status", "--porcelain", "monitoring", "deploy")


VOTES = {"C": "N", "M": "U", "N": "Y", "S": "Y", "SA": "N"}


@pytest.mark.weekly
@pytest.mark.parametrize("tables", [WEEKLY], indirect=True, ids=" and ".join)
def test_a_table_goes_through_the_loop(project: SmallProject, served: tuple[str, str], tmp_path: Path) -> None:
    """The form no longer asks for ``statusquo``, and people vote as their region does: no champion can know."""
    url, _ = served
    champion = httpx.get(f"{url}/health").json()["models"]["chile"]
    table = own_tables.chile(np.random.default_rng(1), 1200)
    entries = []
    for start in range(0, 1200, 100):
        rows = [
            {
                "region": table["region"][row],
                "population": int(table["population"][row]),
                "sex": table["sex"][row],
                "age": None if table["age"][row] == "NA" else int(table["age"][row]),
                "education": None if table["education"][row] == "NA" else table["education"][row],
                "income": 15000,
            }
            for row in range(start, start + 100)
        ]
        answer = httpx.post(f"{url}/predict/chile/batch", json={"rows": rows}).raise_for_status().json()
        known = {"prediction_id": answer["prediction_id"]}
        entries += [{**known, "row": row, "actual": VOTES[table["region"][start + row]]} for row in range(100)]

    def given() -> bool:
        answer: dict[str, int] = httpx.post(f"{url}/feedback", json=entries).raise_for_status().json()
        return answer["unchanged"] == len(entries)

    wait_until(given, "each truth has its prediction")
    assert re.search(r"^statusquo +yes ", project.run("loop.drift", "--model", "chile"), re.MULTILINE)
    said = project.run("loop.retrain", "--model", "chile", "--result", str(tmp_path / "result.json"))
    assert "The challenger becomes the champion" in said
    challenger = json.loads((tmp_path / "result.json").read_text())["challenger"]
    assert challenger != champion
    wait_until(lambda: httpx.get(f"{url}/health").json()["models"]["chile"] == challenger, "it is served")
    replayed = project.run("loop.replay", "--model", "chile@champion", "--hours", "1")
    assert re.search(r"^chile sha-\w+: [\d,]+ recorded rows", replayed, re.MULTILINE)
    assert "Where the truth is known (1,200 rows)" in replayed
    example = {**rows[0], "region": "SA"}
    assert httpx.post(f"{url}/predict/chile", json=example).json()["label"] == "N"
    project.run("training.promote", "chile", "--rollback")
    wait_until(lambda: httpx.get(f"{url}/health").json()["models"]["chile"] == champion, "the former is served")


def test_one_contract_retrains_its_dataset_alone(
    project: SmallProject, told: dict[str, str], tables: tuple[str, ...]
) -> None:
    assert told
    name = tables[0]
    path = project.folder / f"contract/datasets/{name}.py"
    path.write_text(path.read_text().replace('description="Sex."', 'description="Sex, by blood."'))
    stages = stages_run(project.run("dvc", "repro", "--dry"))
    assert [stage for stage in stages if stage.startswith("train_")] == [f"train_{name}"]
    # A person's text stays when the table comes again.
    assert "there is nothing to write" in project.run(
        "training.new_dataset", f"CSV=data/raw/{name}.csv", f"TARGET={TABLES[name][1]}", f"NAME={name}"
    )


@pytest.mark.weekly
def test_they_are_taken_out_without_a_trace(
    project: SmallProject, told: dict[str, str], tables: tuple[str, ...]
) -> None:
    assert told
    for name in tables:
        project.run("training.new_dataset", "--remove", f"NAME={name}")
    assert git(project, "status", "--porcelain") == ""
    assert stages_run(project.run("dvc", "repro")).count("train_housing") == 0
    assert git(project, "status", "--porcelain") == ""
