"""Errors of the ledger."""

from contract.errors import BundleError


class LedgerError(BundleError):
    """The ledger cannot be used: its database is not there, not ours, or of another version."""
