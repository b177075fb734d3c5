#!/usr/bin/env python3
"""`make profile`: a flame graph of the gateway's hot path, by perf, as target/bench/flame-SCENARIO.svg.

Stacks are unwound from the binary's unwind tables, so that any build will do; one of PROFILE=bench shows
more, for less of it is inlined.
"""

import html
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

WIDTH, ROW = 1500, 16


def stacks(data):
    """The samples of one recording, outermost function first."""
    told = subprocess.run(
        ["perf", "script", "-i", str(data), "--no-inline", "-F", "comm,ip,sym"], capture_output=True, text=True, check=True
    ).stdout
    for block in told.split("\n\n"):
        lines = block.strip().splitlines()
        if len(lines) < 2 or not lines[0].startswith("worker"):
            continue
        names = [re.sub(r"^\s*[0-9a-f]+ ", "", line).strip() for line in lines[1:]]
        names = [re.sub(r"::h[0-9a-f]{16}|\+0x[0-9a-f]+.*", "", name) for name in names]
        # Where a stack was cut off nothing is known of what was below.
        while names and names[-1] == "[unknown]":
            names.pop()
        if names:
            yield tuple(reversed(names))


def tree(samples):
    root = {"count": 0, "children": {}}
    for stack, count in samples.items():
        node = root
        node["count"] += count
        for name in stack:
            node = node["children"].setdefault(name, {"count": 0, "children": {}})
            node["count"] += count
    return root


def depth(node):
    return 1 + max((depth(child) for child in node["children"].values()), default=0)


def drawn(root):
    rows = depth(root)
    height = (rows + 2) * ROW
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" font-family="monospace" font-size="11">']
    out.append(f'<rect width="{WIDTH}" height="{height}" fill="#fffdf8"/>')

    def draw(name, node, left, level):
        width = node["count"] / root["count"] * WIDTH
        if width < 0.7:
            return
        kernel = re.match(r"[a-z_0-9.]+$", name) is not None
        colour = f"hsl({205 if kernel else 12 + hash(name) % 35},{60 if kernel else 75}%,{68 + hash(name) % 10}%)"
        y = height - (level + 1) * ROW
        share = 100 * node["count"] / root["count"]
        title = html.escape(f"{name}: {share:.2f} %")
        out.append(f'<g><title>{title}</title><rect x="{left:.1f}" y="{y}" width="{width:.1f}" height="{ROW - 1}" fill="{colour}"/>')
        fits = int(width / 6.7)
        if fits > 3:
            shown = name if len(name) <= fits else name[: fits - 1] + "…"
            out.append(f'<text x="{left + 2:.1f}" y="{y + 11}">{html.escape(shown)}</text>')
        out.append("</g>")
        for child, below in sorted(node["children"].items()):
            draw(child, below, left, level + 1)
            left += below["count"] / root["count"] * WIDTH

    draw("all", root, 0, 0)
    return "\n".join(out + ["</svg>", ""])


def main():
    data, picture = Path(sys.argv[1]), Path(sys.argv[2])
    samples = Counter(stacks(data))
    total = sum(samples.values())
    if not total:
        sys.exit(f"{data} holds no samples of a worker")
    picture.write_text(drawn(tree(samples)))
    alone = Counter()
    for stack, count in samples.items():
        alone[stack[-1]] += count
    print("by itself, in percent of the worker's time:")
    for name, count in alone.most_common(25):
        print(f"{100 * count / total:6.2f}  {name[:110]}")
    print(f"wrote {picture} of {total} samples")


if __name__ == "__main__":
    main()
