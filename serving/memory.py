"""Memory that the C library keeps for later use is given back to the system."""

import ctypes


def give_back() -> None:
    """Return what was freed; by itself, the C library keeps it for a next use. It takes some milliseconds."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc
    if trim is not None:
        trim(0)
