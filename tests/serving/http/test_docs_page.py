"""The files that the pages load."""

import re
import socket

import httpx
import pytest

from serving.http import docs, pages


@pytest.mark.parametrize(("path", "files"), [("/", 4), ("/docs", 5)])
def test_a_page_loads_nothing_but_our_files(client: httpx.Client, path: str, files: int) -> None:
    page = client.get(path).raise_for_status()
    assert page.headers["content-type"].startswith("text/html")
    loaded = re.findall(r'<(?:link|script)[^>]*(?:src|href)="(.*?)"', page.text)
    assert len(loaded) == files
    # Behind a proxy that strips a prefix an absolute path would leave it.
    for address in [*loaded, *re.findall(r'(?:src|href)="(.*?)"', page.text)]:
        assert address.startswith("./")
    for address in loaded:
        assert client.get(str(page.url.join(address))).is_success


@pytest.mark.parametrize("name", pages.FILES)
def test_a_file_of_ours_is_asked_for_again(client: httpx.Client, name: str) -> None:
    answer = client.get(f"{pages.STATIC}/{name}").raise_for_status()
    assert answer.headers["content-type"].partition(";")[0] in ("text/css", "text/javascript")
    assert answer.headers["cache-control"] == "no-cache"


@pytest.mark.parametrize("name", docs.FILES)
def test_a_file_is_kept_by_the_browser(client: httpx.Client, name: str) -> None:
    answer = client.get(f"{pages.STATIC}/{name}").raise_for_status()
    assert answer.content == docs.read_file(name)
    assert answer.headers["content-type"] == docs.FILES[name]
    assert "immutable" in answer.headers["cache-control"]
    assert client.head(f"{pages.STATIC}/{name}").headers["content-length"] == str(len(answer.content))


@pytest.mark.parametrize(
    "name",
    ["", "nothing.js", "../docs.py", "..%2f..%2fmain.py", "%2e%2e/main.py", "swagger-ui.css/", "swagger-ui.css%0a"],
)
def test_no_other_file_is_served(client: httpx.Client, name: str) -> None:
    with socket.create_connection((client.base_url.host, client.base_url.port or 80), timeout=20) as connection:
        connection.sendall(f"GET {pages.STATIC}/{name} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        answer = connection.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 404 ")
