"""Which test files one process runs, one after the other, where several processes run the integration tests.

``--dist=loadgroup`` of pytest-xdist 3.8 would do it by a mark, but writes the group into an attribute that pytest 9.2
does not read any more: every test is then a group of its own, and each process builds its own images.
"""

from pathlib import PurePosixPath

from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

LOAD = ("test_monitoring", "test_load", "test_tutorial")
"""Under the load of one, the others would miss their latencies."""


class ByGroup(LoadScopeScheduling):  # type: ignore[misc]  # pytest-xdist is not annotated
    """Gives all tests of a file, or of a group of files, to one process."""

    def _split_scope(self, nodeid: str) -> str:
        path = nodeid.partition("::")[0]
        name = PurePosixPath(path).stem
        return "load" if name in LOAD else path
