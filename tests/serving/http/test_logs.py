"""``GET /logs/recent``, ``GET /logs/stats`` and the page ``/logs``."""

import copy
import itertools
import math
import re
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import httpx
import numpy as np
import pytest
from jsonschema import Draft202012Validator

from contract.datasets.housing import HOUSING
from contract.datasets.iris import IRIS
from ledger import feedback, quality
from ledger.feedback import Truth
from ledger.record import ErrorCount, Record
from ledger.times import now_us
from serving.http import logs_page
from tests.ledger.records import a_record
from tests.serving.http.conftest import Recorded
from tests.serving.http.elements import Element, read_page

SECOND = 1_000_000
NASTY = "<script>alert('x')</script>&\""


class Filled(NamedTuple):
    """A ledger with 130 houses of one version, and a batch of three flowers of another, which is the newest."""

    client: httpx.Client
    houses: list[Record]
    flowers: Record
    recorded: Recorded


@pytest.fixture(scope="module")
def filled(recorded: Recorded) -> Filled:
    now = now_us()
    houses = [
        a_record(now - (200 - number) * SECOND, request_id=f"order-{number}", milliseconds=2.0, protocol="v2")
        for number in range(130)
    ]
    outputs = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.0, 0.4, 0.6]])
    flowers = a_record(now - SECOND, model="iris", version="v2", outputs=outputs, request_id=NASTY)
    minute = now // (60 * SECOND)
    recorded.store.insert("filled", 1, [*houses, flowers], [ErrorCount(minute, "housing", "grpc", 400, 7)])
    answer = feedback.give(
        recorded.engine, [Truth(flowers.id, 0, "setosa"), Truth(flowers.id, 2, "setosa"), Truth(houses[0].id, 0, 4.5)]
    )
    assert not answer.problems
    quality.refresh(recorded.engine)
    return Filled(recorded.client, houses, flowers, recorded)


def recent(client: httpx.Client, **parameters: Any) -> dict[str, Any]:
    found: dict[str, Any] = client.get("/logs/recent", params=parameters).raise_for_status().json()
    return found


def ids(client: httpx.Client, **parameters: Any) -> list[str]:
    return [one["prediction_id"] for one in recent(client, **parameters)["predictions"]]


def iso(time_us: int) -> str:
    return datetime.fromtimestamp(time_us / 1e6, UTC).isoformat().replace("+00:00", "Z")


def test_rows_are_by_name_of_feature_and_class(filled: Filled) -> None:
    newest, house = recent(filled.client, limit=2)["predictions"]
    record = filled.flowers
    features = record.rows
    assert features is not None
    rows = newest.pop("rows")
    assert newest == {
        "prediction_id": record.id,
        "request_id": NASTY,
        "time": newest["time"],
        "model": "iris",
        "version": "v2",
        "protocol": "http",
        "milliseconds": pytest.approx(record.milliseconds, abs=0.001),
        "row_count": 3,
    }
    assert datetime.fromisoformat(newest["time"]) == datetime(1970, 1, 1, tzinfo=UTC) + timedelta(
        microseconds=record.time_us
    )
    assert newest["time"].endswith("Z")
    assert [row["prediction"] for row in rows] == ["setosa", "versicolor", "virginica"]
    assert [row.get("actual") for row in rows] == ["setosa", None, "setosa"]
    assert rows[1] == {
        "row": 1,
        "features": dict(zip(IRIS.feature_names, features[1].tolist(), strict=True)),
        "prediction": "versicolor",
        "probabilities": {"setosa": 0.1, "versicolor": 0.8, "virginica": 0.1},
    }
    (row,) = house["rows"]
    assert set(row["features"]) == set(HOUSING.feature_names)
    assert row["prediction"] == filled.houses[-1].outputs[0, 0]
    assert "probabilities" not in row


def test_filters(filled: Filled) -> None:
    client, houses, flowers = filled.client, filled.houses, filled.flowers
    assert ids(client, model="iris") == [flowers.id]
    assert ids(client, model="iris", version="v1") == []
    assert ids(client, model="nothing") == []
    assert ids(client, request_id="order-7") == [houses[7].id]
    assert ids(client, request_id=NASTY) == [flowers.id]
    assert ids(client, prediction_id=houses[7].id) == [houses[7].id]
    hyphens = f"{houses[7].id[:8]}-{houses[7].id[8:12]}-{houses[7].id[12:16]}-{houses[7].id[16:20]}-{houses[7].id[20:]}"
    assert ids(client, prediction_id=hyphens.upper()) == [houses[7].id]
    window = {"since": iso(houses[3].time_us), "until": iso(houses[6].time_us)}
    assert ids(client, **window) == [houses[number].id for number in (5, 4, 3)]
    assert len(ids(client)) == 100
    assert len(ids(client, limit="")) == 100


def test_times_may_have_an_offset(filled: Filled) -> None:
    since = datetime.fromtimestamp(filled.houses[3].time_us // 1000 / 1e3, UTC)
    expected = ids(filled.client, since=since.isoformat())
    for written in (
        since.replace(tzinfo=None).isoformat(),
        (since + timedelta(hours=2)).replace(tzinfo=None).isoformat() + "+02:00",
    ):
        assert ids(filled.client, since=written) == expected
        # As somebody types it into an address: the plus is a space then.
        assert filled.client.get(f"/logs/recent?since={written}").json() == recent(filled.client, since=written)


def test_pages_follow_each_other_while_rows_arrive(filled: Filled) -> None:
    found = []
    cursor = ""
    for number in range(10):
        page = recent(filled.client, model="housing", limit=37, cursor=cursor)
        found += [one["prediction_id"] for one in page["predictions"]]
        filled.recorded.store.insert(f"more-{number}", 1, [a_record(now_us(), version="v9")], [])
        if page["cursor"] is None:
            break
        cursor = page["cursor"]
    assert found == [house.id for house in reversed(filled.houses)]


def test_a_batch_shows_as_many_rows_as_are_asked_for(filled: Filled) -> None:
    for asked, shown in ((1, 1), (2, 2), (5, 3)):
        (one,) = recent(filled.client, model="iris", rows=asked)["predictions"]
        assert (len(one["rows"]), one["row_count"]) == (shown, 3)


def test_statistics_of_a_window(filled: Filled) -> None:
    found = filled.client.get("/logs/stats", params={"window": "1h"}).raise_for_status().json()
    since, until = (datetime.fromisoformat(found[end]) for end in ("since", "until"))
    assert timedelta(hours=1) <= until - since <= timedelta(hours=1, minutes=1)
    by_version = {(one["model"], one["version"]): one for one in found["models"]}
    iris = by_version["iris", "v2"]
    assert (iris["requests"], iris["rows"], iris["labelled_rows"]) == (1, 3, 2)
    assert iris["feedback_share"] == pytest.approx(2 / 3, abs=1e-6)
    assert iris["distribution"] == [
        {"label": label, "rows": 1, "share": pytest.approx(1 / 3, abs=1e-6)} for label in IRIS.target.classes
    ]
    housing = by_version["housing", "v1"]
    assert housing["latency_ms"] == {share: pytest.approx(2.0, rel=0.1) for share in ("p50", "p95", "p99")}
    assert sum(one["rows"] for one in housing["distribution"]) == 130
    assert math.fsum(one["share"] for one in housing["distribution"]) == pytest.approx(1, abs=1e-4)
    assert {"model": "housing", "protocol": "grpc", "status": 400, "requests": 7} in found["errors"]


def test_statistics_of_a_model_and_of_other_windows(filled: Filled) -> None:
    def versions(**parameters: str) -> set[tuple[str, str]]:
        found = filled.client.get("/logs/stats", params=parameters).raise_for_status().json()
        return {(one["model"], one["version"]) for one in found["models"]}

    assert versions(model="iris") == {("iris", "v2")}
    assert versions(model="iris", version="v1") == set()
    assert ("housing", "v1") in versions()
    assert versions(window="15m", until="2026-01-01") == set()
    assert versions(since="2026-01-01", until="2026-01-02") == set()
    assert ("iris", "v2") in versions(since=iso(filled.flowers.time_us - SECOND))


def test_answers_hold_their_schema(filled: Filled) -> None:
    document = copy.deepcopy(filled.recorded.worker.document)
    for path in ("/logs/recent", "/logs/stats"):
        (content,) = document["paths"][path]["get"]["responses"]["200"]["content"].values()
        schema = {**content["schema"], "components": document["components"]}
        answer = filled.client.get(path).raise_for_status().json()
        Draft202012Validator(schema).validate(answer)
        # Nothing is answered that is not described: not one field of any object.
        for name in ("LoggedRow", "LoggedPrediction", "RecentPredictions", "LoggedBin", "LoggedVersion", "LoggedStats"):
            document["components"]["schemas"][name]["additionalProperties"] = False
        Draft202012Validator(schema).validate(answer)


@pytest.mark.parametrize(
    ("path", "query", "field", "says"),
    [
        ("recent", "limit=0", "limit", "greater than or equal to 1, not '0'"),
        ("recent", "limit=1001", "limit", "less than or equal to 1000"),
        ("recent", "limit=many", "limit", "should be a valid integer"),
        ("recent", "rows=0", "rows", "greater than or equal to 1"),
        ("recent", "limit=1000&rows=21", "rows", "should be at most 20 with a limit of 1000"),
        ("recent", "since=yesterday", "since", "a time of ISO 8601, such as 2026-11-27T03:35:16Z, not 'yesterday'"),
        ("recent", "until=2026-13-01", "until", "a time of ISO 8601"),
        ("recent", "since=2026-01-02&until=2026-01-01", "since", "is not before the end of the window"),
        ("recent", "prediction_id=7", "prediction_id", "a prediction id, of 32 hexadecimal digits, not '7'"),
        ("recent", "version=v1", "version", "needs the model too"),
        ("recent", "cursor=nothing", "cursor", "send it as it was"),
        ("recent", "surprise=1", "surprise", "surprise: unknown field"),
        ("recent", f"request_id={'x' * 129}", "request_id", "at most 128 characters"),
        ("stats", "window=0h", "window", "minutes, hours or days, such as 15m, 24h or 7d, not '0h'"),
        ("stats", "window=1y", "window", "minutes, hours or days"),
        ("stats", "window=1h&since=2026-01-01", "window", "send it or since, not both"),
        ("stats", "since=9999-01-01", "since", "is not before the end of the window"),
        ("stats", "limit=1", "limit", "limit: unknown field"),
    ],
)
def test_a_bad_parameter_is_refused_by_name(recorded: Recorded, path: str, query: str, field: str, says: str) -> None:
    answer = recorded.client.get(f"/logs/{path}?{query}")
    assert answer.status_code == 400
    assert says in answer.json()["error"]
    assert answer.json()["error"].startswith(f"{field}: ")
    assert answer.json()["detail"][0]["loc"] == [field]
    if path == "recent":
        page = recorded.client.get(f"/logs?{query}")
        assert page.status_code == 400
        assert any(f"{name}: " in page.text for name in httpx.QueryParams(query))


@pytest.mark.parametrize("query", ["a=1&" * 2000, "%ff=%fe", "=&=", "&&", "since=%00"])
def test_a_strange_query_is_no_bug(recorded: Recorded, query: str) -> None:
    for path in ("/logs/recent", "/logs/stats", "/logs"):
        assert recorded.client.get(f"{path}?{query}").status_code in {200, 400}


def page_of(client: httpx.Client, **parameters: str) -> Element:
    answer = client.get("/logs", params=parameters).raise_for_status()
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    return read_page(answer.text)


def calls(page: Element) -> list[list[Element]]:
    """The cells of each prediction."""
    return [row.all("td") for row in page.all("tr", "call")]


def shown_ids(page: Element) -> list[str]:
    return [cells[-2].text for cells in calls(page)]


def test_the_page_shows_the_newest_predictions(filled: Filled) -> None:
    page = page_of(filled.client)
    assert filled.flowers.id in shown_ids(page)
    assert len(shown_ids(page)) == logs_page.LIMIT
    (row,) = [one for one in page.all("tbody") if one.all("tr", "call") and filled.flowers.id in one.text]
    assert "setosa + 2 more" in row.text
    assert "setosa ✓" in row.text
    assert "setosa ✗" in row.text
    assert [cell.text for cell in row.all("th")][3:] == [
        *IRIS.feature_names,
        *(f"P({name})" for name in IRIS.target.classes),
    ]
    (volume,) = page.all("svg", **{"aria-label": "Predicted rows over time"})
    assert len(volume.all("rect")) >= 2
    (shares,) = page.all("div", "shares")
    assert {one.text for one in shares.all("small")} >= {"v1", "v2"}


def test_what_callers_sent_is_only_text(filled: Filled) -> None:
    answer = filled.client.get("/logs", params={"request_id": NASTY})
    assert "<script>alert" not in answer.text
    page = read_page(answer.text)
    assert shown_ids(page) == [filled.flowers.id]
    (given,) = page.all("input", name="request_id")
    assert given.get("value") == NASTY
    ((*_, cell),) = calls(page)
    assert cell.text == NASTY
    (link,) = cell.all("a")
    assert shown_ids(read_page(filled.client.get((link.get("href") or "")[1:]).text)) == [filled.flowers.id]
    refused = filled.client.get("/logs", params={"since": NASTY, "model": NASTY})
    assert refused.status_code == 400
    assert "<script>alert" not in refused.text
    for one in (answer, refused):
        assert "default-src 'none'" in one.headers["content-security-policy"]


def test_pages_older_and_newer(filled: Filled) -> None:
    def link(page: Element, text: str) -> str | None:
        links = [one for pages in page.all("div", "pages") for one in pages.all("a")]
        return next(((one.get("href") or "")[1:] for one in links if text in one.text), None)

    def follow(address: str | None) -> Element:
        assert address is not None
        return read_page(filled.client.get(address).raise_for_status().text)

    pages = [page_of(filled.client, model="housing", version="v1")]
    assert link(pages[0], "Newer") is None
    while address := link(pages[-1], "Older"):
        pages.append(follow(address))
    assert [one for page in pages for one in shown_ids(page)] == [house.id for house in reversed(filled.houses)]
    for before, page in itertools.pairwise(pages):
        assert shown_ids(follow(link(page, "Newer"))) == shown_ids(before)
        assert shown_ids(follow(link(page, "Newest"))) == shown_ids(pages[0])


def test_one_prediction_is_shown_open_and_alone(filled: Filled) -> None:
    page = page_of(filled.client, prediction_id=filled.flowers.id)
    assert shown_ids(page) == [filled.flowers.id]
    (values,) = page.all("tr", "values")
    assert "hidden" not in values.attributes
    (body,) = values.all("tbody")
    assert len(body.all("tr")) == 3
    assert not page.all("div", "charts")


@pytest.mark.parametrize("window", logs_page.WINDOWS)
def test_every_window_has_its_charts(filled: Filled, window: str) -> None:
    page = page_of(filled.client, window=window)
    (choice,) = page.all("select", name="window")
    (chosen,) = [one.text for one in choice.all("option") if "selected" in one.attributes]
    assert chosen == window
    (heading,) = [one.text for one in page.all("h2") if one.text.startswith("Predicted rows")]
    (rows,) = re.findall(r"([\d,]+) rows", heading)
    assert int(rows.replace(",", "")) >= 133


def test_the_page_loads_nothing_but_our_files(filled: Filled) -> None:
    page = filled.client.get("/logs")
    assert "://" not in page.text
    loaded = re.findall(r'<(?:link|script)[^>]*(?:src|href)="(.*?)"', page.text)
    assert len(loaded) == 4
    for address in loaded:
        assert address.startswith("./")
        assert filled.client.get(str(page.url.join(address))).is_success


def test_features_that_are_not_kept_are_left_out(filled: Filled) -> None:
    record = a_record(now_us(), model="iris", version="bare", rows=1)
    bare = Record(record.id, "r", record.time_us, "iris", "bare", "http", 1.0, None, record.outputs)
    filled.recorded.store.insert("bare", 1, [bare], [])
    (one,) = recent(filled.client, prediction_id=record.id)["predictions"]
    assert set(one["rows"][0]) == {"row", "prediction", "probabilities"}
    assert "LEDGER_FEATURES=off" in page_of(filled.client, prediction_id=record.id).text
