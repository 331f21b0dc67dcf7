"""Raw CSV to a model in the registry: one module a stage. It imports ``contract`` and nothing else of ours."""
