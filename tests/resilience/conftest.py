"""Services that are broken on purpose; their models are the tiny ones of ``tests/serving``."""

from tests.serving.conftest import pinned, stored

__all__ = ["pinned", "stored"]
