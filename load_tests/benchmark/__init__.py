"""Compare the service with its alternatives: one model, one payload, one load. ``make benchmark`` runs it."""
