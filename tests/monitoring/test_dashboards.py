"""The committed dashboards: up to date, complete, and of queries that Prometheus can read."""

from collections import Counter
from pathlib import Path

import promql_parser
import pytest

from monitoring.dashboards import DASHBOARDS
from monitoring.generate import generated
from monitoring.panels import annotations, load, panels, substitute

VARIABLES = {"interval": "1m", "model": ".+", "version": ".+", "feature": "Longitude"}
NAMES = sorted(DASHBOARDS)


@pytest.mark.parametrize("path", sorted(generated()), ids=lambda path: path.name)
def test_what_is_generated_is_committed(path: Path) -> None:
    assert path.read_text() == generated()[path], "run `make dashboards`"


@pytest.mark.parametrize("name", NAMES)
def test_every_query_parses_once_the_variables_are_substituted(name: str) -> None:
    queries = [target.query for panel in panels(name) for target in panel.targets] + annotations(name)
    assert queries
    for query in queries:
        text = substitute(query, **VARIABLES)
        assert "$" not in text
        promql_parser.parse(text)  # raises if it cannot


@pytest.mark.parametrize("name", NAMES)
def test_every_panel_says_what_it_shows(name: str) -> None:
    for panel in panels(name):
        assert panel.description
        assert panel.unit
        assert panel.nothing
    assert max(Counter(panel.title for panel in panels(name)).values()) == 1


@pytest.mark.parametrize("name", NAMES)
def test_no_two_queries_of_a_panel_have_one_name(name: str) -> None:
    for raw in load(name)["panels"]:
        names = [target["refId"] for target in raw.get("targets", [])]
        assert all(names)
        assert len(set(names)) == len(names)


@pytest.mark.parametrize("name", NAMES)
def test_panels_do_not_overlap(name: str) -> None:
    cells = Counter(
        (column, line)
        for panel in panels(name)
        for column in range(panel.place[0], panel.place[0] + panel.place[2])
        for line in range(panel.place[1], panel.place[1] + panel.place[3])
    )
    assert max(cells.values()) == 1
    assert max(column for column, _ in cells) < 24


@pytest.mark.parametrize("name", NAMES)
def test_dashboards_link_to_each_other_and_keep_what_is_chosen(name: str) -> None:
    board = load(name)
    (link,) = board["links"]
    assert set(link["tags"]) <= set(board["tags"])
    assert link["keepTime"]
    assert link["includeVars"]


def test_every_variable_is_used_and_every_used_one_is_there() -> None:
    for name in NAMES:
        offered = {variable["name"] for variable in load(name).get("templating", {}).get("list", [])}
        text = str([panel.targets for panel in panels(name)]) + str(load(name).get("templating"))
        assert {variable for variable in ("model", "version", "feature") if f"${variable}" in text} == offered
