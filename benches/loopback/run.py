#!/usr/bin/env python3
"""`make bench`: Keyward beside other proxies, in one run and in turn.

Each proxy has one core and one worker; the clients and the service behind it are one process on another
core (load/). The figure is the processor time of the proxy for a request, in microseconds: it hardly
depends on what else the machine does, and ratios are only taken within one round. Whatever was measured is
in results.jsonl at once; a run that was broken off goes on where it was with --resume.
"""

import argparse
import json
import os
import re
import resource
import shlex
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import peers
import report
from inputs import Inputs

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent

# By name: what the report calls it, how it is measured, and what the load side is told.
SCENARIOS = {
    "clear64": ("HTTP/1.1, 100 B, 64 connections", "load", []),
    "clear256": ("HTTP/1.1, 100 B, 256 connections", "load", ["--connections", "256"]),
    "tls64": ("TLS, 100 B, 64 connections", "load", ["--tls"]),
    "tls256": ("TLS, 100 B, 256 connections", "load", ["--tls", "--connections", "256"]),
    "tls10k": ("TLS, 10 KiB answers", "load", ["--tls", "--body", "10240"]),
    "tls1m": ("TLS, 1 MiB answers, 16 connections", "load", ["--tls", "--body", "1048576", "--connections", "16"]),
    "up10k": ("TLS, 10 KiB uploads", "load", ["--tls", "--upload", "10240"]),
    "up1m": ("TLS, 1 MiB uploads, 16 connections", "load", ["--tls", "--upload", "1048576", "--connections", "16"]),
    "h2": ("HTTP/2 over TLS, 64 connections of 10 streams", "h2load", ["--tls", "-m10"]),
    "clear64_h2load": ("HTTP/1.1, 100 B, 64 connections, by h2load", "h2load", ["--h1"]),
    "tls64_h2load": ("TLS, 100 B, 64 connections, by h2load", "h2load", ["--tls", "--h1"]),
    "denied": ("Denied: unknown tokens", "load", ["--denied", "--status", "4"]),
    "handshake": ("A full TLS handshake for each request", "load", ["--tls", "--close"]),
    "resumed": ("A resumed TLS handshake for each request", "load", ["--tls", "--close", "--resume"]),
    "new": ("A new connection for each request, clear text", "load", ["--close"]),
    "rate": ("TLS at a fixed rate", "rate", ["--tls"]),
    "idle_tls": ("Idle TLS connections", "idle", ["--tls"]),
    "idle_clear": ("Idle connections, clear text", "idle", []),
    "idle_ws": ("Idle WebSockets over TLS", "idle", ["--tls", "--websocket", "--body", "0", "--status", "101"]),
    "counts": ("System calls and wake-ups", "count", []),
    "two": ("Two workers on two cores, TLS", "two", ["--tls"]),
}
ONCE = {"idle_tls", "idle_clear", "idle_ws", "counts"}
USUAL = ["nginx", "haproxy", "envoy", "pingora", "keyward", "nginx+log", "keyward+log"]
# What a log costs shows in these.
LOGGED = {"clear64", "tls64"}
# As busy as a core can be shown to be.
BUSY = 0.9


class Run:
    def __init__(self, options):
        self.options = options
        self.folder = Path(options.folder).resolve()
        self.inputs = Inputs(self.folder, options.keys)
        self.results = self.folder / "results.jsonl"
        self.done = {}
        if options.resume and self.results.exists():
            for line in self.results.read_text().splitlines():
                row = json.loads(line)
                self.done[row["round"], row["peer"], row["scenario"]] = row
        elif not options.report and not options.profile:
            self.results.write_text("")
        self.peer = None

    def load(self, *words, cores="1"):
        command = ["taskset", "-c", cores, str(self.options.load), "--backend", str(peers.SERVICE), *words]
        if os.geteuid() == 0:
            command = ["nice", "-n", "-5"] + command
        return command

    def measured(self, *words, cores="1"):
        words = ["--process", str(self.peer.process.pid), "--warm", "0.3", *words]
        told = subprocess.run(self.load(*words, cores=cores), capture_output=True, text=True, timeout=120)
        if told.returncode != 0:
            raise RuntimeError(f"{self.peer.name}: {' '.join(words)}: {told.stderr.strip()}")
        return json.loads(told.stdout)

    def scenario(self, name):
        _title, kind, words = SCENARIOS[name]
        words = list(words)
        keys = self.inputs.keys
        if "--denied" in words:
            words.remove("--denied")
            keys = self.inputs.unknown
        port = self.peer.tls if "--tls" in words else self.peer.clear
        if kind == "h2load":
            return self.h2load(port, words)
        words += ["--target", f"127.0.0.1:{port}", "--keys", str(keys)]
        seconds = ["--seconds", str(self.options.seconds)]
        if kind == "rate":
            return self.measured(*words, "--rate", str(self.options.rate), "--seconds", str(self.options.seconds * 2))
        if kind == "idle":
            return self.idle(words)
        if kind == "count":
            return self.counts(words)
        cores = "0,1" if kind == "two" else "1"
        # Neither side at work all the time: something else had the core.
        for _ in range(3):
            told = self.measured(*words, *seconds, cores=cores)
            if kind == "two" or max(told["proxy_busy"], told["load_busy"]) >= BUSY:
                break
        return told

    def idle(self, words):
        """KiB for each connection that was answered once and then left alone."""
        self.again()
        few = self.measured(*words, "--idle", "--connections", "1", "--seconds", "1")
        # Somebody calls now and then, as always: memory that was given back is not seen to be before that.
        plain = [word for word in words if word not in ("--websocket", "--status", "101")]
        calls = [str(self.options.load), *plain, "--connections", "2", "--rate", "200", "--seconds", "2"]
        now_and_then = subprocess.Popen(
            ["bash", "-c", f"sleep 3; exec taskset -c 1 {shlex.join(calls)}"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            many = self.measured(*words, "--idle", "--connections", str(self.options.idle), "--seconds", "6")
        finally:
            now_and_then.wait()
        many["kib"] = (many["memory_kib"] - few["memory_kib"]) / self.options.idle
        return many

    def counts(self, words):
        """System calls for a request, by the kernel's own tracepoint, over all of the proxy's threads."""
        processes = ",".join(str(process) for process in self.family())
        perf = ["perf", "stat", "-x", ",", "-e", "raw_syscalls:sys_enter", "-p", processes, "--"]
        load = self.load("--process", str(self.peer.process.pid), "--warm", "0", "--seconds", str(self.options.seconds), *words)
        done = subprocess.run(perf + load, capture_output=True, text=True, timeout=120)
        counted = re.search(r"^(\d+),,raw_syscalls", done.stderr, re.M)
        if done.returncode != 0 or not counted:
            raise RuntimeError(f"perf cannot count system calls here: {done.stderr.strip()}")
        told = json.loads(done.stdout)
        told["calls"] = int(counted[1]) / max(told["answered"], 1)
        return told

    def profile(self, name):
        """Records where the proxy's time goes."""
        data = self.folder / f"perf-{name}.data"
        self.options.seconds = 6
        load = threading.Thread(target=self.scenario, args=[name])
        load.start()
        time.sleep(1)
        record = ["perf", "record", "-q", "-F", "999", "-e", "cpu-clock", "--call-graph", "dwarf,16384", "-o", str(data)]
        subprocess.run(record + ["-p", str(self.peer.process.pid), "--", "sleep", "3"], check=True)
        load.join()
        return data

    def h2load(self, port, words):
        """By nghttp2's own load generator, beside the service. Its 64 handshakes are in the figure."""
        service = subprocess.Popen(self.load("--connections", "0", "--warm", "0", "--seconds", "60"), stdout=subprocess.DEVNULL)
        try:
            time.sleep(0.2)
            token = self.inputs.keys.open().readline().strip()
            nice = ["nice", "-n", "-5"] if os.geteuid() == 0 else []
            client = ["h2load", "-t1", "-c64", "-H", f"authorization: Bearer {token}"]
            command = nice + ["taskset", "-c", "1", *client, *(word for word in words if word != "--tls")]
            url = f"{'https' if '--tls' in words else 'http'}://localhost:{port}/s100"
            subprocess.run(command + ["-n", "5000", url], capture_output=True, check=True)
            count = int(40_000 * self.options.seconds)
            before, began = self.processor(), time.monotonic()
            load_before = children_seconds() + processor_of(service.pid) / 1e9
            told = subprocess.run(command + ["-n", str(count), url], capture_output=True, text=True, check=True).stdout
            took, used = time.monotonic() - began, self.processor() - before
            load_used = children_seconds() + processor_of(service.pid) / 1e9 - load_before
            good = int(re.search(r"(\d+) 2xx", told)[1])
            return {
                "rate": round(good / took),
                "answered": good,
                "wrong": count - good,
                "micros": used / 1e3 / max(good, 1),
                "proxy_busy": used / 1e9 / took,
                "load_busy": load_used / took,
            }
        finally:
            service.terminate()
            service.wait()

    def family(self):
        """The proxy's process and those that it has started."""
        every = [self.peer.process.pid]
        for process in every:
            for task in Path(f"/proc/{process}/task").iterdir():
                every += [int(child) for child in (task / "children").read_text().split()]
        return every

    def processor(self):
        """Nanoseconds that they have been on a processor."""
        return sum(map(processor_of, self.family()))

    def again(self, workers=1, cores="0"):
        self.peer.stop()
        self.peer.start(workers, cores)

    def keep(self, number, scenario, told):
        row = {"round": number, "peer": self.peer.name, "scenario": scenario} | told
        self.done[number, self.peer.name, scenario] = row
        with self.results.open("a") as results:
            results.write(json.dumps(row) + "\n")
        micros = f"{row.get('kib', 0):9.1f} KiB" if "kib" in row else f"{row['micros']:9.2f} us "
        if "calls" in row:
            micros = f"{row['calls']:6.2f} calls, {row['sleeps']:.3f} sleeps"
        print(f"round {number}  {self.peer.name:12} {scenario:11}{micros}  {row['rate']:8.0f}/s", flush=True)

    def is_wanted(self, number, peer, name):
        return not (
            (number, peer.name, name) in self.done
            or (name in ONCE and number > 1)
            or ("+log" in peer.name and name not in LOGGED)
            or (name == "two" and peer.name == "envoy")
        )

    def round(self, number, chosen):
        """Each proxy through a scenario, one right after the other: what the same work costs drifts within a minute.
        Another begins each round."""
        first = (number - 1) % len(chosen)
        try:
            for name in self.options.scenarios:
                for peer in chosen[first:] + chosen[:first]:
                    if self.is_wanted(number, peer, name):
                        self.peer = peer
                        self.keep(number, name, self.two() if name == "two" else self.alone(name))
        finally:
            for peer in chosen:
                peer.stop()

    def alone(self, name):
        """On a core of its own."""
        if self.peer.process is None:
            self.peer.start()
        return self.scenario(name)

    def two(self):
        """One and two workers with the same two cores, which the load side has as well."""
        self.again(1, "0,1")
        one = self.scenario("two")
        self.again(2, "0,1")
        told = self.scenario("two")
        self.peer.stop()
        return told | {"one_worker": one["micros"]}

    def all(self):
        chosen = []
        for name in self.options.peers:
            peer = peers.ALL[name](self.inputs, self.folder)
            missing = peer.missing()
            if missing:
                print(f"without {name}: {missing}", flush=True)
                continue
            peer.prepare()
            chosen.append(peer)
        for number in range(1, self.options.rounds + 1):
            self.round(number, chosen)
        return chosen


def processor_of(process):
    """Nanoseconds that it has been on a processor."""
    return sum(int((task / "schedstat").read_text().split()[0]) for task in Path(f"/proc/{process}/task").iterdir())


def children_seconds():
    """What the children that were waited for have been on a processor."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def stopped(_signal, _frame):
    # Through the `finally` of whatever runs, which stops the proxy; a second signal shall not break that off.
    for kind in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(kind, signal.SIG_IGN)
    sys.exit(130)


def apart():
    """Runs on as a session of its own, which the scheduler prefers where it may: on Linux processes of one
    session share their processor time with those of others as one, whatever their own niceness is."""
    child = os.fork()
    if child:
        for kind in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(kind, lambda *_: os.kill(child, signal.SIGTERM))
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    os.setsid()
    try:
        Path("/proc/self/autogroup").write_text("-20")
    except OSError:
        pass


def words(text):
    return text.replace(",", " ").split()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", default=str(ROOT / "target/bench"), help="where everything is kept")
    parser.add_argument("--keyward", default=str(ROOT / "target/release/keyward"), help="the gateway's binary")
    parser.add_argument("--other", help="another build of it, measured as the peer `other`")
    parser.add_argument("--load", default=str(ROOT / "target/bench/load-target/release/load"), help="the load side's binary")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    parser.add_argument("--keys", type=int, default=100_000)
    parser.add_argument("--idle", type=int, default=9_000, help="idle connections")
    parser.add_argument("--rate", type=int, default=10_000, help="requests a second of the scenario `rate`")
    parser.add_argument("--scenarios", type=words, default=list(SCENARIOS), help=" ".join(SCENARIOS))
    parser.add_argument("--peers", type=words, default=USUAL, help=" ".join(peers.ALL))
    parser.add_argument("--resume", action="store_true", help="go on with what results.jsonl has")
    parser.add_argument("--report", action="store_true", help="measure nothing")
    parser.add_argument("--profile", metavar="SCENARIO", help="record one scenario of the first peer with perf, and measure nothing")
    parser.add_argument("--page", action="store_true", help="write docs/PERFORMANCE.md and its chart")
    options = parser.parse_args()
    for name in options.scenarios:
        if name not in SCENARIOS:
            parser.error(f"no scenario {name}; there are: {' '.join(SCENARIOS)}")
    for name in options.peers:
        if name not in peers.ALL:
            parser.error(f"no peer {name}; there are: {' '.join(peers.ALL)}")
    if options.profile:
        profiled = [name for name, (_title, kind, _words) in SCENARIOS.items() if kind in ("load", "h2load", "rate")]
        if options.profile not in profiled:
            parser.error(f"{options.profile} cannot be profiled; what can: {' '.join(profiled)}")
    if not options.report:
        apart()
    signal.signal(signal.SIGTERM, stopped)
    # As many connections as this user may have.
    peers.resource.setrlimit(peers.resource.RLIMIT_NOFILE, (peers.OPEN_FILES, peers.OPEN_FILES))
    peers.Keyward.binary = str(Path(options.keyward).resolve())
    peers.KeywardOther.binary = str(Path(options.other).resolve()) if options.other else None
    options.resume |= options.report
    run = Run(options)
    if options.profile:
        run.peer = peers.ALL[options.peers[0]](run.inputs, run.folder)
        run.peer.prepare()
        try:
            run.peer.start()
            print(run.profile(options.profile))
        finally:
            run.peer.stop()
        return
    if not options.report:
        run.all()
    rows = list(run.done.values())
    print(report.table(rows, SCENARIOS))
    if options.page:
        report.write_page(rows, SCENARIOS, options, ROOT)


if __name__ == "__main__":
    main()
