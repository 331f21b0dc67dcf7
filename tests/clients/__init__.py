"""Conformance with the clients of other projects, run in their own environment, ``.venv/clients``.

The modules are named after the client, not ``test_*``: pytest collects them when it is told to, which
``tests/integration/test_protocol_clients.py`` does, each in a process of its own, for all of these packages register
messages of the same names.
"""
