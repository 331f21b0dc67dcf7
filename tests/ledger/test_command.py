import csv
import http.server
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from pyarrow import parquet
from sqlalchemy import Engine, text

from contract.datasets.housing import HOUSING
from contract.datasets.iris import IRIS
from ledger import database, spool
from ledger.__main__ import cli
from ledger.reader import Reader
from ledger.record import ErrorCount, Record
from ledger.store import Store
from ledger.times import iso
from local_service import PROJECT
from tests.ledger.records import DAY_US, MINUTE_US, NOW_US, a_record, encoded
from tests.ledger.test_reader import label


@pytest.fixture
def state(tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The service's state directory."""
    monkeypatch.setenv("STATE_DIR", str(tmp_path))
    if database_url.startswith("sqlite"):
        monkeypatch.delenv("DATABASE_URL", raising=False)
    else:
        monkeypatch.setenv("DATABASE_URL", database_url)
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments, catch_exceptions=False)


@pytest.fixture
def flowers(store: Store, engine: Engine) -> list[Record]:
    """Calls for iris, the second of which has feedback."""
    records = [a_record(NOW_US + number, model="iris", rows=1 + number) for number in range(4)]
    store.insert("one", 1, [*records, a_record(NOW_US - 2 * DAY_US, rows=None)], [])
    label(engine, records[1], 1, 2.0)
    return records


@pytest.mark.usefixtures("state")
def test_export_to_csv(flowers: list[Record], tmp_path: Path) -> None:
    out = tmp_path / "iris.csv"
    result = run("export", str(out), "--model", "iris")
    assert (result.exit_code, result.output) == (0, f"{out}: 10 rows\n")
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    position = 0
    for record in flowers:
        assert record.rows is not None
        for number in range(record.count):
            row = rows[position]
            assert (row["prediction_id"], row["row"], row["time"]) == (record.id, str(number), iso(record.time_us))
            assert [float(row[name]) for name in IRIS.feature_names] == record.rows[number].tolist()
            outputs = record.outputs[number]
            assert [float(row[f"probability_{name}"]) for name in IRIS.target.classes] == outputs.tolist()
            assert row["prediction"] == IRIS.target.classes[int(outputs.argmax())]
            assert row["actual"] == ("virginica" if (record is flowers[1] and number == 1) else "")
            position += 1
    assert position == len(rows)
    assert [path.name for path in tmp_path.iterdir() if "unfinished" in path.name] == []


@pytest.mark.usefixtures("state")
def test_export_to_parquet(store: Store, engine: Engine, tmp_path: Path) -> None:
    records = [a_record(NOW_US + number, rows=3) for number in range(5)]
    bare = a_record(NOW_US + 10, rows=None, version="v2")
    store.insert("one", 1, [*records, bare], [])
    label(engine, records[0], 2, 4.25)
    out = tmp_path / "housing.parquet"
    out.write_text("an older file")
    assert run("export", str(out)).output == f"{out}: 16 rows\n"
    table = parquet.read_table(out)
    columns = table.to_pydict()
    assert table.num_rows == 16
    assert str(table.schema.field("time").type) == "timestamp[us, tz=UTC]"
    assert columns["prediction_id"] == [record.id for record in records for _ in range(3)] + [bare.id]
    features = np.array([columns[name][:15] for name in HOUSING.feature_names]).T
    assert np.array_equal(features, np.concatenate([record.rows for record in records]))
    assert columns["MedInc"][15] is None
    assert columns["prediction"][:3] == records[0].outputs[:, 0].tolist()
    assert columns["actual"] == [None, None, 4.25] + [None] * 13
    assert columns["version"] == ["v1"] * 15 + ["v2"]


@pytest.mark.usefixtures("state", "flowers")
@pytest.mark.parametrize(
    ("arguments", "rows"),
    [
        (["--model", "iris", "--labelled"], 2),
        (["--model", "iris", "--since", iso(NOW_US + 2)], 7),
        (["--model", "iris", "--since", "1d", "--until", iso(NOW_US + 1)], 1),
        (["--model", "housing", "--until", "24h"], 1),
    ],
)
def test_export_of_some_rows(arguments: list[str], rows: int, tmp_path: Path) -> None:
    out = tmp_path / "some.csv"
    assert run("export", str(out), *arguments).output == f"{out}: {rows:,} rows\n"


@pytest.mark.usefixtures("state", "flowers")
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["export", "out.csv"], r"choose one by --model \(housing, iris\)"),
        (["export", "out.txt", "--model", "iris"], "out.txt ends with neither .csv nor .parquet"),
        (["export", "out.csv", "--model", "nobody"], "The ledger has no predictions of nobody"),
        (["export", "out.csv", "--model", "iris", "--until", "30d"], "There are no such rows: out.csv was not written"),
        (["export", "out.csv", "--model", "iris", "--since", "soon"], "'soon' is neither a time"),
        (["export", "out.csv", "--version", "v1"], "version: needs the model too"),
        (["export", "nowhere/out.csv", "--model", "iris"], "No such file or directory"),
        (["stats", "--since", "1h", "--until", "2h"], "since: is not before the end of the window"),
        (["forget", "--prediction-id", "ABC"], "'ABC' is not of 32 hexadecimal digits. Nothing was deleted"),
        (["check", "--url", "http://127.0.0.1:1"], "http://127.0.0.1:1/metrics does not answer"),
    ],
)
def test_wrong_arguments_get_a_sentence(
    arguments: list[str], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    monkeypatch.chdir(folder)
    result = run(*arguments)
    assert not list(folder.iterdir())
    assert result.exit_code != 0
    assert re.search(sentence, result.output)
    assert "Traceback" not in result.output


def test_without_a_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATE_DIR", str(tmp_path))
    monkeypatch.setenv("DATABASE_URL", "")
    result = run("stats")
    assert (result.exit_code, "There is no ledger at" in result.output) == (1, True)
    monkeypatch.setenv("DATABASE_URL", "postgresql://user:sekret@127.0.0.1:1/name")
    result = run("stats")
    assert result.exit_code == 1
    assert "does not answer as it should" in result.output
    assert "sekret" not in result.output


@pytest.mark.usefixtures("state")
def test_a_database_of_another_version(engine: Engine) -> None:
    with database.transaction(engine) as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    result = run("check")
    assert result.exit_code == 1
    assert "is at revision 9999, and this version needs" in result.output


@pytest.mark.usefixtures("state", "flowers")
def test_stats(store: Store) -> None:
    store.insert("two", 1, [], [ErrorCount(NOW_US // MINUTE_US, "", "v2", 404, 1234)])
    lines = run("stats", "--since", "24h").output.splitlines()
    assert lines[1].split() == [
        "model",
        "version",
        "requests",
        "rows",
        "p50",
        "ms",
        "p95",
        "ms",
        "p99",
        "ms",
        "with",
        "feedback",
    ]
    assert lines[2].split()[:4] == ["iris", "v1", "4", "10"]
    assert lines[2].split()[-1] == "10.0%"
    assert lines[-1].split() == ["–", "v2", "404", "1,234"]


@pytest.mark.usefixtures("state")
def test_forget(flowers: list[Record], engine: Engine) -> None:
    unknown = "0" * 32
    result = run("forget", "--prediction-id", flowers[1].id, "--prediction-id", unknown)
    assert result.output == f"1 deleted\n{unknown}: not there; it will be left out if it still comes\n"
    assert flowers[1].id not in {one.id for one in Reader(engine).recent().predictions}


@contextmanager
def serving(metrics: str) -> Iterator[str]:
    """A server whose ``/metrics`` wants the key ``k``."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = self.path == "/metrics" and self.headers["Authorization"] == "Bearer k"
            self.send_response(200 if known else 401)
            self.end_headers()
            self.wfile.write(metrics.encode() if known else b"")

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.usefixtures("flowers")
@pytest.mark.parametrize("counted", [10, 12])
def test_check(state: Path, counted: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ledger.__main__.DRAIN_SECONDS", 0.1)
    writer = spool.SpoolWriter(state / "spool", 1 << 20)
    writer.append([encoded(a_record(model="iris", rows=2))])
    metrics = (
        "# TYPE ml_predictions counter\n"
        f'ml_predictions_total{{model="iris",version="v1"}} {counted}\n'
        "# TYPE ml_ledger_since_timestamp_seconds gauge\n"
        f"ml_ledger_since_timestamp_seconds {NOW_US / 1e6 - 1}\n"
        "# TYPE ml_ledger_unwritten counter\n"
        "ml_ledger_unwritten_total 3\n"
    )
    with serving(metrics) as url:
        result = run("check", "--url", f"{url}/", "--key", "k")
    writer.finish()
    assert "1 segments; 1 predictions and 0 counts of errors wait in it" in result.output
    assert "ml_ledger_unwritten_total: 3" in result.output
    if counted == 10:
        assert result.exit_code == 0
    else:
        assert result.exit_code == 1
        assert "iris v1: 2 rows were predicted, and are not in the database" in result.output


COUNTED = (
    "# TYPE ml_ledger_since_timestamp_seconds gauge\n"
    f"ml_ledger_since_timestamp_seconds {NOW_US / 1e6 - 1}\n"
)  # fmt: skip


@pytest.mark.usefixtures("state", "engine")
@pytest.mark.parametrize(
    ("variables", "refusal"),
    [
        ({"METRICS_KEY": "k"}, None),
        ({"API_KEY": "k"}, None),
        ({"METRICS_KEY": "k", "API_KEY": "other"}, None),
        ({"METRICS_KEY": "", "API_KEY": "k"}, None),
        ({}, "/metrics asks for a key: set METRICS_KEY"),
        ({"METRICS_KEY": "other", "API_KEY": "k"}, "/metrics asks for another key: set METRICS_KEY"),
        ({"API_KEY": "other"}, "/metrics asks for another key: set METRICS_KEY"),
    ],
)
def test_check_reads_its_key_from_the_environment(
    variables: dict[str, str], refusal: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("METRICS_KEY", "API_KEY"):
        monkeypatch.delenv(name, raising=False)
    for name, key in variables.items():
        monkeypatch.setenv(name, key)
    with serving(COUNTED) as url:
        result = run("check", "--url", url)
    assert result.exit_code == (0 if refusal is None else 1), result.output
    if refusal is not None:
        assert url + refusal in result.output


@pytest.mark.usefixtures("engine")
def test_check_finds_what_is_torn(state: Path) -> None:
    writer = spool.SpoolWriter(state / "spool", 1 << 20)
    writer.append([encoded(a_record()) for _ in range(3)])
    writer.finish()
    (segment,) = spool.segments(state / "spool")
    content = bytearray(segment.read_bytes())
    content[len(content) // 2] ^= 0xFF
    segment.write_bytes(content)
    result = run("check")
    assert result.exit_code == 1
    assert "2 predictions and 0 counts of errors wait in it" in result.output
    assert "1 torn or damaged stretches" in result.output


def test_the_command_starts() -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "ledger", "--help"], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    for command in ("check", "export", "feedback", "forget", "stats"):
        assert f"\n  {command} " in shown.stdout
