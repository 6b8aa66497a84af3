"""A real headless Chromium that tests ask what it sees, over its DevTools pipe: no driver, no port, no network."""

import json
import os
import select
import shutil
import subprocess
import time

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_WITHIN_S = 120


class Chromium:
    """One browser; each page is looked at by ``look``."""

    def __init__(self, profile):
        to_browser, self._send = os.pipe()
        self._receive, from_browser = os.pipe()
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", f"--user-data-dir={profile}"]
        flags += ["--disable-dev-shm-usage", "--no-first-run", "--disable-background-networking", "about:blank"]
        self._process = subprocess.Popen(
            ["bash", "-c", f'exec "$@" 3<&{to_browser} 4>&{from_browser}', "chromium", PROGRAM, *flags],
            pass_fds=(to_browser, from_browser),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        self._number, self._rest, self._events = 0, b"", []

    def close(self):
        """End it."""
        self._process.terminate()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._send)
        os.close(self._receive)

    def look(self, path, width, scheme="light", media="screen"):
        """Open a file in a window so wide; returns what left the page, what it complained of, and how wide it is.

        Returns a dict: ``requests``, URLs other than the file itself and data; ``complaints``, errors of the console;
        ``wider``, elements that reach over the right edge without being scrolled by a parent; ``width``, of the whole
        page; ``colours``, background and text of the body.
        """
        target = self._call("Target.createTarget", {"url": "about:blank"})["targetId"]
        session = self._call("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable", {}, session)
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        self._call("Emulation.setDeviceMetricsOverride", metrics, session)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self._call("Emulation.setEmulatedMedia", {"media": media, "features": features}, session)
        self._events.clear()
        self._call("Page.navigate", {"url": path.as_uri()}, session)
        self._wait("Page.loadEventFired")
        found = self._call("Runtime.evaluate", {"expression": _MEASURE, "returnByValue": True}, session)
        events, seen = list(self._events), json.loads(found["result"]["value"])
        self._call("Target.closeTarget", {"targetId": target})
        urls = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
        complaints = [
            event["params"]
            for event in events
            if event["method"] in {"Runtime.exceptionThrown", "Log.entryAdded"}
            or (event["method"] == "Runtime.consoleAPICalled" and event["params"]["type"] == "error")
        ]
        requests = [url for url in urls if url != path.as_uri() and not url.startswith("data:")]
        return {"requests": requests, "complaints": complaints, **seen}

    def _call(self, method, parameters, session=None):
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        os.write(self._send, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]
            self._events.append(answer)

    def _wait(self, method):
        while not any(event["method"] == method for event in self._events):
            self._events.append(self._read())

    def _read(self):
        until = time.monotonic() + _WITHIN_S
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._receive], [], [], max(0.0, until - time.monotonic()))
            assert ready, "Chromium does not answer"
            some = os.read(self._receive, 1 << 20)
            assert some, "Chromium has ended"
            self._rest += some
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)


_MEASURE = """
(() => {
  const edge = document.documentElement.clientWidth, wider = [];
  for (const element of document.querySelectorAll('main *')) {
    let scrolled = false;
    for (let parent = element; parent; parent = parent.parentElement)
      if (['auto', 'scroll', 'hidden', 'clip'].includes(getComputedStyle(parent).overflowX)) scrolled = true;
    if (!scrolled && !element.ownerSVGElement && element.getBoundingClientRect().right > edge + 1)
      wider.push(element.tagName + '.' + element.className);
  }
  const body = getComputedStyle(document.body);
  return JSON.stringify({width: document.documentElement.scrollWidth, wider: wider.slice(0, 10),
                         colours: [body.backgroundColor, body.color], height: document.body.scrollHeight});
})()
"""
