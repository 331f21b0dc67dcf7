"""Chromium with a person in front of it, who knows a key: https://chromedevtools.github.io/devtools-protocol/."""

import base64
import itertools
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import websocket

from tests.waiting import wait_until

SECONDS = 60
KEYS: dict[str, tuple[int, dict[str, str]]] = {
    "Tab": (9, {}),
    "Enter": (13, {"text": "\r"}),
    "Space": (32, {"text": " "}),
    "ArrowRight": (39, {}),
    "ArrowUp": (38, {}),
}
"""By name: Windows' code of a key, and what it types."""

READABLE = 4.5
"""Contrast of text, as WCAG 2.1 asks at its level AA: https://www.w3.org/TR/WCAG21/#contrast-minimum."""
LEAST_CONTRAST = """
(() => {
  const parse = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const luminance = (rgb) => {
    const [r, g, b] = rgb.slice(0, 3).map((c) => (c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (let one = element; one; one = one.parentElement) {
      const colour = parse(getComputedStyle(one).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  let least = [99, ""];
  const texts = document.createTreeWalker(document.querySelector("body"), NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement;
    const shown = element.checkVisibility() && element.getClientRects().length && !element.closest("legend");
    if (!texts.currentNode.textContent.trim() || !shown || ["SCRIPT", "OPTION"].includes(element.tagName)) continue;
    const pair = [luminance(parse(getComputedStyle(element).color)), luminance(behind(element))].sort((a, b) => b - a);
    const contrast = (pair[0] + 0.05) / (pair[1] + 0.05);
    if (contrast < least[0]) least = [contrast, texts.currentNode.textContent.trim()];
  }
  return least;
})()
"""
WITHOUT_LABEL = """
[...document.querySelectorAll("input, select, textarea, button")]
  .filter((one) => !one.labels?.length && !one.ariaLabel && !one.textContent.trim() && !one.title)
  .map((one) => one.outerHTML)
"""


class Page:
    """A tab. When the server asks for a user and a password, the person types ``any`` and the key.

    ``asked`` are the addresses for which it did, ``requested`` all that the page has asked for. ``errors`` are what
    developers see in the console: errors of scripts, and what a Content-Security-Policy forbids; but not the status of
    an answer, which is the page's own affair.
    """

    def __init__(self, address: str, key: str) -> None:
        self._socket = websocket.create_connection(address, timeout=1, suppress_origin=True)
        self._numbers = itertools.count(1)
        self._answers: dict[int, dict[str, Any]] = {}
        self._key = key
        self._width = 0
        self.asked: list[str] = []
        self.requested: list[str] = []
        self.errors: list[str] = []
        for domain in ("Runtime", "Log"):
            self._do(f"{domain}.enable")
        self._do("Fetch.enable", handleAuthRequests=True)

    def close(self) -> None:
        self._socket.close()

    def open(self, url: str) -> None:
        """Go to an address; its scripts may still be running."""
        self._do("Page.navigate", url=url)

    def run(self, script: str) -> Any:
        """The value of an expression on the page, or what it promises; None where it raises."""
        answer = self._do("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        return answer["result"].get("value")

    def type(self, text: str) -> None:
        """Type text where the cursor is."""
        self._do("Input.insertText", text=text)

    def press(self, key: str, *, shift: bool = False) -> None:
        """Press a key of ``KEYS``."""
        code, text = KEYS[key]
        pressed = {"key": key, "code": key, "windowsVirtualKeyCode": code, "modifiers": 8 if shift else 0}
        self._do("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", **pressed, **text)
        self._do("Input.dispatchKeyEvent", type="keyUp", **pressed)

    def prefer(self, scheme: str) -> None:
        """Prefer the colour scheme ``light`` or ``dark``."""
        self._do("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def resize(self, width: int, height: int) -> None:
        """Give the window another size, in pixels."""
        self._width = width
        self._do(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )

    def fits(self) -> bool:
        """Whether nothing is wider than the window, as ``resize`` has made it. A phone would zoom out."""
        return bool(self.run(f"Math.max(document.documentElement.scrollWidth, innerWidth) <= {self._width}"))

    def without_label(self) -> list[str]:
        """The fields and buttons that say to nobody what they are for, as HTML."""
        found: list[str] = self.run(WITHOUT_LABEL)
        return found

    def least_contrast(self) -> tuple[float, str]:
        """The contrast of the text that stands out least, and that text."""
        contrast, text = self.run(LEAST_CONTRAST)
        return contrast, text

    def photograph(self, path: Path) -> None:
        """A picture of what the window shows, as PNG."""
        path.write_bytes(base64.b64decode(self._do("Page.captureScreenshot", format="png")["data"]))

    def wait_for(self, script: str) -> Any:
        """Wait until an expression is true, and return its value."""
        deadline = time.monotonic() + SECONDS
        while not (value := self.run(script)):
            assert time.monotonic() < deadline, f"not within {SECONDS} s: {script}"
            self._read(0.1)
        return value

    def _do(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = self._send(method, parameters)
        deadline = time.monotonic() + SECONDS
        while number not in self._answers:
            assert time.monotonic() < deadline, f"no answer to {method}"
            self._read(1)
        return self._answers.pop(number)

    def _send(self, method: str, parameters: dict[str, Any]) -> int:
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        return number

    def _read(self, seconds: float) -> None:
        self._socket.settimeout(seconds)
        try:
            message = json.loads(self._socket.recv())
        except websocket.WebSocketTimeoutException:
            return
        told = message.get("params", {})
        if message.get("method") == "Fetch.requestPaused":
            self.requested.append(told["request"]["url"])
            self._send("Fetch.continueRequest", {"requestId": told["requestId"]})
        elif message.get("method") == "Fetch.authRequired":
            self.asked.append(told["request"]["url"])
            answer = {"response": "ProvideCredentials", "username": "any", "password": self._key}
            self._send("Fetch.continueWithAuth", {"requestId": told["requestId"], "authChallengeResponse": answer})
        elif message.get("method") == "Runtime.exceptionThrown":
            thrown = told["exceptionDetails"]
            self.errors.append(thrown.get("exception", {}).get("description") or thrown["text"])
        elif message.get("method") == "Runtime.consoleAPICalled" and told["type"] in ("error", "assert"):
            self.errors.append(" ".join(str(one.get("value", one.get("description"))) for one in told["args"]))
        elif message.get("method") == "Log.entryAdded" and told["entry"]["level"] == "error":
            if told["entry"]["source"] != "network":
                self.errors.append(told["entry"]["text"])
        elif "id" in message:
            self._answers[message["id"]] = message.get("result", message)


@contextmanager
def browser(key: str) -> Iterator[Page]:
    """A browser with one empty page."""
    program = shutil.which("chromium")
    assert program, "the integration tests need chromium: apt-get install chromium"
    flags = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [program, *flags, f"--user-data-dir={profile}", "--remote-debugging-port=0", "about:blank"]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True) as process:
            try:
                written = Path(profile) / "DevToolsActivePort"
                wait_until(lambda: written.exists() and written.read_text().count("\n"), "the browser starts", SECONDS)
                port = written.read_text().splitlines()[0]
                targets = httpx.get(f"http://127.0.0.1:{port}/json/list").json()
                page = Page(next(one["webSocketDebuggerUrl"] for one in targets if one["type"] == "page"), key)
                yield page
                page.close()
            finally:
                process.terminate()
                process.wait(timeout=30)
                # Its children may still write to the profile.
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
