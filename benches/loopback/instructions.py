#!/usr/bin/env python3
"""Instructions that the worker of a gateway executes for one request, by callgrind.

Times swing by a third on a machine that others use; instructions do not, so this is what a change is held
against. Sixteen connections, each with one request at a time, or a connection for each request, or ten streams of HTTP/2
in clear text on each, answered by the service of the load side.

    benches/loopback/instructions.py target/release/keyward [clear|new|denied|body10k|h2|h2denied ...]

Inputs are those of `make bench`, which has to have run once. What callgrind_annotate reads is left beside them.
"""

import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
BENCH = ROOT / "target/bench"
CONNECTIONS, WARM, ROUNDS = 16, 80, 200
STREAMS = 10
CLEAR, TLS, OPS, SERVICE = 18230, 18231, 18232, 19130


def config(folder):
    (folder / "keyward.toml").write_text(
        f"""
[gateway]
listen = ["127.0.0.1:{TLS}"]
listen_cleartext = ["127.0.0.1:{CLEAR}"]
workers = 1
access_log = false
[gateway.tls]
certificates = [{{ chain = "{BENCH}/chain.pem", key = "{BENCH}/private.pem" }}]
[gateway.failure_limit]
# "denied" is who is over the limit, however slow callgrind is.
per_second = 1
burst = 1
[ops]
listen = "127.0.0.1:{OPS}"
[store.sqlite]
path = "keyward.db"
[upstreams.service]
targets = ["http://127.0.0.1:{SERVICE}"]
[[routes]]
name = "all"
path = "/{{*rest}}"
any_flags = ["bench.use"]
upstream = "service"
"""
    )


def first_lines(file, count):
    with file.open() as lines:
        return [next(lines).strip() for _ in range(count)]


def ask(connections, heads, number):
    """One request on each connection, and the whole answer to each. The statuses."""
    for at, connection in enumerate(connections):
        connection.sendall(heads[(number * len(connections) + at) % len(heads)])
    statuses = []
    for connection in connections:
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += connection.recv(65536)
        head, _, body = answer.partition(b"\r\n\r\n")
        length = int(re.search(rb"(?i)content-length: (\d+)", head)[1])
        while len(body) < length:
            body += connection.recv(65536)
        statuses.append(head[9:12].decode())
    return statuses


def ask_http2(token, count):
    """So many requests by h2load. The statuses; connecting is in what they cost, a hundredth of it."""
    command = ["h2load", "-t1", f"-c{CONNECTIONS}", f"-m{STREAMS}", f"-n{count}", "-H", f"authorization: Bearer {token}"]
    out = subprocess.run([*command, f"http://127.0.0.1:{CLEAR}/s100"], check=True, capture_output=True, text=True).stdout
    classes = re.search(r"^status codes: (\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx", out, re.M)
    return [f"{at}xx" for at, of_class in enumerate(classes.groups(), 2) for _ in range(int(of_class))]


def await_ready(process, log):
    for _ in range(1200):
        if process.poll() is not None:
            raise RuntimeError(log.read_text())
        try:
            with socket.create_connection(("127.0.0.1", OPS), 2) as probe:
                probe.sendall(b"GET /readyz HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
                if b" 200 " in probe.recv(100):
                    return
        except OSError:
            pass
        time.sleep(0.2)
    raise RuntimeError("the gateway never got ready")


def measured(binary, kind):
    folder = BENCH / "instructions" / f"{binary.name}-{kind}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    config(folder)
    known = first_lines(BENCH / "keys-100000.txt", 200)
    (folder / "keys.txt").write_text("\n".join(known) + "\n")
    tokens = first_lines(BENCH / "unknown.txt", 200) if kind.endswith("denied") else known
    size = 10240 if kind == "body10k" else 100
    head = "GET /s{} HTTP/1.1\r\nHost: localhost\r\nUser-Agent: load/1\r\nAccept: */*\r\nAuthorization: Bearer {}\r\n\r\n"
    heads = [head.format(size, token).encode() for token in tokens]
    run = lambda *words: subprocess.run(
        [binary, *words, "-c", "keyward.toml"], cwd=folder, check=True, stdout=subprocess.DEVNULL
    )
    run("init")
    run("keys", "import", "--project", "bench", "--flag", "bench.use", "--tokens", "keys.txt")
    load = BENCH / "load-target/release/load"
    service = subprocess.Popen(
        [load, "--backend", str(SERVICE), "--connections", "0", "--warm", "0", "--seconds", "900"], stdout=subprocess.DEVNULL
    )
    callgrind = ["valgrind", "--tool=callgrind", "--separate-threads=yes", f"--callgrind-out-file={folder}/callgrind"]
    log = folder / "log.txt"
    gateway = None
    try:
        with log.open("wb") as out:
            gateway = subprocess.Popen(
                [*callgrind, binary, "serve", "-c", "keyward.toml"], cwd=folder, stdout=out, stderr=out
            )
        await_ready(gateway, log)
        connect = lambda: [socket.create_connection(("127.0.0.1", CLEAR), 60) for _ in range(CONNECTIONS)]
        if kind.startswith("h2"):
            rounds = lambda count: ask_http2(tokens[0], count * CONNECTIONS)
        elif kind == "new":
            rounds = lambda count: [status for number in range(count) for status in ask(connect(), heads, number)]
        else:
            connections = connect()
            rounds = lambda count: [status for number in range(count) for status in ask(connections, heads, number)]
        rounds(WARM)
        control = lambda what: subprocess.run(
            ["callgrind_control", what, str(gateway.pid)], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        control("-z")
        statuses = rounds(ROUNDS)
        control("-d")
        # The busiest thread of what was dumped is the worker.
        totals = {}
        for file in folder.glob("callgrind.1*"):
            total = re.search(r"^(?:totals|summary): (\d+)", file.read_text(), re.M)
            totals[file] = int(total[1]) if total else 0
        busiest = max(totals, key=totals.get)
        seen = ", ".join(f"{statuses.count(status)} x {status}" for status in sorted(set(statuses)))
        print(f"{binary.name} {kind}: {totals[busiest] / len(statuses):.0f} instructions a request ({seen}); {busiest}", flush=True)
    finally:
        for process in (gateway, service):
            if process:
                process.terminate()
                process.wait()


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    binary = Path(sys.argv[1]).resolve()
    for kind in sys.argv[2:] or ["clear", "denied", "body10k"]:
        measured(binary, kind)


if __name__ == "__main__":
    main()
