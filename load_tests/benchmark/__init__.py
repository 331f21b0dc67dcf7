"""The service beside what a user would pick instead: one model, one payload, one load. ``make benchmark`` runs it."""
