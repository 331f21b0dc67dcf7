"""The dashboards of Grafana, as code. ``make dashboards`` writes their JSON into ``monitoring/grafana/dashboards``."""

from grafana_foundation_sdk.builders.dashboard import Dashboard

from monitoring.dashboards import data, loop, models, quality, service

DASHBOARDS: dict[str, Dashboard] = {
    "service": service.DASHBOARD,
    "models": models.DASHBOARD,
    "data": data.DASHBOARD,
    "quality": quality.DASHBOARD,
    "loop": loop.DASHBOARD,
}
"""Every dashboard, by the name of its file."""
