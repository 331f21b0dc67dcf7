"""``GET /``: a page to try the models: a form made from the contract, the same request for programs, the model card.

It is built once for each version of a model. The predictions that it asks for are requests like any other.
"""

import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from urllib.parse import parse_qsl, urlencode

from contract.errors import cut
from contract.feature import MISSING, Feature, Kind, Unknown, listed
from serving.access import Access, Gate
from serving.bundle import Bundle, model_info
from serving.errors import NotFound
from serving.http import pages
from serving.http.app import HttpRequest, HttpResponse, Route, is_outsider, quiet_route
from serving.http.pages import text
from serving.http.snippets import Snippet, snippets
from serving.models import LoadedModel
from serving.settings import Settings

PATH = "/"
_STEPS = 20
"""Steps of a number across the middle of the training data."""
_DECIMALS, _ROUNDING = 6, 1e-12
"""Maximum decimals of a step; smaller parts of a minimum are ignored."""


class TryPage:
    """Answers the requests of the page.

    Args:
        bundle: the models to try.
        settings: where the service is, and whether it has a ledger.
        gate: decides whether predictions need a key, and who is told how a model was made.
    """

    def __init__(self, bundle: Bundle, settings: Settings, gate: Gate) -> None:
        self._bundle = bundle
        self._ledger = settings.LEDGER == "on"
        self._gate = gate
        self._key = gate.needs_key(Access.API)
        self._address = f"{'https' if settings.TLS_CERT_FILE else 'http'}://localhost:{settings.API_PORT}"
        self._built: dict[tuple[str, bool], tuple[LoadedModel, HttpResponse]] = {}

    @property
    def route(self) -> Route:
        """The page."""
        return quiet_route(PATH, self.answer, page=True)

    async def answer(self, request: HttpRequest) -> HttpResponse:
        """The page of the model that the query names; of the first, if it names none."""
        names = list(self._bundle.predictors)
        name = dict(parse_qsl(request.scope["query_string"].decode("latin-1"))).get("model", names[0])
        predictor = self._bundle.predictors.get(name)
        if predictor is None:
            raise NotFound(f"There is no model {cut(name)!r}; there are {', '.join(names)}.")
        # As in /models/info.
        outside = is_outsider(self._gate, request)
        built = self._built.get((name, outside))
        if built is None or built[0] is not predictor.model:
            built = predictor.model, self._build(predictor.model, names, outside=outside)
            self._built[name, outside] = built
        return built[1]

    def _build(self, model: LoadedModel, names: list[str], *, outside: bool) -> HttpResponse:
        info = model_info(model)
        dataset = model.dataset
        chosen = "".join(_model_link(name, chosen=name == dataset.name) for name in names) if len(names) > 1 else ""
        told = f'data-model="{text(dataset.name)}" data-ledger="{"on" if self._ledger else ""}"'
        content = f"""{f'<nav class="models" aria-label="Model">{chosen}</nav>' if chosen else ""}
<noscript><p class="alert">The form needs JavaScript. The requests beside it work as they stand.</p></noscript>
<div class="try" id="model" {told}>
{self._form(model, info)}
<div class="side">
<section class="card result" id="result" aria-live="polite" aria-label="Prediction">
<h2>Prediction <small>{text(_target(model))}</small></h2>
<p class="soft">Fill in the form and press <b>Predict</b>. It starts with an example.</p>
</section>
{_requests(snippets(dataset, self._address, key=self._key), key=self._key)}
</div>
</div>
{_card(model, info, outside=outside)}"""
        links = pages.links(without="./")
        return pages.html_response(
            pages.frame("try", "Try the models", content, links), headers={"cache-control": "no-cache"}
        )

    def _form(self, model: LoadedModel, info: Mapping[str, Any]) -> str:
        dataset = model.dataset
        fields = "\n".join(
            _field(number, feature, described)
            for number, (feature, described) in enumerate(zip(dataset.features, info["features"], strict=True))
        )
        key = """<div class="field key">
<label for="key">API key</label>
<input id="key" type="password" autocomplete="off" spellcheck="false" aria-describedby="key-help key-error">
<p class="help" id="key-help">Kept in the memory of this page alone, until you leave it.</p>
<p class="error" id="key-error" hidden></p>
</div>"""
        return f"""<form class="card" id="form" novalidate>
<h2>{text(dataset.name)} <small>{text(dataset.description)}</small></h2>
{key if self._key else ""}
<div class="fields">
{fields}
</div>
<div class="actions"><button>Predict</button><button type="reset" class="quiet">Back to the example</button></div>
</form>"""


def _model_link(name: str, *, chosen: bool) -> str:
    current = ' aria-current="page"' if chosen else ""
    return f'<a href="./?{text(urlencode({"model": name}))}"{current}>{text(name)}</a>'


def _target(model: LoadedModel) -> str:
    target = model.dataset.target
    unit = "" if target.classes else f", in {target.unit}"
    return f"{target.name}{unit}"


def _field(number: int, feature: Feature, described: Mapping[str, Any]) -> str:
    """A field of the form, with its label, what it takes, and a place for what is wrong with it."""
    identifier = f"field-{number}"
    shared = (
        f'id="{identifier}" name="{text(feature.name)}" data-kind="{feature.kind}" autocomplete="off" '
        f'aria-describedby="{identifier}-help {identifier}-error" aria-invalid="false"'
    )
    required = "" if feature.optional else " required"
    unit = feature.unit or ("UTC" if feature.kind is Kind.DATETIME else "")
    notes = [f'<span class="unit">{text(unit)}</span>'] if unit else []
    notes += ['<span class="unit">may be empty</span>'] if feature.optional else []
    label = f'<label for="{identifier}">{text(feature.name)}</label>'
    if feature.kind is Kind.BOOLEAN and not feature.optional:
        control = f'<input type="checkbox" {shared}{" checked" if feature.example else ""}>'
        heading = f'<div class="check">{control}{label}{"".join(notes)}</div>'
    else:
        control = _control(feature, described, identifier, shared + required)
        heading = f'<div class="name">{label}{"".join(notes)}</div>\n{control}'
    return f"""<div class="field">
{heading}
<p class="help" id="{identifier}-help">{text(_help(feature))}</p>
<p class="error" id="{identifier}-error" hidden></p>
</div>"""


def _control(feature: Feature, described: Mapping[str, Any], identifier: str, attributes: str) -> str:
    if feature.kind is Kind.BOOLEAN:
        return _select(("true", "false"), feature.show(float(feature.example)), attributes, optional=True)
    if feature.kind is Kind.CATEGORY and feature.unknown is Unknown.REFUSE:
        return _select(feature.vocabulary, feature.example, attributes, optional=feature.optional)
    if feature.kind is Kind.CATEGORY:
        options = "".join(f'<option value="{text(category)}"></option>' for category in feature.vocabulary)
        return (
            f'<input type="text" list="{identifier}-categories" value="{text(feature.example)}" {attributes}>'
            f'<datalist id="{identifier}-categories">{options}</datalist>'
        )
    low, high = (_in_input(feature, feature.show(end)) for end in (feature.minimum, feature.maximum))
    value = _in_input(feature, str(feature.example))
    kind = {Kind.DATE: "date", Kind.DATETIME: "datetime-local"}.get(feature.kind, "number")
    step = {Kind.DATE: "1", Kind.DATETIME: "1", Kind.INTEGER: "1"}.get(feature.kind) or _step(feature, described)
    return f'<input type="{kind}" min="{low}" max="{high}" step="{step}" value="{value}" {attributes}>'


def _select(values: tuple[str, ...], chosen: str, attributes: str, *, optional: bool) -> str:
    options = [f'<option value="">{MISSING}</option>'] if optional else []
    options += [
        f'<option value="{text(value)}"{" selected" if value == chosen else ""}>{text(value)}</option>'
        for value in values
    ]
    return f"<select {attributes}>{''.join(options)}</select>"


def _range(feature: Feature) -> str:
    """The plausible range, for people, without its unit."""
    ends = (feature.minimum, feature.maximum)
    return " to ".join(f"{end:,.12g}" if feature.numeric else _shown(feature.show(end)) for end in ends)


def _in_input(feature: Feature, written: str) -> str:
    """A value as a field of the form has it: times without their offset, which is always UTC."""
    return text(written.removesuffix("Z") if feature.kind is Kind.DATETIME else written)


def _step(feature: Feature, described: Mapping[str, Any]) -> str:
    """The step of a number: a power of ten that suits the training data, and of which the minimum is a multiple."""
    deciles = described["deciles"] or [0, 0, 0]
    span = (deciles[-2] - deciles[1]) / _STEPS or (feature.maximum - feature.minimum) / _STEPS**2
    exponent = math.floor(math.log10(span)) if span > 0 else 0
    while exponent >= -_DECIMALS and abs(feature.minimum - round(feature.minimum, -exponent)) > _ROUNDING:
        exponent -= 1
    return "any" if exponent < -_DECIMALS else f"{10.0**exponent:.{_DECIMALS}f}".rstrip("0").rstrip(".")


def _meaning(feature: Feature) -> str:
    """What was measured; its unit is told elsewhere."""
    return feature.description.removesuffix(f" Unit: {feature.unit}.")


def _help(feature: Feature) -> str:
    """What a field means and takes."""
    meaning = _meaning(feature)
    if feature.kind is Kind.BOOLEAN:
        return meaning
    if feature.kind is Kind.CATEGORY:
        return meaning if feature.unknown is Unknown.REFUSE else f"{meaning} Others may be typed."
    return f"{meaning} {_range(feature)}."


def _requests(shown: list[Snippet], *, key: bool) -> str:
    choices = "".join(
        f'<label><input type="radio" name="language" value="{one.name}"{" checked" if number == 0 else ""}>'
        f"<span>{one.label}</span></label>"
        for number, one in enumerate(shown)
    )
    codes = "\n".join(f'<pre class="{one.name}" tabindex="0"><code>{one.code}</code></pre>' for one in shown)
    told = '<p class="help">Each reads the key from the variable API_KEY.</p>' if key else ""
    return f"""<section class="card requests" aria-label="The same request">
<h2>The same request</h2>
<div class="languages"><fieldset><legend>Language</legend>{choices}</fieldset>
<button type="button" class="quiet" id="copy" hidden>Copy</button></div>
{codes}
{told}
</section>"""


def _card(model: LoadedModel, info: Mapping[str, Any], *, outside: bool) -> str:
    """The model card; for outsiders without how the model was made, and how good it is."""
    trained_at = info["trained_at"]
    feedback = model.card.feedback_rows
    facts = {
        "Version": _code(info["version"]),
        "Algorithm": text(info["algorithm"].replace("_", " ")),
        "Trained": text(_time(trained_at)) if trained_at else '<span class="soft">not on record here</span>',
        "Training rows": f"{info['training_rows']:,}" + (f", {feedback:,} of them from feedback" if feedback else ""),
        "Predicts": text(f"{_target(model)}: {model.dataset.target.description}"),
        "Training data": f"SHA-256 {_code(info['data_sha256'])}",
    }
    facts |= {"MLflow run": _code(info["run_id"])} if info["run_id"] else {}
    facts |= {"Commit": _code(info["git_revision"])} if info["git_revision"] else {}
    if outside:
        facts = {name: facts[name] for name in ("Version", "Predicts")}
    listed_facts = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in facts.items())
    rows = "".join(
        _feature_row(feature, described)
        for feature, described in zip(model.dataset.features, info["features"], strict=True)
    )
    return f"""<section class="card model" aria-label="Model card">
<h2>Model card <small>{text(info["name"])}; all of it as <a href="./models/info">JSON</a></small></h2>
<dl class="facts">{listed_facts}</dl>
{"" if outside else _metrics(info)}
<h3>Features</h3>
<div class="scroll" tabindex="0"><table>
<thead><tr><th>Feature</th><th>Unit</th><th>Takes</th><th>Middle 80 % in training</th><th>Meaning</th></tr></thead>
<tbody>{rows}</tbody>
</table></div>
</section>"""


def _code(value: object) -> str:
    return f"<code>{text(value)}</code>"


def _time(iso: str) -> str:
    return f"{datetime.fromisoformat(iso):%Y-%m-%d %H:%M} UTC"


def _metrics(info: Mapping[str, Any]) -> str:
    if not info["metrics"]:
        return ""
    folds = info["cross_validation"]
    rows = "".join(
        f'<tr><td>{text(name.replace("_", " "))}</td><td class="n">{_shown(value)}</td>'
        f'<td class="n">{" ± ".join(map(_shown, folds[name])) if name in folds else "–"}</td></tr>'
        for name, value in info["metrics"].items()
    )
    return f"""<h3>Quality</h3>
<div class="scroll" tabindex="0"><table class="narrow">
<thead><tr><th>Metric</th><th class="n">Test split</th><th class="n">Cross-validation</th></tr></thead>
<tbody>{rows}</tbody>
</table></div>"""


def _feature_row(feature: Feature, described: Mapping[str, Any]) -> str:
    if feature.kind is Kind.CATEGORY:
        takes = listed(feature.vocabulary) + (" or others" if feature.unknown is Unknown.OTHER else "")
    elif feature.kind is Kind.BOOLEAN:
        takes = "true or false"
    else:
        takes = _range(feature)
    deciles = described["deciles"]
    middle = f"{_shown(deciles[1])} to {_shown(deciles[-2])}" if deciles else "–"
    wide = ' class="wide"' if feature.vocabulary else ""
    return (
        f"<tr><td>{text(feature.name)}</td><td>{text(feature.unit or feature.kind)}</td>"
        f"<td{wide}>{text(takes + (', or nothing' if feature.optional else ''))}</td>"
        f'<td>{text(middle)}</td><td class="wide">{text(_meaning(feature))}</td></tr>'
    )


def _shown(value: float | str) -> str:
    """A number in four digits; a time to the minute."""
    if isinstance(value, str):
        return value[:16].replace("T", " ")
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
