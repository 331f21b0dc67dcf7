"""``python -m batch_predict IN OUT --model housing@champion``."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str] | None = None) -> int:
    """Predict a table; the exit status, 1 if it cannot be done."""
    # Imported here, since the processes that predict import this file: they need neither MLflow nor scikit-learn.
    from batch_predict import plan, run
    from batch_predict.source import Format
    from training import console

    parser = argparse.ArgumentParser(prog="python -m batch_predict", description="Predictions of a whole table.")
    parser.add_argument("table", metavar="IN", type=Path, help="a .parquet or .csv file, or a folder of such files")
    parser.add_argument("target", metavar="OUT", type=Path, help="a new .parquet or .csv file, or a folder for parts")
    parser.add_argument("--model", required=True, help="an alias (housing@champion) or a version (housing@3)")
    parser.add_argument("--format", choices=[*Format], type=Format, help="of a folder's files; default: as the input")
    parser.add_argument("--all-columns", action="store_true", help="the features too; default: the other columns only")
    parser.add_argument("--part-rows", type=_positive, default=plan.PART_ROWS, help="rows of a part, at most")
    parser.add_argument("--processes", type=_positive, default=os.cpu_count() or 1, help="default: one for each core")
    parser.add_argument("--ray", metavar="ADDRESS", help="predict on this Ray cluster, such as auto or 10.0.0.5:6379")
    parser.add_argument("--restart", action="store_true", help="replace what another run left in OUT")
    asked = parser.parse_args(arguments)
    settings = run.Settings(
        output_format=asked.format,
        all_columns=asked.all_columns,
        part_rows=asked.part_rows,
        processes=asked.processes,
        ray=asked.ray,
        restart=asked.restart,
    )
    return console.run(lambda: run.predict_table(asked.table, asked.target, asked.model, settings))


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return number


if __name__ == "__main__":
    sys.exit(main())
