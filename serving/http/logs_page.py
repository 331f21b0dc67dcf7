"""``GET /logs``: the ledger for people, as HTML. What comes from callers is escaped by ``text``."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Literal
from urllib.parse import parse_qsl, urlencode

from pydantic import Field
from sqlalchemy import Engine

from contract.errors import BundleError
from contract.feature import Feature
from ledger import quality
from ledger.quality import Quality
from ledger.reader import Bin, Logged, ModelVersion, Page, Reader, Slot, Stats, VersionStats
from ledger.times import iso, now_us
from serving.access import Access
from serving.errors import error_headers, sentence
from serving.http import charts, pages
from serving.http.app import HttpRequest, HttpResponse, Route, quiet_route
from serving.http.logs import MAXIMUM_VALUES, RecentFilters, parse, shown_output, shown_value
from serving.http.pages import text
from serving.ledger_database import LedgerDatabase

PATH = "/logs"
LIMIT = 50
"""Predictions of one page."""
MAXIMUM_TRAIL = 40
"""Pages that *Newer* can go back."""
MAXIMUM_VERSIONS = 12
"""Versions whose distribution is drawn: those with the most rows."""
_MINUTE = 60_000_000
_HEADERS = {"cache-control": "no-store"}
_LINKS = pages.links(without=f".{PATH}", more={"./logs/recent": "JSON"})


@dataclass(frozen=True)
class _Window:
    """The window of the charts: its minutes, the minutes of a bar, and its name for people."""

    minutes: int
    slot_minutes: int
    name: str


WINDOWS = {
    "1h": _Window(60, 1, "last hour"),
    "24h": _Window(1440, 30, "last 24 hours"),
    "7d": _Window(7 * 1440, 120, "last 7 days"),
    "30d": _Window(30 * 1440, 720, "last 30 days"),
}


class PageQuery(RecentFilters):
    """The parameters of the page."""

    window: Literal["1h", "24h", "7d", "30d"] = Field(default="24h", description="What the charts are about.")
    trail: str = Field(default="", max_length=3000, description="The cursors of the pages before.")


@dataclass(frozen=True)
class _Found:
    """What the page shows."""

    models: Sequence[ModelVersion]
    page: Page
    stats: Stats
    volume: Sequence[Slot]
    quality: Sequence[Quality]


class LogsPage:
    """Answers the requests of the page.

    Args:
        ledger: what is shown.
        minimum_rows: labelled rows below which no live quality is shown.
    """

    def __init__(self, ledger: LedgerDatabase, minimum_rows: int) -> None:
        self._ledger = ledger
        self._minimum_rows = minimum_rows

    @property
    def route(self) -> Route:
        """The page."""
        return quiet_route(PATH, self.answer, Access.LEDGER, page=True)

    async def answer(self, request: HttpRequest) -> HttpResponse:
        """The page; where it cannot be shown, the form with the reason."""
        given = dict(parse_qsl(request.scope["query_string"].decode("latin-1")))
        try:
            query = parse(PageQuery, request)
            content = await self._ledger.run(lambda engine: _page(given, self._find(engine, query), query))
        except BundleError as error:
            request.call.error = error
            return _response(_refused(given, error), error.status, error_headers(error))
        return _response(content)

    def _find(self, engine: Engine, query: PageQuery) -> _Found:
        reader = Reader(engine)
        # One prediction is shown with all of its rows, others with the first ones.
        rows = MAXIMUM_VALUES if query.prediction_id else 10
        window = WINDOWS[query.window]
        # Use whole slots: sums hold whole minutes, and old ones whole hours.
        whole = min(window.slot_minutes, 60) * _MINUTE
        until = -(-now_us() // whole) * whole
        since = until - window.minutes * _MINUTE
        return _Found(
            reader.models(),
            query.page(reader, limit=LIMIT, rows=rows),
            reader.stats(since_us=since, until_us=until, model=query.model, version=query.version),
            reader.volume(since_us=since, until_us=until, slots=window.minutes // window.slot_minutes),
            quality.read(engine, self._minimum_rows),
        )


def _response(content: str, status: int = 200, headers: Mapping[str, str] = _HEADERS) -> HttpResponse:
    framed = pages.frame("logs", "Predictions on record", content, _LINKS)
    return pages.html_response(framed, status, {**_HEADERS, **headers})


def _link(parameters: Mapping[str, str], content: str, title: str = "") -> str:
    address = f".{PATH}?{urlencode({name: value for name, value in parameters.items() if value})}"
    hint = f' title="{text(title)}"' if title else ""
    return f'<a href="{text(address)}"{hint}>{content}</a>'


def _refused(given: Mapping[str, str], error: BundleError) -> str:
    reason = sentence(error)
    heading = f"{error.status} {HTTPStatus(error.status).phrase}"
    alert = f'<p class="alert" role="alert"><strong>{text(heading)}.</strong> {text(reason)}</p>'
    return f"{alert}\n{_form(given, ())}"


def _page(given: Mapping[str, str], found: _Found, query: PageQuery) -> str:
    names = list(dict.fromkeys(one.model for one in found.models))
    colours = {name: number % charts.COLOURS for number, name in enumerate(names)}
    overview = f"""<div class="charts">
{_volume(found, query, colours)}
{_distributions(found, query, colours)}
</div>
{_versions(found, query)}"""
    return f"""{_form(given, found.models)}
<div id="results" class="results">
{"" if query.prediction_id else overview}
{_predictions(given, found, query)}
</div>"""


def _form(given: Mapping[str, str], models: Sequence[ModelVersion]) -> str:
    def options(name: str, values: Iterable[str], everything: str | None) -> str:
        chosen = given.get(name, "")
        listed = list(dict.fromkeys([*values, *([chosen] if chosen else [])]))
        first = [] if everything is None else [f'<option value="">{everything}</option>']
        return "".join(
            first
            + [
                f'<option value="{text(value)}"{" selected" if value == chosen else ""}>{text(value)}</option>'
                for value in listed
            ]
        )

    def field(name: str, label: str, kind: str = "text") -> str:
        step = ' step="1"' if kind == "datetime-local" else ""
        return f'<label>{label}<input type="{kind}" name="{name}" value="{text(given.get(name, ""))}"{step}></label>'

    of_model = [one.version for one in reversed(models) if given.get("model") in (None, one.model)]
    window = options("window", WINDOWS, None) if given.get("window") else _default_windows()
    return f"""<form class="card" method="get" action=".{PATH}">
<label>Model<select name="model">{options("model", (one.model for one in models), "all")}</select></label>
<label>Version<select name="version">{options("version", of_model, "all")}</select></label>
{field("since", "Since (UTC)", "datetime-local")}
{field("until", "Until (UTC)", "datetime-local")}
{field("prediction_id", "Prediction id")}
{field("request_id", "Request id")}
<label>Charts<select name="window">{window}</select></label>
<button>Show</button>
<a href=".{PATH}">Reset</a>
<label hidden>Follow<input type="checkbox" id="follow"></label>
</form>"""


def _default_windows() -> str:
    return "".join(
        f'<option value="{"" if name == "24h" else name}"{" selected" if name == "24h" else ""}>{name}</option>'
        for name in WINDOWS
    )


def _volume(found: _Found, query: PageQuery, colours: Mapping[str, int]) -> str:
    window = WINDOWS[query.window]
    width = window.slot_minutes * _MINUTE
    shown = [name for name in colours if query.model in (None, name)]
    counts: dict[int, dict[str, int]] = {}
    for slot in found.volume:
        counts.setdefault(slot.start_us, {})[slot.model] = slot.rows
    starts = range(found.stats.since_us - found.stats.since_us % width, found.stats.until_us, width)
    slots = [
        (f"{_time(start)} to {_time(start + width)}", {name: counts.get(start, {}).get(name, 0) for name in shown})
        for start in starts
    ]
    step = max(len(starts) // 6, 1)
    marks = [(number / len(starts), _mark(start, window)) for number, start in enumerate(starts) if number % step == 0]
    rows = sum(sum(one.values()) for _, one in slots)
    legend = "".join(
        f'<span><svg viewBox="0 0 10 10"><rect class="c{colours[name]}" width="10" height="10"/></svg>'
        f"{text(name)}</span>"
        for name in shown
    )
    return f"""<section class="card">
<h2>Predicted rows <small>{window.name}, {rows:,} rows, a bar for each {_length(window.slot_minutes)}</small></h2>
{charts.stacked_bars(slots, colours, marks)}
<div class="legend">{legend}</div>
</section>"""


def _length(minutes: int) -> str:
    if minutes < 60:
        return "minute" if minutes == 1 else f"{minutes} minutes"
    return f"{minutes // 60} hours"


def _mark(start_us: int, window: _Window) -> str:
    time = iso(start_us)
    return time[11:16] if window.minutes <= 1440 else time[5:10]


def _time(time_us: int) -> str:
    return iso(time_us)[:16].replace("T", " ")


def _distributions(found: _Found, query: PageQuery, colours: Mapping[str, int]) -> str:
    largest = sorted(found.stats.versions, key=lambda one: one.rows, reverse=True)[:MAXIMUM_VERSIONS]
    shown = "".join(_distribution(one, colours.get(one.model, 0)) for one in largest)
    rest = len(found.stats.versions) - len(largest)
    more = f'<p class="soft">{rest} more versions: choose a model.</p>' if rest else ""
    nothing = '<p class="empty">No predictions in this window.</p>'
    return f"""<section class="card">
<h2>What was predicted <small>{WINDOWS[query.window].name}</small></h2>
<div class="shares">{shown or nothing}{more}</div>
</section>"""


def _distribution(one: VersionStats, colour: int) -> str:
    classes = [(bin_.label, bin_.rows) for bin_ in one.distribution if bin_.label is not None]
    if classes:
        chart = charts.share_bars(classes, colour)
    else:
        chart = charts.histogram([(bin_.low, bin_.high, bin_.rows) for bin_ in _merged(one.distribution)], colour)
    return f"<div><h3>{text(one.model)} <small>{text(one.version)}</small></h3>{chart}</div>"


def _merged(bins: Sequence[Bin], most: int = 50) -> list[Bin]:
    """Merge neighbouring bins until there are at most ``most``."""
    together = -(-len(bins) // most)
    groups = [bins[start : start + together] for start in range(0, len(bins), together)]
    return [Bin(None, group[0].low, group[-1].high, sum(one.rows for one in group)) for group in groups]


def _versions(found: _Found, query: PageQuery) -> str:
    live = {(one.model, one.version): one for one in found.quality}
    errors: dict[str, int] = {}
    for one in found.stats.errors:
        errors[one.model] = errors.get(one.model, 0) + one.requests
    rows = "".join(
        f"""<tr><td>{_link({"model": one.model, "window": query.window}, text(one.model))}</td>
<td>{_link({"model": one.model, "version": one.version, "window": query.window}, text(one.version))}</td>
<td class="n">{one.requests:,}</td><td class="n">{one.rows:,}</td>
{"".join(f'<td class="n">{_milliseconds(value)}</td>' for value in one.latency_ms.values())}
<td class="n">{one.labelled_rows:,} <span class="soft">({one.feedback_share:.1%})</span></td>
<td>{_quality(live.get((one.model, one.version)))}</td></tr>"""
        for one in reversed(found.stats.versions)
    )
    failed = "".join(f"<span>{text(model or 'no model')}: {count:,}</span>" for model, count in sorted(errors.items()))
    told = f'<div class="legend"><span>Refused or failed requests:</span>{failed}</div>' if errors else ""
    nothing = '<tr><td colspan="9" class="empty">No predictions in this window.</td></tr>'
    return f"""<section class="card">
<h2>Versions <small>{WINDOWS[query.window].name}</small></h2>
<div class="scroll"><table>
<thead><tr><th>Model</th><th>Version</th><th class="n">Requests</th><th class="n">Rows</th><th class="n">p50</th>
<th class="n">p95</th><th class="n">p99</th><th class="n">Labelled rows</th><th>Live quality</th></tr></thead>
<tbody>{rows or nothing}</tbody>
</table></div>
{told}
</section>"""


def _milliseconds(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3g} ms"


def _quality(live: Quality | None) -> str:
    """The metrics of the smallest window that has some."""
    if live is not None:
        for name, window in live.windows.items():
            if window.metrics:
                metrics = ", ".join(f"{text(metric)} {value:.4g}" for metric, value in window.metrics.items())
                return f'{metrics} <span class="soft">({name}, {window.rows:,} rows)</span>'
    return '<span class="soft">too few labelled rows</span>'


def _predictions(given: Mapping[str, str], found: _Found, query: PageQuery) -> str:
    alone = query.prediction_id is not None
    body = "".join(_call(one, opened=alone) for one in found.page.predictions)
    if not body:
        body = '<tbody><tr><td colspan="10" class="empty">No prediction on record fits these filters.</td></tr></tbody>'
    return f"""<section class="card">
<h2>Predictions <small>newest first, times in UTC</small></h2>
<div class="scroll"><table>
<thead><tr><th></th><th>Time</th><th>Model</th><th>Version</th><th class="n">Rows</th><th>Predicted</th>
<th>Came true</th><th class="n">Took</th><th>Protocol</th><th>Prediction id</th><th>Request id</th></tr></thead>
{body}
</table></div>
{_pages(given, found.page, query)}
</section>"""


def _call(one: Logged, *, opened: bool) -> str:
    predicted = _shown(shown_output(one.model, one.outputs, 0))
    more = f' <span class="soft">+ {one.rows - 1:,} more</span>' if one.rows > 1 else ""
    time = iso(one.time_us)
    request = text(one.request_id if len(one.request_id) <= 40 else f"{one.request_id[:39]}…")
    button = '<button type="button" class="more" aria-label="Values" aria-expanded="{}">{}</button>'
    return f"""<tbody><tr class="call">
<td>{button.format("true", "▾") if opened else button.format("false", "▸")}</td>
<td><time datetime="{time}">{time[:10]} {time[11:23]}</time></td>
<td>{text(one.model.model)}</td><td>{text(one.model.version)}</td><td class="n">{one.rows:,}</td>
<td>{predicted}{more}</td><td>{_came_true(one, 0)}</td><td class="n">{_milliseconds(one.milliseconds)}</td>
<td>{text(one.protocol)}</td>
<td class="id">{_link({"prediction_id": one.id}, one.id, "Show this prediction alone, with all rows")}</td>
<td class="id">{_link({"request_id": one.request_id}, request, one.request_id)}</td>
</tr><tr class="values"{"" if opened else " hidden"}><td colspan="11">{_values(one)}</td></tr></tbody>
"""


def _values(one: Logged) -> str:
    names = one.model.outputs
    shares = names if len(names) > 1 else ()
    features = one.model.kinds if one.features is not None else ()
    head = "".join(f'<th class="n">{text(feature.name)}</th>' for feature in features)
    head += "".join(f'<th class="n">P({text(name)})</th>' for name in shares)
    rows = "".join(
        f'<tr><td class="n">{index}</td><td>{_shown(shown_output(one.model, one.outputs, index))}</td>'
        f"<td>{_came_true(one, index)}</td>"
        + "".join(
            _feature(feature, value)
            for feature, value in zip(features, one.features[index] if one.features is not None else (), strict=True)
        )
        + "".join(f'<td class="n">{value:.4f}</td>' for value in (one.outputs[index] if shares else ()))
        + "</tr>"
        for index in range(len(one.outputs))
    )
    rest = one.rows - len(one.outputs)
    more = f'<p class="soft">{rest:,} more rows: {_link({"prediction_id": one.id}, "show all")}</p>' if rest else ""
    kept = '<p class="soft">The features are not on record (LEDGER_FEATURES=off).</p>' if one.features is None else ""
    return f"""<div class="scroll"><table>
<thead><tr><th class="n">Row</th><th>Predicted</th><th>Came true</th>{head}</tr></thead>
<tbody>{rows}</tbody></table></div>{more}{kept}"""


def _feature(feature: Feature, value: float) -> str:
    if feature.numeric and not math.isnan(value):
        return f'<td class="n">{value:.7g}</td>'
    return f"<td>{text(feature.show(value))}</td>"


def _came_true(one: Logged, row: int) -> str:
    if row not in one.actuals:
        return '<span class="soft">–</span>'
    actual = shown_value(one.model, one.actuals[row])
    if isinstance(actual, str):
        right = actual == shown_output(one.model, one.outputs, row)
        return f'<span class="{"right" if right else "wrong"}">{text(actual)} {"✓" if right else "✗"}</span>'
    return _shown(actual)


def _shown(value: float | str) -> str:
    return text(value) if isinstance(value, str) else f"{value:.5g}"


def _pages(given: Mapping[str, str], page: Page, query: PageQuery) -> str:
    links = []
    filters = {name: value for name, value in given.items() if name not in ("cursor", "trail")}
    if query.cursor is not None:
        links.append(_link(filters, "⇤ Newest"))
        *before, last = query.trail.split(".")
        links.append(_link({**filters, "cursor": last, "trail": ".".join(before)}, "← Newer"))
    if page.cursor is not None:
        trail = [*query.trail.split("."), query.cursor] if query.cursor is not None else []
        kept = [one for one in trail if one][-MAXIMUM_TRAIL:]
        links.append(_link({**filters, "cursor": page.cursor, "trail": ".".join(kept)}, "Older →"))
    return f'<div class="pages">{"".join(links)}</div>' if links else ""
