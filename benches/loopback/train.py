#!/usr/bin/env python3
"""What `make release` trains the compiler on: a gateway as it is used, which is not what `make bench` measures.

Several routes with captures, roots and flags; keys that lack a flag; calls without a key, with a broken one and
with an unknown one; small and middling answers and uploads, some of them chunked; HEAD, OPTIONS and paths that
lead nowhere; HTTP/1.1 and HTTP/2, with TLS and without; connections that stay and connections that do not;
with the access log and without.
"""

import argparse
import http.client
import random
import ssl
import subprocess
import tempfile
import time
from pathlib import Path

import peers
from inputs import Inputs, token


class Trained(peers.Keyward):
    """The gateway with the routes of an ordinary service."""

    name = "train"
    clear, tls, ops = 18230, 18231, 18232

    def text(self, workers):
        routes = """
[[routes]]
name = "size"
path = "/{size}"
any_flags = ["size.read", "size.{size}.read", "bench.use"]
upstream = "service"
[[routes]]
name = "item"
path = "/items/{item}/parts/{*rest}"
methods = ["GET", "POST", "DELETE"]
any_flags = ["item.{item}.write", "item.write"]
upstream = "service"
strip_prefix = "/items"
[[routes]]
name = "any"
path = "/any/{*rest}"
any_key = true
host_rewrite = "client"
upstream = "service"
[[routes]]
name = "open"
path = "/open/{*rest}"
public = true
upstream = "service"
"""
        before, _ = super().text(workers).split("[[routes]]", 1)
        return before + routes


def oddities(port, keys, count, numbers, tls):
    """Requests that no load generator makes."""
    trusting = ssl.create_default_context()
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    connection = None
    for _ in range(count):
        if connection is None or numbers.random() < 0.05:
            if connection:
                connection.close()
            connection = (
                http.client.HTTPSConnection("localhost", port, context=trusting, timeout=10)
                if tls
                else http.client.HTTPConnection("localhost", port, timeout=10)
            )
        key = numbers.choice([numbers.choice(keys), numbers.choice(keys), token(numbers), "kw_live_broken", None])
        fields = {"Accept": "application/json", "User-Agent": "shop/2.1", "Cookie": "a=b; c=d"}
        if key:
            fields["Authorization"] = f"Bearer {key}"
        if numbers.random() < 0.3:
            fields["traceparent"] = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
            fields["X-Forwarded-For"] = "203.0.113.7"
        size = numbers.choice([0, 40, 900, 2500])
        path = numbers.choice([f"/s{size}", f"/any/s{size}?q=1&r=2", f"/open/s{size}", "/items/7/parts/a/b", "/nowhere/at/all", "/%41ny/x"])
        method = numbers.choice(["GET", "GET", "GET", "POST", "PUT", "HEAD", "OPTIONS", "DELETE"])
        body = None
        if method in ("POST", "PUT"):
            body = b"{" + b"x" * numbers.choice([10, 700, 6000]) + b"}"
            fields["Content-Type"] = "application/json"
        elif method == "DELETE":
            fields["Content-Length"] = "0"
        try:
            connection.request(method, path, body, fields)
            connection.getresponse().read()
        except (http.client.HTTPException, OSError):
            connection.close()
            connection = None
    if connection:
        connection.close()


def train(options, folder, log):
    inputs = Inputs(folder, 3_000)
    Trained.access_log, Trained.binary = log, str(Path(options.keyward).resolve())
    gateway = Trained(inputs, folder)
    gateway.prepare()
    gateway.start(workers=2, cores="0,1")
    keys, numbers = inputs.tokens(), random.Random(11)
    load = lambda *words: subprocess.run(
        [options.load, "--backend", str(peers.SERVICE), "--keys", str(inputs.keys), "--seconds", "1.5", *map(str, words)],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    clear, tls = f"127.0.0.1:{gateway.clear}", f"127.0.0.1:{gateway.tls}"
    try:
        for body, upload, connections in ((40, 0, 10), (700, 0, 40), (3_000, 300, 20), (40_000, 2_000, 8), (200, 60_000, 8)):
            load("--target", clear, "--body", body, "--upload", upload, "--connections", connections)
            load("--target", tls, "--tls", "--body", body, "--upload", upload, "--connections", connections)
        load("--target", tls, "--tls", "--close", "--resume", "--connections", 12)
        load("--target", clear, "--close", "--connections", 12, "--body", 500)
        load("--target", tls, "--tls", "--rate", 1500, "--connections", 30, "--body", 500)
        service = subprocess.Popen([options.load, "--backend", str(peers.SERVICE), "--connections", "0", "--warm", "0", "--seconds", "120"])
        time.sleep(0.3)
        try:
            with tempfile.NamedTemporaryFile() as data:
                data.write(b"y" * 1500)
                data.flush()
                field = f"authorization: Bearer {keys[0]}"
                for port, scheme, more in ((gateway.tls, "https", []), (gateway.tls, "https", ["-d", data.name]), (gateway.clear, "http", [])):
                    url = f"{scheme}://localhost:{port}/s900"
                    count = ["-n", "6000", "-c", "12", "-m", "5"]
                    subprocess.run(["h2load", *count, "-H", field, *more, url], check=True, stdout=subprocess.DEVNULL)
            oddities(gateway.clear, keys, 3_000, numbers, False)
            oddities(gateway.tls, keys, 2_000, numbers, True)
        finally:
            service.terminate()
            service.wait()
    finally:
        # Told to stop, it ends by itself and writes down what it counted.
        gateway.stop()


def main():
    root = Path(__file__).resolve().parent.parent.parent
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keyward", required=True, help="the instrumented binary")
    parser.add_argument("--load", default=str(root / "target/bench/load-target/release/load"))
    options = parser.parse_args()
    for log in (True, False):
        with tempfile.TemporaryDirectory() as folder:
            train(options, Path(folder), log)


if __name__ == "__main__":
    main()
