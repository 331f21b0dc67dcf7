"""Errors of the loop."""

from contract.errors import BundleError


class LoopError(BundleError):
    """A command of the loop cannot go on; the sentence says what to do."""
