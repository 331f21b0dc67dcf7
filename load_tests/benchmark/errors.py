"""The benchmark's error."""


class BenchmarkError(Exception):
    """The benchmark cannot go on; ``str(error)`` is one sentence that says what to do."""
