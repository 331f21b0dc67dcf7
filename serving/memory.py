"""Gives memory that the C library keeps for later use back to the system."""

import ctypes


def give_back() -> None:
    """Return freed memory to the system; the C library would keep it. It takes some milliseconds."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc
    if trim is not None:
        trim(0)
