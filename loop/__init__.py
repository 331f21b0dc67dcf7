"""Keeps a model right once it is in use: runs outside of the service, and reads the ledger."""
