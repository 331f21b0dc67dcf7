"""A run that was stopped goes on; another run is not mixed with it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from batch_predict import processes
from batch_predict.output import Done
from batch_predict.part_worker import Job
from batch_predict.parts import Part
from batch_predict.run import Options
from batch_predict.source import Format
from tests.batch_predict import tiny_batches
from tests.batch_predict.tiny_batches import Predict, read, write
from tests.training.tiny_models import PLOTS
from training.errors import PipelineError

predict = tiny_batches.predict  # a fixture

SETTINGS = Options(part_rows=10, processes=1)
Interrupt = Callable[[int], None]


def plots(rows: int, seed: int = 0) -> pa.Table:
    draw = np.random.default_rng(seed)
    sizes = draw.uniform(0, 102, rows)  # some are too large
    return pa.table({"id": range(rows), "size": sizes, "longitude": [1.0] * rows, "latitude": [2.0] * rows})


def contents(folder: Path) -> dict[str, bytes]:
    """The files of an output, but for the manifest, which tells when the input was written."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.endswith("manifest.json"))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.fixture
def interrupt(monkeypatch: pytest.MonkeyPatch) -> Interrupt:
    """Stops the next run after so many parts, as a kill does: nothing is tidied."""

    def arrange(after: int) -> None:
        whole = processes.run

        def some(job: Job, parts: list[Part], count: int, done: Callable[[Done], None]) -> None:
            monkeypatch.setattr(processes, "run", whole)
            whole(job, parts[:after], count, done)
            raise KeyboardInterrupt

        monkeypatch.setattr(processes, "run", some)

    return arrange


@pytest.mark.parametrize("table_format", Format)
@pytest.mark.parametrize("single_file", [True, False])
@pytest.mark.parametrize("after", [0, 3, 7])
def test_an_interrupted_run_goes_on_and_gives_the_same_bytes(
    predict: Predict, interrupt: Interrupt, tmp_path: Path, table_format: Format, single_file: bool, after: int
) -> None:
    source = write(plots(65), tmp_path / f"in.{table_format}")
    name = f"out.{table_format}" if single_file else "out"
    for folder in ("whole", "stopped"):
        (tmp_path / folder).mkdir()
    whole = predict(PLOTS, source, tmp_path / "whole" / name, SETTINGS)
    target = tmp_path / "stopped" / name
    interrupt(after)
    with pytest.raises(KeyboardInterrupt):
        predict(PLOTS, source, target, SETTINGS)
    parts = sorted((tmp_path / "stopped").rglob("part-*"))
    written = {part: part.stat().st_mtime_ns for part in parts}
    assert len([part for part in parts if part.parent.name != "_rejected"]) == after

    assert predict(PLOTS, source, target, SETTINGS) == whole

    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole")
    assert whole.rejected
    if not single_file:
        assert all(part.stat().st_mtime_ns == former for part, former in written.items())
    # Once more: nothing is left to do.
    assert predict(PLOTS, source, target, SETTINGS) == whole


@pytest.mark.parametrize("damage", ["cut", "gone", "not noted"])
def test_a_part_that_is_not_whole_is_written_anew(predict: Predict, tmp_path: Path, damage: str) -> None:
    source = write(plots(65), tmp_path / "in.parquet")
    predict(PLOTS, source, tmp_path / "out", SETTINGS)
    before = contents(tmp_path / "out")
    part = tmp_path / "out/part-00002.parquet"
    if damage == "cut":
        part.write_bytes(part.read_bytes()[:-100])
    elif damage == "gone":
        part.unlink()
    else:
        (tmp_path / "out/_done/00002.json").unlink()
    (tmp_path / "out/.part-00002.parquet.host-1.partial").write_text("left by a killed process")
    predict(PLOTS, source, tmp_path / "out", SETTINGS)
    assert contents(tmp_path / "out") == before


@pytest.mark.parametrize("name", ["out", "out.parquet"])
def test_a_part_that_is_lost_before_the_end_is_told(
    predict: Predict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    source, target = write(plots(65), tmp_path / "in.parquet"), tmp_path / name
    whole = processes.run

    def lose(job: Job, parts: list[Part], *rest: object) -> None:
        whole(job, parts, *rest)  # type: ignore[arg-type]
        job.files.predictions(2).unlink()

    with monkeypatch.context() as patch:
        patch.setattr(processes, "run", lose)
        with pytest.raises(PipelineError, match=r"Part 2 is no longer whole .* Run the same command again"):
            predict(PLOTS, source, target, SETTINGS)
    done = predict(PLOTS, source, target, SETTINGS)
    assert done.rows + done.rejected == 65


@pytest.mark.parametrize("name", ["out", "out.parquet"])
def test_a_restart_that_is_killed_while_it_clears_can_be_repeated(
    predict: Predict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    source, target = write(plots(65), tmp_path / "in.parquet"), tmp_path / name
    predict(PLOTS, source, target, SETTINGS)
    restarted = replace(SETTINGS, restart=True, all_columns=True)
    unlink = Path.unlink
    removed: list[Path] = []

    def remove_one(path: Path, *, missing_ok: bool = False) -> None:
        if removed:
            raise KeyboardInterrupt
        removed.append(path)
        unlink(path, missing_ok=missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", remove_one)
        with pytest.raises(KeyboardInterrupt):
            predict(PLOTS, source, target, restarted)
    predict(PLOTS, source, target, restarted)
    assert "size" in read(target, Format.PARQUET).column_names


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ("model", 'its model was "plots@1 of run run", now it is "plots@2 of run run"'),
        ("input", "its input was"),
        ("all_columns", '"all_columns": false.*"all_columns": true'),
        ("part_rows", '"part_rows": 10.*"part_rows": 11'),
        ("format", '"format": "parquet".*"format": "csv"'),
    ],
)
def test_another_run_is_not_mixed_with_it(
    predict: Predict, interrupt: Interrupt, tmp_path: Path, changed: str, sentence: str, finished: bool
) -> None:
    source, target = write(plots(65), tmp_path / "in.parquet"), tmp_path / "out"
    if finished:
        predict(PLOTS, source, target, SETTINGS)
    else:
        interrupt(2)
        with pytest.raises(KeyboardInterrupt):
            predict(PLOTS, source, target, SETTINGS)
    before = contents(target)
    settings, version = SETTINGS, "1"
    match changed:
        case "model":
            version = "2"
        case "input":
            write(plots(65, seed=1), source)
        case "all_columns":
            settings = replace(settings, all_columns=True)
        case "part_rows":
            settings = replace(settings, part_rows=11)
        case "format":
            settings = replace(settings, output_format=Format.CSV)
    with pytest.raises(PipelineError, match=f"another run: .*{sentence}.*--restart"):
        predict(PLOTS, source, target, settings, version)
    assert contents(target) == before

    predict(PLOTS, source, target, replace(settings, restart=True), version)
    predict(PLOTS, source, tmp_path / "fresh", settings, version)
    assert contents(target) == contents(tmp_path / "fresh")


@pytest.mark.parametrize("restart", [True, False])
@pytest.mark.parametrize("name", ["out/mine.txt", "out.parquet", "out.rejected.parquet"])
def test_files_of_others_are_never_replaced(predict: Predict, tmp_path: Path, name: str, restart: bool) -> None:
    source = write(plots(5), tmp_path / "in.parquet")
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    target = tmp_path / ("out" if name.startswith("out/") else "out.parquet")
    with pytest.raises(PipelineError, match="batch prediction did not write it"):
        predict(PLOTS, source, target, replace(SETTINGS, restart=restart))
    assert (tmp_path / name).read_text() == "mine"


def test_two_runs_do_not_write_to_one_output(predict: Predict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write(plots(5), tmp_path / "in.parquet")
    refusals = []

    def another(*_: object) -> None:
        with pytest.raises(PipelineError, match="Another run is writing to") as refusal:
            predict(PLOTS, source, tmp_path / "out", SETTINGS)
        refusals.append(refusal)
        raise KeyboardInterrupt

    monkeypatch.setattr(processes, "run", another)
    with pytest.raises(KeyboardInterrupt):
        predict(PLOTS, source, tmp_path / "out", SETTINGS)
    assert refusals


def test_a_process_that_is_killed_loses_nothing(
    predict: Predict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write(plots(65), tmp_path / "in.parquet")
    predict(PLOTS, source, tmp_path / "whole", SETTINGS)
    give = processes._Process.give
    killed: list[int] = []

    def kill_first(worker: processes._Process, part: Part) -> None:
        give(worker, part)
        if not killed:
            worker._process.kill()
            killed.append(part.number)

    monkeypatch.setattr(processes._Process, "give", kill_first)
    predict(PLOTS, source, tmp_path / "out", replace(SETTINGS, processes=2))
    assert killed
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_part_whose_processes_always_die_is_told(
    predict: Predict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    give = processes._Process.give

    def kill(worker: processes._Process, part: Part) -> None:
        worker._process.kill()
        give(worker, part)

    monkeypatch.setattr(processes._Process, "give", kill)
    source = write(plots(5), tmp_path / "in.parquet")
    with pytest.raises(PipelineError, match=r"3 processes died at part 0 \(in.parquet, from row 0\).*--part-rows"):
        predict(PLOTS, source, tmp_path / "out", replace(SETTINGS, processes=2))


@pytest.mark.parametrize("count", [1, 2])
def test_an_input_that_is_gone_half_way_is_told(
    predict: Predict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    source = write(plots(65), tmp_path / "in.parquet")
    whole = processes.run

    def remove(job: Job, parts: list[Part], *rest: object) -> None:
        source.unlink()
        whole(job, parts, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(processes, "run", remove)
    with pytest.raises(PipelineError, match=r"Part \d .*in.parquet, from row \d+\) cannot be predicted"):
        predict(PLOTS, source, tmp_path / "out", replace(SETTINGS, processes=count))


def test_nothing_of_another_format_is_left(predict: Predict, tmp_path: Path) -> None:
    source = write(plots(65), tmp_path / "in.csv")
    predict(PLOTS, source, tmp_path / "out", SETTINGS)
    predict(PLOTS, source, tmp_path / "out", replace(SETTINGS, output_format=Format.PARQUET, restart=True))
    assert not list((tmp_path / "out").rglob("*.csv"))
    assert len(read(tmp_path / "out", Format.PARQUET))
