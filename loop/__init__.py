"""What keeps a model right once it is in use: it runs outside of the service, and reads the ledger."""
