"""From a validated row to a prediction."""
