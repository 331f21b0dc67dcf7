"""``python -m batch_predict IN OUT --model housing@champion``."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str] | None = None) -> int:
    """Predict a table and return the exit status: 1 if that is impossible."""
    # Imported here: the processes that predict import this file, and need neither MLflow nor scikit-learn.
    from batch_predict import parts, run
    from batch_predict.source import Format
    from training import console

    parser = argparse.ArgumentParser(
        prog="python -m batch_predict",
        description="Predict every row of a table. A run that was stopped continues with the same command.",
    )
    add = parser.add_argument
    add("table", metavar="IN", type=Path, help="a .parquet or .csv file, or a folder of such files")
    add("target", metavar="OUT", type=Path, help="a new .parquet or .csv file, or a folder for many files")
    add("--model", required=True, help="alias (housing@champion) or version (housing@3) in the MLflow registry")
    add("--format", choices=[*Format], type=Format, help="of the output; default: as OUT is named, or as the input")
    add("--all-columns", action="store_true", help="pass the features through too; default: only the other columns")
    add(
        "--part-rows",
        type=_positive,
        default=parts.PART_ROWS,
        help="most rows of a part; default: %(default)s",
    )
    add("--processes", type=_positive, default=os.cpu_count() or 1, help="on this machine; default: one for each core")
    add("--ray", metavar="ADDRESS", help="predict on this Ray cluster instead: auto, or host:port")
    add("--restart", action="store_true", help="replace the predictions of another run in OUT")
    asked = parser.parse_args(arguments)
    options = run.Options(
        output_format=asked.format,
        all_columns=asked.all_columns,
        part_rows=asked.part_rows,
        processes=asked.processes,
        ray=asked.ray,
        restart=asked.restart,
    )
    return console.run(lambda: run.predict_table(asked.table, asked.target, asked.model, options))


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return number


if __name__ == "__main__":
    sys.exit(main())
