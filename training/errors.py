"""Errors of the pipeline."""

from contract.errors import BundleError


class PipelineError(BundleError):
    """A pipeline stage cannot go on; the sentence says what to do."""
