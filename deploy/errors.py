"""Errors of the deployment."""

from contract.errors import BundleError


class DeployError(BundleError):
    """A step of the deployment cannot go on; the sentence says what to do."""
