"""JSON schemas of the custom resources in our manifests, from the definitions that their projects publish.

Prometheus operator v0.93.0, Gateway API v1.6.1 (standard channel), KServe v0.20.0; all under the Apache License 2.0.
``extract.py`` made them and says what was left out.
"""
