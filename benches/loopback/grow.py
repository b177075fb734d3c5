#!/usr/bin/env python3
"""`make bench-growth`: what a request costs as the work grows, and what management costs the traffic.

A request's processor time with 10² to 10⁷ keys, 2 to 10⁴ routes, 1 to 4,000 connections, 1 to 1,000
targets: flat where it should be flat. Then, at half of the most that one worker can do, how long requests wait
while keys are created, everything is read anew and the metrics are read, beside how long they wait when nothing
of the kind happens. Whatever was measured is in growth.json at once; parts that are not measured again are taken
from there.
"""

import argparse
import http.client
import json
import random
import signal
import sqlite3
import statistics
import subprocess
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address
from pathlib import Path

import peers
import report
import run as bench
from inputs import Inputs

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
# The keys that are called, and have tokens. More different ones would measure the cache of the load side; the others
# are rows like theirs, written into the store as they are: to make ten million tokens takes an hour.
CALLERS = 20_000
ADMIN = 18233
# Seconds.
SETTLES_WITHIN = 90
CREATIONS_A_MINUTE = 10_000
AXES = {
    "keys": ("Keys", [100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000]),
    "routes": ("Routes", [2, 10, 100, 1_000, 10_000]),
    "connections": ("Connections", [1, 10, 100, 1_000, 4_000]),
    "targets": ("Targets", [1, 10, 100, 1_000]),
}
DISTURBANCES = {
    "creations": f"{CREATIONS_A_MINUTE:,} keys created in a minute",
    "reload": "everything read anew",
    "scrapes": "metrics read every second",
}


class Grown(peers.Keyward):
    """The gateway of `make bench`, with more of one thing."""

    clear, tls, ops = 18230, 18231, 18232

    def __init__(self, inputs, folder, count, routes=0, targets=1, name="grown"):
        self.name = f"{name}-{count}"
        self.count, self.routes, self.targets = count, routes, targets
        super().__init__(inputs, folder)

    def text(self, workers):
        text = super().text(workers)
        services = [f"http://{ip_address('127.0.0.1') + at}:{peers.SERVICE}" for at in range(self.targets)]
        text = text.replace(f'targets = ["http://127.0.0.1:{peers.SERVICE}"]', f"targets = {json.dumps(services)}")
        more = (
            f'[[routes]]\nname = "route-{at}"\npath = "/part-{at}/{{*rest}}"\nany_flags = ["bench.use"]\nupstream = "service"\n'
            for at in range(text.count("[[routes]]"), self.routes)
        )
        return f'{text}{"".join(more)}\n[admin]\nlisten = "127.0.0.1:{ADMIN}"\n'

    def keyward(self, *words):
        command = [self.binary, *words, "-c", "prepare.toml"]
        return subprocess.run(command, cwd=self.folder, check=True, capture_output=True, text=True).stdout

    def prepare(self):
        config = self.folder / "prepare.toml"
        config.write_text(self.text(1))
        done = self.folder / "operator.txt"
        if done.exists():
            return
        for old in self.folder.glob("*"):
            if old != config and old.is_file():
                old.unlink()
        operator = json.loads(self.keyward("init", "--json"))["operator"]["key"]
        self.keyward("keys", "import", "--project", "bench", "--flag", "bench.use", "--tokens", str(self.inputs.keys))
        self.fill(self.count - self.inputs.count)
        done.write_text(operator)

    def fill(self, count):
        """So many keys more, each like the one that was imported last but for its id and hash."""
        if count <= 0:
            return
        store = sqlite3.connect(self.folder / "keyward.db", isolation_level=None)
        store.row_factory = sqlite3.Row
        store.execute("PRAGMA cache_size = -4000000")
        store.execute("PRAGMA synchronous = OFF")
        last = dict(store.execute("SELECT * FROM keys WHERE flags = 'bench.use' ORDER BY number DESC LIMIT 1").fetchone())
        del last["number"]
        numbers, front, ordinal = random.Random(10), last["id"][:9], last["ordinal"]

        def rows():
            for at in range(1, count + 1):
                last["id"] = last["lineage"] = front + at.to_bytes(7, "big")
                last["hash"] = numbers.randbytes(64)
                last["ordinal"] = ordinal + at
                yield tuple(last.values())

        store.execute("BEGIN")
        marks = ", ".join("?" * len(last))
        store.executemany(f"INSERT INTO keys ({', '.join(last)}) VALUES ({marks})", rows())
        store.execute("COMMIT")
        store.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        store.close()


class Growth(bench.Run):
    def __init__(self, options):
        super().__init__(argparse.Namespace(**vars(options), resume=False, report=True, profile=None, keys=1_000))
        self.found = {}

    def with_keys(self, count, **more):
        inputs = Inputs(self.folder, min(CALLERS, count))
        self.peer = Grown(inputs, self.folder, count, **more)
        self.peer.prepare()
        self.words = ["--target", f"127.0.0.1:{self.peer.clear}", "--keys", str(inputs.keys)]

    def cost(self, *words):
        """Microseconds of one worker's processor time, with the least that other work of the machine adds to it."""
        span = ["--seconds", str(self.options.seconds)]
        told = [self.measured(*self.words, *span, *words) for _ in range(self.options.rounds)]
        if any(each["wrong"] for each in told):
            raise RuntimeError(f"{self.peer.name}: wrong answers: {told}")
        return statistics.median(each["micros"] for each in told)

    def axis(self, name):
        title, values = AXES[name]
        figures = {}
        for value in values:
            if name == "keys" and value > self.options.keys_most:
                continue
            own = {name: value} if name in ("routes", "targets") else {}
            self.with_keys(value if name == "keys" else 1_000, name=name, **own)
            try:
                self.peer.start()
                self.settled()
                words = ["--connections", str(value)] if name == "connections" else []
                words += ["--addresses", str(value)] if name == "targets" else []
                figures[value] = self.cost(*words)
            finally:
                self.peer.stop()
            print(f"{title.lower():12} {value:>9}: {figures[value]:6.1f} us", flush=True)
        self.found[name] = figures

    def settled(self):
        """Waits until the gateway has done what it does after its start: of ten million keys it writes a snapshot first."""
        for _ in range(SETTLES_WITHIN):
            before = self.processor()
            time.sleep(1)
            if self.processor() - before < 20e6:
                return
        print(f"{self.peer.name}: still at work by itself", flush=True)

    def waits(self, rate, seconds):
        """How long 99 in 100 requests wait at a fixed rate, in milliseconds."""
        words = ["--rate", str(rate), "--seconds", str(seconds)]
        return self.measured(*self.words, *words, cores="0,1")["p99"]

    def disturbed(self):
        """By each kind of management: the worst tenths of requests beside it and before it, in turn."""
        self.with_keys(self.options.disturbed_keys, name="disturbed")
        self.peer.start(1, "0,1")
        try:
            most = self.measured(*self.words, "--seconds", "2", cores="0,1")["rate"]
            rate = most // 2
            backup = self.peer.folder / "backup.db"
            backup.unlink(missing_ok=True)
            self.peer.keyward("store", "backup", str(backup))
            self.found["rate"] = rate
            for name in DISTURBANCES:
                pairs = []
                for _ in range(self.options.rounds):
                    alone = self.waits(rate, 5)
                    beside, done = self.beside(name, rate, backup)
                    pairs.append((alone, beside, done))
                self.found[name] = pairs
                told = ", ".join(f"{alone:.2f} -> {beside:.2f} ms ({done})" for alone, beside, done in pairs)
                print(f"p99 at {rate}/s, {DISTURBANCES[name]}: {told}", flush=True)
        finally:
            self.peer.stop()

    def beside(self, name, rate, backup):
        """How long requests wait while management is at work, and how often it got something done."""
        over = threading.Event()
        if name == "reload":
            # Before the clock runs: a slow disk takes its time over it, and what is read anew comes after.
            self.restored(backup)
        with ThreadPoolExecutor(1) as beside:
            work = beside.submit(getattr(self, name), over, backup)
            try:
                waited = self.waits(rate, 15 if name == "reload" else 5)
            finally:
                over.set()
            done = work.result()
        if not done:
            raise RuntimeError(f"{DISTURBANCES[name]}: nothing was done beside the requests")
        return waited, done

    def creations(self, over, _backup):
        """Keys made through the management API, at a steady rate."""
        token = (self.peer.folder / "operator.txt").read_text()
        head = {"authorization": f"Bearer {token}", "content-type": "application/json"}
        api = http.client.HTTPConnection("127.0.0.1", ADMIN, timeout=30)
        body = json.dumps({"project_id": "bench", "name": "made meanwhile"})
        due, pause, made = time.monotonic(), 60 / CREATIONS_A_MINUTE, 0
        while not over.is_set():
            api.request("POST", "/v1/api-keys", body, head)
            answer = api.getresponse()
            if answer.status != 201:
                raise RuntimeError(f"a key could not be made: {answer.status} {answer.read()}")
            answer.read()
            made += 1
            due += pause
            time.sleep(max(0, due - time.monotonic()))
        return made

    def restored(self, backup):
        """An older state of the store takes its place, so that everything is read anew."""
        self.read_before = self.reloads()
        token = (self.peer.folder / "operator.txt").read_text()
        head = {"authorization": f"Bearer {token}", "content-type": "application/json"}
        api = http.client.HTTPConnection("127.0.0.1", ADMIN, timeout=30)
        api.request("POST", "/v1/api-keys", json.dumps({"project_id": "bench", "name": "not in the backup"}), head)
        if api.getresponse().status != 201:
            raise RuntimeError("a key could not be made")
        self.peer.keyward("store", "restore", str(backup))

    def reload(self, over, _backup):
        over.wait()
        return int(self.reloads() - self.read_before)

    def scrapes(self, over, _backup):
        read = 0
        while not over.wait(1):
            self.metrics()
            read += 1
        return read

    def metrics(self):
        return urllib.request.urlopen(f"http://127.0.0.1:{self.peer.ops}/metrics", timeout=30).read().decode()

    def reloads(self):
        lines = (line for line in self.metrics().splitlines() if line.startswith("keyward_table_reloads_total"))
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


def number(value):
    return f"{value:,}"


def marked_down(found):
    lines = []
    for name, (title, _values) in AXES.items():
        if name in found:
            figures = found[name]
            lines.append(f"| {title} | " + " | ".join(number(value) for value in figures) + " |")
            lines.append("|---|" + "---|" * len(figures))
            lines.append("| µs a request | " + " | ".join(f"{micros:.1f}" for micros in figures.values()) + " |")
            lines.append("")
    if "rate" in found:
        lines += [f"| at {number(found['rate'])} requests a second | p99 alone, ms | p99 beside it, ms | ratio, round by round | done meanwhile |", "|---|---|---|---|---|"]
        for name, what in DISTURBANCES.items():
            pairs = found[name]
            middle = lambda at: f"{statistics.median(pair[at] for pair in pairs):.2f}"
            ratios = report.spread([beside / alone for alone, beside, _done in pairs])
            done = ", ".join(number(done) for _alone, _beside, done in pairs)
            lines.append(f"| {what} | {middle(0)} | {middle(1)} | {ratios} | {done} |")
    return "\n".join(lines)


def chart(found):
    """A line for each axis: the cost against what is counted, by powers of ten."""
    width, height, left, colours = 640, 300, 50, ["#d1495b", "#5b8fd1", "#7fae9b", "#c3a26b"]
    axes = [name for name in AXES if name in found]
    most = max(micros for name in axes for micros in found[name].values()) * 1.15
    place = lambda value, micros: (left + (len(str(value)) - 1) / 7 * width, 20 + height * (1 - micros / most))
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + 40}" height="{height + 80}" '
        'font-family="system-ui, sans-serif" font-size="11">',
        f'<rect width="{left + width + 40}" height="{height + 80}" fill="#ffffff"/>',
        '<text x="12" y="14" font-size="13" fill="#222">Microseconds of processor time for a request</text>',
    ]
    for power in range(8):
        x = left + power / 7 * width
        out.append(f'<text x="{x:.0f}" y="{height + 36}" text-anchor="middle" fill="#222">{number(10**power)}</text>')
    step = max(5, round(most / 5 / 5) * 5)
    for micros in range(0, int(most) + 1, step):
        y = place(1, micros)[1]
        out.append(f'<line x1="{left}" y1="{y:.0f}" x2="{left + width}" y2="{y:.0f}" stroke="#ddd"/>')
        out.append(f'<text x="{left - 6}" y="{y + 4:.0f}" text-anchor="end" fill="#222">{micros}</text>')
    for at, (name, colour) in enumerate(zip(axes, colours)):
        points = [place(value, micros) for value, micros in found[name].items()]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        out.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        out += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in points]
        out.append(f'<rect x="{left + at * 110}" y="{height + 52}" width="10" height="10" fill="{colour}"/>')
        out.append(f'<text x="{left + at * 110 + 14}" y="{height + 61}" fill="#222">{AXES[name][0].lower()}</text>')
    return "\n".join(out + ["</svg>", ""])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", default=str(ROOT / "target/bench"))
    parser.add_argument("--keyward", default=str(ROOT / "target/release/keyward"))
    parser.add_argument("--load", default=str(ROOT / "target/bench/load-target/release/load"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.5)
    parser.add_argument("--keys-most", type=int, default=10_000_000)
    parser.add_argument("--disturbed-keys", type=int, default=1_000_000)
    parser.add_argument("--parts", type=bench.words, default=[*AXES, "disturbed"], help=" ".join([*AXES, "disturbed"]))
    parser.add_argument("--page", action="store_true", help="write docs/PERFORMANCE.md and its chart")
    options = parser.parse_args()
    bench.apart()
    signal.signal(signal.SIGTERM, bench.stopped)
    peers.resource.setrlimit(peers.resource.RLIMIT_NOFILE, (peers.OPEN_FILES, peers.OPEN_FILES))
    peers.Keyward.binary = str(Path(options.keyward).resolve())
    growth = Growth(options)
    kept = growth.folder / "growth.json"
    if set(options.parts) != {*AXES, "disturbed"} and kept.exists():
        growth.found = json.loads(kept.read_text())
        for name in AXES.keys() & growth.found.keys():
            growth.found[name] = {int(value): micros for value, micros in growth.found[name].items()}
    for name in options.parts:
        growth.disturbed() if name == "disturbed" else growth.axis(name)
        kept.write_text(json.dumps(growth.found))
    print(marked_down(growth.found))
    if options.page:
        page = marked_down(growth.found)
        if any(name in growth.found for name in AXES):
            (ROOT / "docs/growth.svg").write_text(chart(growth.found))
            page = "![as a chart](growth.svg)\n\n" + page
        report.put(ROOT / "docs/PERFORMANCE.md", "grown", page)


if __name__ == "__main__":
    main()
