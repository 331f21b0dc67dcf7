"""Errors of the load tests."""

from contract.errors import BundleError


class LoadTestError(BundleError):
    """A load test cannot start: no rows to send, thresholds that do not parse; the sentence says what to do."""
