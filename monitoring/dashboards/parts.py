"""What the dashboards have in common: panels with our defaults, variables, links."""

from collections.abc import Sequence
from string import ascii_uppercase
from typing import TypeVar

from grafana_foundation_sdk.builders.bargauge import Panel as BarGauge
from grafana_foundation_sdk.builders.common import (
    GraphThresholdsStyleConfig,
    ReduceDataOptions,
    StackingConfig,
    VizLegendOptions,
    VizTooltipOptions,
)
from grafana_foundation_sdk.builders.dashboard import (
    AnnotationQuery,
    Dashboard,
    DashboardLink,
    QueryVariable,
    ThresholdsConfig,
)
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.builders.stat import Panel as Stat
from grafana_foundation_sdk.builders.table import Panel as Table
from grafana_foundation_sdk.builders.timeseries import Panel as Timeseries
from grafana_foundation_sdk.models.common import (
    BigValueGraphMode,
    GraphThresholdsStyleMode,
    LegendDisplayMode,
    LegendPlacement,
    SortOrder,
    StackingMode,
    TooltipDisplayMode,
    VisibilityMode,
    VizOrientation,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DashboardLinkType,
    DataSourceRef,
    DataTransformerConfig,
    Threshold,
    ThresholdsMode,
    VariableOption,
    VariableRefresh,
    VariableSort,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

TAG = "ml-prediction-bundle"
DATASOURCE = DataSourceRef(type_val="prometheus", uid="prometheus")
"""The datasource in ``grafana/provisioning/datasources``."""
HEIGHT = 8
GREEN, YELLOW, RED = "green", "orange", "red"

Query = tuple[str, str]
"""PromQL and the legend of its series."""
Limits = Sequence[tuple[float, str]]
"""Values and the colours from there on; green below the first."""
AnyPanel = TypeVar("AnyPanel", Timeseries, Stat, BarGauge, Table)


def dashboard(uid: str, title: str, description: str) -> Dashboard:
    """An empty dashboard with links to the others."""
    link = (
        DashboardLink("Dashboards")
        .type(DashboardLinkType.DASHBOARDS)
        .tags([TAG])
        .include_vars(True)  # noqa: FBT003 - the builders take their flags so
        .keep_time(True)  # noqa: FBT003
    )
    return (
        Dashboard(title)
        .uid(uid)
        .description(description)
        .tags([TAG])
        .readonly()
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .refresh("30s")
        .time("now-1h", "now")
        .timezone("browser")
        .link(link)
    )


def variable(name: str, query: str, *, many: bool = True) -> QueryVariable:
    """A drop-down filled from Prometheus; with ``many``, several values or all of them."""
    built = (
        QueryVariable(name)
        .label(name)
        .datasource(DATASOURCE)
        .query({"query": query, "refId": name})
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.ALPHABETICAL_ASC)
        .multi(many)
        .include_all(many)
    )
    return built.all_value(".+").current(VariableOption(text="All", value="$__all", selected=True)) if many else built


MODEL_VARIABLE = variable("model", "label_values(ml_model_info, model)")
VERSION_VARIABLE = variable("version", 'label_values(ml_model_info{model=~"$model"}, version)')


def version_changes() -> AnnotationQuery:
    """A mark wherever a version appears that was not served in the hour before."""
    served = 'max by (model, version) (ml_model_info{job="ml-api",model=~"$model"})'
    before = 'max by (model, version) (last_over_time(ml_model_info{job="ml-api",model=~"$model"}[1h] offset 1m))'
    return (
        AnnotationQuery()
        .name("Version changes")
        .datasource(DATASOURCE)
        .enable(True)  # noqa: FBT003
        .icon_color("purple")
        .expr(f"{served} unless {before}")
    )


def lines(
    title: str,
    description: str,
    *queries: Query,
    unit: str,
    width: int = 8,
    limits: Limits = (),
    stacked: bool = False,
    none: str = "no data",
) -> Timeseries:
    """Series over time, from 0 on."""
    panel = (
        _common(Timeseries(), title, description, queries, unit, width, limits, none)
        .min(0)
        .line_width(2)
        .fill_opacity(30 if stacked else 8)
        .show_points(VisibilityMode.NEVER)
        .span_nulls(False)  # noqa: FBT003
        .legend(
            VizLegendOptions()
            .display_mode(LegendDisplayMode.TABLE)
            .placement(LegendPlacement.BOTTOM)
            .show_legend(True)  # noqa: FBT003
            .calcs(["lastNotNull", "max"])
        )
        .tooltip(VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING))
    )
    if stacked:
        panel = panel.stacking(StackingConfig().mode(StackingMode.NORMAL))
    if limits:
        panel = panel.thresholds_style(GraphThresholdsStyleConfig().mode(GraphThresholdsStyleMode.DASHED))
    return panel


def number(
    title: str,
    description: str,
    *queries: Query,
    unit: str,
    width: int = 3,
    height: int = 4,
    limits: Limits = (),
    base: str = GREEN,
    none: str = "no data",
) -> Stat:
    """The latest value, large, over its course."""
    return (
        _common(Stat(), title, description, queries, unit, width, limits, none, base)
        .height(height)
        .graph_mode(BigValueGraphMode.AREA)
        .reduce_options(ReduceDataOptions().calcs(["lastNotNull"]))
    )


def bars(
    title: str, description: str, *queries: Query, unit: str, width: int = 8, limits: Limits = (), none: str = "no data"
) -> BarGauge:
    """The latest value of each series as a bar."""
    return (
        _common(BarGauge(), title, description, queries, unit, width, limits, none, instant=True)
        .min(0)
        .orientation(VizOrientation.HORIZONTAL)
        .reduce_options(ReduceDataOptions().calcs(["lastNotNull"]))
    )


def table(title: str, description: str, query: str, *, unit: str, width: int = 12, hidden: Sequence[str] = ()) -> Table:
    """The labels of the latest series, one a line."""
    panel = (
        Table()
        .title(title)
        .description(description)
        .datasource(DATASOURCE)
        .unit(unit)
        .span(width)
        .height(HEIGHT)
        .with_target(_query(0, (query, "")).format(PromQueryFormat.TABLE).instant())
        .with_transformation(
            DataTransformerConfig(
                id_val="organize", options={"excludeByName": dict.fromkeys(("Time", *hidden), True), "renameByName": {}}
            )
        )
    )
    return panel.no_value("no data")


def quantiles(series: str, matchers: str, *, by: str, levels: Sequence[float] = (0.5, 0.99)) -> list[Query]:
    """Quantiles of a histogram, each with its legend, by labels; nothing where nothing was observed."""
    legend = " ".join(f"{{{{{label.strip()}}}}}" for label in by.split(",") if label.strip())
    groups = ", ".join(filter(None, ("le", by)))
    rate = f"sum by ({groups}) (rate({series}_bucket{{{matchers}}}[$__rate_interval]))"
    # Without observations a quantile is NaN; the comparison drops it.
    return [
        (f"histogram_quantile({level:g}, {rate}) >= -Inf", f"{legend} p{level * 100:g}".strip()) for level in levels
    ]


def or_none(query: str, label: str) -> str:
    """The series of a query that are not 0; where there are none, one of 0 whose label says ``none``."""
    return f'({query} > 0) or on () label_replace(vector(0), "{label}", "none", "", "")'


def _common(
    panel: AnyPanel,
    title: str,
    description: str,
    queries: Sequence[Query],
    unit: str,
    width: int,
    limits: Limits,
    none: str,
    base: str = GREEN,
    *,
    instant: bool = False,
) -> AnyPanel:
    steps = [Threshold(value=None, color=base), *(Threshold(value=value, color=colour) for value, colour in limits)]
    panel = (
        panel.title(title)
        .description(description)
        .datasource(DATASOURCE)
        .unit(unit)
        .span(width)
        .height(HEIGHT)
        .no_value(none)
        .thresholds(ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps))
    )
    for position, query in enumerate(queries):
        target = _query(position, query)
        panel = panel.with_target(target.instant() if instant else target)
    return panel


def _query(position: int, query: Query) -> Dataquery:
    expression, legend = query
    built = Dataquery().expr(expression).ref_id(ascii_uppercase[position]).datasource(DATASOURCE)
    return built.legend_format(legend) if legend else built
