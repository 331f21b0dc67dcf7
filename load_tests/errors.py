"""Errors of the load tests."""

from contract.errors import BundleError

ONE_PROCESS = "Arrivals are shared by the users of one process: run Locust without --processes."


class LoadTestError(BundleError):
    """A load test cannot start: no rows to send, thresholds that do not parse; the sentence says what to do."""
