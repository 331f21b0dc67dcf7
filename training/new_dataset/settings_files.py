"""A dataset's part of ``params.yaml`` and ``dvc.yaml``: put in and taken out as text, so that the rest stays."""

import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import yaml

from contract.dataset import Task
from training.errors import PipelineError
from training.new_dataset import names
from training.new_dataset.inference import Found

MANY_ROWS, VERY_MANY_ROWS, MANY_CLASSES = 2_000, 50_000, 5
FLOW_WIDTH = 80
"""Columns that a {…} fits into, as ``dvc exp run -S`` writes the file back."""
TRAIN = "train_"
"""How the name of a training stage begins."""


def params_with(text: str, name: str, found: Found, duplicates: int) -> str:
    """``params.yaml`` with a dataset's sections, where they are missing.

    Args:
        text: of the file.
        name: of the dataset.
        found: what is known of the table.
        duplicates: rows that repeat an earlier one.

    Raises:
        PipelineError: the file is laid out in another way than the one that we know.
    """
    rows = len(found.target_cells)
    limits = f"{{minimum_rows: {rows // 2}, maximum_duplicates: {duplicates}}}"
    if len(f"  {name}: {limits}") > FLOW_WIDTH:
        limits = f"\nminimum_rows: {rows // 2}\nmaximum_duplicates: {duplicates}"
    sections: list[tuple[tuple[str, ...], str]] = [
        (("data_preparation", name), limits),
        (("train", name), _training(found)),
    ]
    expected = yaml.safe_load(text)
    text, expected = _without_lost_decimals(text, expected, name, found)
    present = _get(expected, ("data_preparation", name)) or {"minimum_rows": rows, "maximum_duplicates": duplicates}
    if present["minimum_rows"] > rows or present["maximum_duplicates"] < duplicates:
        text = without(text, ("data_preparation", name))
        expected = _dropped(expected, ("data_preparation", name))
    for path, block in sections:
        if _get(expected, path) is None:
            text = _inserted(text, path, block)
            _set(expected, path, yaml.safe_load(block))
    return _checked("params.yaml", text, expected)


def _without_lost_decimals(text: str, content: Any, name: str, found: Found) -> tuple[str, Any]:
    """The file without the decimals of columns that the table no longer has: training would refuse them."""
    features = ("train", name, "features")
    decimals = _get(content, (*features, "decimals")) or {}
    columns = {column.feature.name for column in found.columns}
    lost = [key for key in decimals if key not in columns and " / " not in key]
    if len(lost) == len(decimals) > 0 and list(_get(content, features)) == ["decimals"]:
        text, content = _inserted(without(text, features), features, "{}"), _dropped(content, features)
        _set(content, features, {})
        return text, content
    for key in lost:
        text = without(text, (*features, "decimals", _key(key)))
        content = _dropped(content, (*features, "decimals", key))
    return text, content


def params_without(text: str, name: str) -> str:
    """``params.yaml`` without the sections of a dataset.

    Raises:
        PipelineError: as ``params_with``.
    """
    expected = yaml.safe_load(text)
    for path in (("data_preparation", name), ("train", name), ("model_evaluation", "datasets", name)):
        text, expected = without(text, path), _dropped(expected, path)
    return _checked("params.yaml", text, expected)


def _training(found: Found) -> str:
    """The section ``train.<name>``, as YAML that begins on a line of its own."""
    rows, regression = len(found.target_cells), found.task is Task.REGRESSION
    many = rows > MANY_ROWS
    trees, leaf = 40 if many else 100, 20 if rows > VERY_MANY_ROWS else 3
    # As many trees for each class.
    iterations = 60 if len(found.target.classes) > MANY_CLASSES else 150 if many else 100
    linear, parameters = ("linear", "{alpha: 1.0}") if regression else ("logistic_regression", "{C: 1.0}")
    scale = max((abs(float(cell)) for cell in found.target_cells), default=1.0) if regression else 1.0
    unit = "in the target's unit" if regression else "of a probability"
    lines = [
        "",
        "folds: 5",
        "random_state: 42 # of the folds and of each candidate that draws",
        f"tolerance: {_tolerance(scale, regression=regression)} # largest |ONNX - estimator| over all rows, {unit}",
        "golden_rows: 16",
        *_features(found),
        "candidates:",
        f"  {linear}:",
        f"    estimator: {linear}",
        f"    parameters: {parameters}",
    ]
    lines += [
        "  random_forest:",
        "    estimator: random_forest",
        f"    parameters: {{n_estimators: {trees}, min_samples_leaf: {leaf}}}",
        "  hist_gradient_boosting:",
        "    estimator: hist_gradient_boosting",
        "    parameters:",
        f"      max_iter: {iterations}",
        f"      min_samples_leaf: {20 if many else 5}",
        "      early_stopping: false",
    ]
    return "\n".join(lines)


def _tolerance(scale: float, *, regression: bool) -> str:
    if not regression:
        return "1.0e-6"
    power = 0
    while 10**power < scale:
        power += 1
    return f"1.0e-{max(9 - power, 1)}"


def _features(found: Found) -> list[str]:
    rounded = {column.feature.name: column.decimals for column in found.columns if column.decimals is not None}
    if not rounded:
        return ["features: {}"]
    return [
        "features:",
        "  # Rounding keeps answers stable: a value sent as float32 falls on the same side of a tree's thresholds.",
        "  decimals:",
        *(f"    {_key(name)}: {places}" for name, places in rounded.items()),
    ]


def _key(text: str) -> str:
    """A text as a key of YAML, quoted where it would be something else."""
    return yaml.safe_dump({text: 0}, allow_unicode=True, width=1000).removesuffix(": 0\n")


def dvc_with(text: str, name: str, found: Found) -> str:
    """``dvc.yaml`` with the stage ``train_<name>``, its outputs where they are read, and its plots.

    Raises:
        PipelineError: the file is laid out in another way than the one that we know.
    """
    content = yaml.safe_load(text)
    if f"{TRAIN}{name}" in content["stages"]:
        return text
    like = next((stage for stage in content["stages"] if stage.startswith(TRAIN)), None)
    if like is None:
        raise PipelineError(f"dvc.yaml has no stage {TRAIN}… to write another after.")
    other = like.removeprefix(TRAIN)
    stage = re.sub(rf"\b{TRAIN}{other}\b|\b{other}\b", lambda match: match[0].replace(other, name), _stage(text, like))
    last = [each for each in content["stages"] if each.startswith(TRAIN)][-1]
    before = _stage(text, last)
    text = text.replace(before, f"{before}{stage}", 1)
    text = _after_the_last(
        text, r"      - data/features/\w+: .*\n", f"      - data/features/{name}: {{persist: true}}\n"
    )
    metric = f"      - metrics/{name}.json: {{cache: false, persist: true}}\n"
    text = _after_the_last(text, r"      - metrics/\w+\.json: .*\n", metric)
    text = _after_each_run(text, r"      models/\w+,\n", f"      models/{name},\n")
    head, mark, images = text.partition("  # The same figures as images")
    if not mark:
        raise PipelineError("dvc.yaml has no comment `# The same figures as images`, before which plots are put.")
    pictures = "".join(f"  - reports/plots/{name}/{image}.png\n" for image in _IMAGES[found.task])
    text = f"{head}{_plots(name, found)}{mark}{images.rstrip()}\n{pictures}"
    loaded = yaml.safe_load(text)
    written = loaded["stages"].get(f"{TRAIN}{name}", {})
    reads = {each: loaded["stages"][each]["deps"] for each in ("model_evaluation", "import_models")}
    if written.get("cmd") != f"python -m training.train {name}" or not all(
        f"models/{name}" in each for each in reads.values()
    ):
        raise PipelineError(_laid_out("dvc.yaml"))
    return _checked("dvc.yaml", text, loaded)


def dvc_without(text: str, name: str) -> str:
    """``dvc.yaml`` without a dataset.

    Raises:
        PipelineError: as ``dvc_with``.
    """
    content = yaml.safe_load(text)
    if f"{TRAIN}{name}" in content["stages"]:
        text = text.replace(_stage(text, f"{TRAIN}{name}"), "", 1)
    for line in (
        rf"      - data/features/{name}: .*\n",
        rf"      - metrics/{name}\.json: .*\n",
        rf"      models/{name},\n",
        rf"  - reports/plots/{name}/.*\n",
        rf"  - {name}, .*\n(?:    .*\n)+",
    ):
        text = re.sub(f"^{line}", "", text, flags=re.MULTILINE)
    if re.search(rf"(data/features|models|metrics|reports/plots)/{name}\b", text):
        raise PipelineError(_laid_out("dvc.yaml"))
    return text


def _stage(text: str, stage: str) -> str:
    """The text of a stage, with the blank line after it."""
    match = re.search(rf"^  {stage}:\n(?:    .*\n|\n)+", text, flags=re.MULTILINE)
    if match is None:
        raise PipelineError(_laid_out("dvc.yaml"))
    return match[0]


def _after_the_last(text: str, pattern: str, line: str) -> str:
    found = list(re.finditer(pattern, text))
    if not found:
        raise PipelineError(_laid_out("dvc.yaml"))
    return f"{text[: found[-1].end()]}{line}{text[found[-1].end() :]}"


def _after_each_run(text: str, pattern: str, line: str) -> str:
    return re.sub(rf"(?:{pattern})+", lambda match: f"{match[0]}{line}", text)


_IMAGES = {
    Task.REGRESSION: (
        "calibration",
        "learning_curve",
        "permutation_importances",
        "predicted_against_actual",
        "residuals",
    ),
    Task.CLASSIFICATION: ("calibration", "confusion_matrix", "learning_curve", "permutation_importances"),
}


def _plots(name: str, found: Found) -> str:
    """The plots that ``dvc plots show`` draws."""
    title, unit = names.for_people(name), found.target.unit
    importances = {"template": "bar_horizontal_sorted", "x": "importance"}, "permutation_importances", "feature"
    plots: list[tuple[str, Mapping[str, str], str, str, str]]
    if found.task is Task.REGRESSION:
        scatter = {"template": "scatter", "x": "predicted"}
        plots = [
            (
                "predicted against actual",
                scatter,
                "predicted_against_actual",
                "actual",
                f"actual against predicted value ({unit}), test split",
            ),
            (
                "residuals",
                {"template": "linear", "x": "residual"},
                "residuals",
                "rows",
                f"residuals, actual minus predicted ({unit}), test split",
            ),
            (
                "calibration",
                scatter,
                "calibration",
                "actual",
                f"mean actual against mean predicted value in ten groups ({unit}), test split",
            ),
            ("permutation importances", *importances, f"rise of the RMSE when a feature is shuffled ({unit})"),
            (
                "learning curve",
                {"x": "rows"},
                "learning_curve",
                "[held_out, fitted]",
                f"RMSE ({unit}) by training rows",
            ),
        ]
    else:
        plots = [
            (
                "confusion",
                {"template": "confusion", "x": "actual"},
                "confusion_matrix",
                "predicted",
                "actual against predicted class",
            ),
            (
                "calibration",
                {"template": "scatter", "x": "predicted"},
                "calibration",
                "observed",
                "how often a class was true against its mean predicted probability",
            ),
            ("permutation importances", *importances, "rise of the log loss when a feature is shuffled"),
            ("learning curve", {"x": "rows"}, "learning_curve", "[held_out, fitted]", "log loss by training rows"),
        ]
    lines = []
    for what, options, file, drawn, said in plots:
        lines.append(f"  - {name}, {what}:")
        lines += [f"      {key}: {value}" for key, value in options.items()]
        lines.append(f"      y: {{reports/plots/{name}/{file}.csv: {drawn}}}")
        quoted = yaml.safe_dump(f"{title}: {said}", default_style='"', allow_unicode=True, width=1000).strip()
        lines.append(f"      title: {quoted}")
        if what == "learning curve":
            lines.append("      y_label: loss")
    return "\n".join(lines) + "\n"


def _laid_out(file: str) -> str:
    return f"{file} is not laid out as it was, so that it cannot be edited: compare it with its last commit."


def _checked(file: str, text: str, expected: Any) -> str:
    """The text, if it means what it must.

    Raises:
        PipelineError: it does not.
    """
    try:
        good = yaml.safe_load(text) == expected
    except yaml.YAMLError:
        good = False
    if not good:
        raise PipelineError(_laid_out(file))
    return text


def _inserted(text: str, path: Sequence[str], block: str) -> str:
    """A text with a block at the end of the section that ``path`` is in."""
    *parents, key = path
    start, end = _section(text, parents)
    indent = "  " * len(parents)
    body = (
        "\n".join(f"{indent}  {line}" if line else line for line in block.split("\n")) if "\n" in block else f" {block}"
    )
    if "\n" in block:
        body = body.lstrip(" ")
    # Blank lines and comments before the next section stay before it.
    section = text[start:end]
    kept = section.rstrip("\n")
    return f"{text[:start]}{kept}\n{indent}{key}:{body}\n{section[len(kept) + 1 :]}{text[end:]}"


def without(text: str, path: Sequence[str]) -> str:
    """A text without the block of a key, if it is there."""
    *parents, key = path
    try:
        start, end = _section(text, parents)
    except PipelineError:
        return text
    indent = "  " * len(parents)
    block = rf"^{indent}{re.escape(key)}:.*\n(?:{indent} +.*\n|[ \t]*\n(?={indent} ))*"
    return text[:start] + re.sub(block, "", text[start:end], count=1, flags=re.MULTILINE) + text[end:]


def _section(text: str, path: Sequence[str]) -> tuple[int, int]:
    """Where the content of a section begins and ends."""
    start, end = 0, len(text)
    for depth, key in enumerate(path):
        indent = "  " * depth
        match = re.compile(rf"^{indent}{re.escape(key)}:[ ]*(?:#.*)?\n", re.MULTILINE).search(text, start, end)
        if match is None:
            raise PipelineError(_laid_out("params.yaml"))
        start = match.end()
        following = re.compile(rf"^{indent}\S|^ {{0,{max(len(indent) - 1, 0)}}}[^ \n]", re.MULTILINE).search(
            text, start, end
        )
        end = following.start() if following else end
    return start, end


def _get(content: Any, path: Sequence[str]) -> Any:
    for key in path:
        if not isinstance(content, dict) or key not in content:
            return None
        content = content[key]
    return content


def _set(content: Any, path: Sequence[str], value: Any) -> None:
    *parents, key = path
    for parent in parents:
        content = content[parent]
    content[key] = value


def _dropped(content: Any, path: Sequence[str]) -> Any:
    copied = deepcopy(content)
    *parents, key = path
    holder = _get(copied, parents)
    if isinstance(holder, dict):
        holder.pop(key, None)
    return copied
