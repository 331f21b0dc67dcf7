"""Raw CSV to a registered model: one module for each stage."""
