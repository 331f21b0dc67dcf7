"""Errors of the monitoring."""

from contract.errors import BundleError


class MonitoringError(BundleError):
    """Metrics cannot be read, neither from Prometheus nor from the service."""
