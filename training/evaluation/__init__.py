"""How good a model is: scores, the gate between two models, plots, and the report."""
