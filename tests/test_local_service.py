"""Clients of loopback services bypass the proxies of the environment; other hosts still go through them."""

import os
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import grpc
import httpx
import pytest

from local_service import LOOPBACK, bypass_proxies, free_port
from tests.monitoring.conftest import answering

NO_PROXY_THERE = "http://127.0.0.1:9"
HOSTS = ",".join(LOOPBACK)


@pytest.fixture
def proxies(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Sets the proxy of every kind, by both of its names, and clears the exceptions."""

    def use(url: str) -> None:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, url)
            monkeypatch.setenv(name.lower(), url)
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
        bypass_proxies(os.environ)

    monkeypatch.setenv("NO_PROXY", "")  # restored afterwards, with whatever ``use`` sets
    monkeypatch.setenv("no_proxy", "")
    return use


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, HOSTS),
        ({"NO_PROXY": ""}, HOSTS),
        ({"NO_PROXY": "corp.example"}, f"corp.example,{HOSTS}"),
        ({"no_proxy": "corp.example, 127.0.0.1"}, "corp.example,127.0.0.1,localhost,::1"),
        ({"NO_PROXY": HOSTS}, HOSTS),
        ({"no_proxy": "*"}, "*"),
    ],
)
def test_loopback_joins_the_exceptions(before: dict[str, str], after: str) -> None:
    environment = {"HTTP_PROXY": NO_PROXY_THERE, **before}
    bypass_proxies(environment)
    assert environment == {"HTTP_PROXY": NO_PROXY_THERE, "NO_PROXY": after, "no_proxy": after}


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
@pytest.mark.parametrize(
    "get",
    [
        lambda url: httpx.get(url).text,
        lambda url: urllib.request.urlopen(url).read().decode(),  # noqa: S310 # loopback
    ],
)
def test_http_clients_reach_loopback(proxies: Callable[[str], None], get: Callable[[str], str], host: str) -> None:
    proxies(NO_PROXY_THERE)
    with answering(lambda path, _: (200, path)) as url:
        assert get(url.replace("127.0.0.1", host) + "/here") == "/here"


def test_grpc_reaches_loopback(proxies: Callable[[str], None]) -> None:
    proxies(NO_PROXY_THERE)
    port = free_port()
    server = grpc.server(ThreadPoolExecutor(1))
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            grpc.channel_ready_future(channel).result(timeout=5)
    finally:
        server.stop(None).wait()


def test_other_hosts_still_go_through_the_proxy(proxies: Callable[[str], None]) -> None:
    with answering(lambda path, _: (200, f"proxied {path}")) as proxy:
        proxies(proxy)
        assert httpx.get("http://service.example/metrics").text == "proxied /metrics"
