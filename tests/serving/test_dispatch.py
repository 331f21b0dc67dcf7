import asyncio
from typing import Any

import pytest

from serving.http.dispatch import Dispatch


def app(name: str, seen: list[str]) -> Any:
    async def answer(*_: Any) -> None:
        seen.append(name)

    return answer


@pytest.mark.parametrize(
    ("kind", "path", "wanted"),
    [
        ("http", "/predict/iris", "iris"),
        ("http", "/predict/iris/", "rest"),
        ("http", "/predict/iris/batch", "rest"),
        ("http", "/v2", "protocol"),
        ("http", "/v2/", "protocol"),
        ("http", "/v2/models/iris", "protocol"),
        ("http", "/v2x", "rest"),
        ("http", "/", "rest"),
        ("websocket", "/v2", "rest"),
        ("lifespan", "", "rest"),
    ],
)
def test_a_path_has_its_application(kind: str, path: str, wanted: str) -> None:
    seen: list[str] = []
    dispatch = Dispatch({"/predict/iris": app("iris", seen)}, {"/v2": app("protocol", seen)}, app("rest", seen))
    scope = {"type": kind} if kind == "lifespan" else {"type": kind, "path": path}
    asyncio.run(dispatch(scope, app("receive", seen), app("send", seen)))
    assert seen == [wanted]
