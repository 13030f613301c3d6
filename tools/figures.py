#!/usr/bin/env python3
"""Draws the cost curves, and writes what was measured into README.md and docs/performance.md: tools/figures.py [--check]

In docs/pictures: curves.json (tools/bench.sh curves --json FILE), budgets.json (tools/bench.sh --json FILE) and peer-go.json
(benchmarks/peers/go/run.sh --json FILE). From them come docs/pictures/curves-*.svg and what stands between `<!-- figures: NAME -->` and
`<!-- /figures -->` in the pages. With --check nothing is written, and it fails on what would change.
"""
import collections
import json
import math
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGES = [ROOT / "docs/performance.md", ROOT / "README.md"]

Line = collections.namedtuple("Line", "name figure scale")  # a figure of the file, times scale
Panel = collections.namedtuple("Panel", "title lines")
Curve = collections.namedtuple("Curve", "name axis panels")

CLIENT, ETCD = "CPU of the process", "CPU of etcd"
LOOKS = [CLIENT, "CPU of them all", "of it in use", "JSON values"], [ETCD, "of etcd"]  # lines of the second and the third colour
CURVES = [
    Curve("instances", "instances of one service", [
        Panel("first list, ms", [Line("until it is there", "list/wall", 1), Line(CLIENT, "list/cpu", 1),
                                 Line(ETCD, "list/etcd cpu", 1)]),
        Panel("memory, MB", [Line("resident", "list/rss", 1), Line("JSON values", "store/json", 1)]),
        Panel("one change, µs", [Line(ETCD, "change/etcd cpu", 1000), Line(CLIENT, "change/cpu", 1000),
                                 Line("with a new list each time", "read/cpu", 1000)]),
    ]),
    Curve("watchers", "watch() of one service", [
        Panel("start, ms", [Line("until all have 100 events", "start/wall", 1), Line(CLIENT, "start/cpu", 1),
                            Line(ETCD, "start/etcd cpu", 1)]),
        Panel("memory, MB", [Line("resident", "start/rss", 1), Line("of it in use", "start/heap", 1)]),
        Panel("one change to all, µs", [Line(CLIENT, "change/cpu", 1000), Line(ETCD, "change/etcd cpu", 1000)]),
    ]),
    Curve("services", "followed services of 10 instances", [
        Panel("first lists, ms", [Line("until all are there", "list/wall", 1), Line(CLIENT, "list/cpu", 1),
                                  Line(ETCD, "list/etcd cpu", 1)]),
        Panel("memory, MB", [Line("resident", "list/rss", 1), Line("of it in use", "list/heap", 1)]),
        Panel("one change, µs", [Line(CLIENT, "change/cpu", 1000), Line(ETCD, "change/etcd cpu", 1000)]),
    ]),
    Curve("registered", "instances of one process", [
        Panel("registering all, ms", [Line("until all are stored", "register/wall", 1),
                                      Line(CLIENT, "register/cpu", 1), Line(ETCD, "register/etcd cpu", 1)]),
        Panel("memory, MB", [Line("resident", "register/rss", 1), Line("of it in use", "register/heap", 1)]),
        Panel("kept for 10 s, ms", [Line(CLIENT, "keep/cpu", 1), Line(ETCD, "keep/etcd cpu", 1)]),
    ]),
    Curve("processes", "processes that follow one service of 100", [
        Panel("start of all, ms", [Line("CPU of them all", "list/cpu", 1), Line(ETCD, "list/etcd cpu", 1)]),
        Panel("memory, MB", [Line("of them all", "list/rss", 1), Line("of etcd", "list/etcd rss", 1)]),
        Panel("one change to all, µs", [Line("CPU of them all", "change/cpu", 1000),
                                        Line(ETCD, "change/etcd cpu", 1000)]),
    ]),
]

COLOURS = ["#2f5f9e", "#b35309", "#3c7a2e"]  # with DASHES, so that colours are not needed to tell them apart
DASHES = ["", "6 3", "2 2"]
WIDTH, HEIGHT, LEFT, TOP = 268, 170, 46, 34  # of a panel; of its axes within it


def short(value):
    """A figure as people read it: two digits of it at least."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def tick(power):
    if power >= 0:
        return f"{10 ** power:,}"
    return f"{10.0 ** power:g}"


class Figures:
    def __init__(self, file):
        measured = json.loads(file.read_text())
        self.machine = measured["machine"]
        self.rows = {(row["name"], row["n"]): row["value"] for row in measured["rows"]}

    def of(self, curve, line):
        """The points of a line: N and value."""
        name = f"{curve.name}/{line.figure}"
        return sorted((n, value * line.scale) for (row, n), value in self.rows.items() if row == name)

    def at(self, name, n):
        return self.rows[name, n]

    def last(self, name):
        """The largest N of a figure, and the value there."""
        return max((n, value) for (row, n), value in self.rows.items() if row == name)


def panel_svg(panel, curve, figures, left):
    drawn = [(line, [(n, value) for n, value in figures.of(curve, line) if value > 0]) for line in panel.lines]
    values = [value for _, points in drawn for _, value in points]
    numbers = [n for _, points in drawn for n, _ in points]
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    high = max(high, low + 1)
    first, last = math.log10(min(numbers)), math.log10(max(numbers))
    wide, tall = WIDTH - LEFT - 14, HEIGHT - TOP

    def x(n):
        return left + LEFT + wide * (math.log10(n) - first) / (last - first)

    def y(value):
        return TOP + tall * (high - math.log10(value)) / (high - low)

    out = [f'<text x="{left + LEFT}" y="22" font-weight="bold" fill="#1f3a5f">{panel.title}</text>']
    for power in range(low, high + 1):
        at = y(10.0 ** power)
        out.append(f'<path d="M{left + LEFT} {at:.1f}h{wide}" stroke="#dde2e9"/>')
        out.append(f'<text x="{left + LEFT - 5}" y="{at + 4:.1f}" text-anchor="end">{tick(power)}</text>')
    for power in range(round(first), round(last) + 1):
        at = x(10.0 ** power)
        out.append(f'<path d="M{at:.1f} {TOP}v{tall}" stroke="#dde2e9"/>')
        out.append(f'<text x="{at:.1f}" y="{HEIGHT + 15}" text-anchor="middle">{tick(power)}</text>')
    for number, (line, points) in enumerate(drawn):
        look = 1 if line.name in LOOKS[0] else 2 if line.name in LOOKS[1] else 0
        colour, dash = COLOURS[look], DASHES[look]
        path = "L".join(f"{x(n):.1f} {y(value):.1f}" for n, value in points)
        out.append(f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2" stroke-dasharray="{dash}"/>')
        out += [f'<circle cx="{x(n):.1f}" cy="{y(value):.1f}" r="2.6" fill="{colour}"/>' for n, value in points]
        at = HEIGHT + 34 + 16 * number
        out.append(f'<path d="M{left + LEFT} {at - 4}h22" stroke="{colour}" stroke-width="2" stroke-dasharray="{dash}"/>')
        out.append(f'<text x="{left + LEFT + 28}" y="{at}">{line.name}</text>')
    return out


def svg(curve, figures):
    width, height = WIDTH * len(curve.panels) + 16, HEIGHT + 34 + 16 * 3 + 18
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img"',
           '     font-family="\'DejaVu Sans\', Verdana, \'Segoe UI\', sans-serif" font-size="11" fill="#44546a">',
           f"  <title>What it costs, by the number of {curve.axis}</title>",
           "  <!-- A background of its own: readable on light and on dark pages. Drawn by tools/figures.py. -->",
           f'  <rect x="0.5" y="0.5" width="{width - 1}" height="{height - 1}" rx="10" fill="#ffffff" stroke="#c5ccd6"/>']
    for number, panel in enumerate(curve.panels):
        out += ["  " + line for line in panel_svg(panel, curve, figures, number * WIDTH)]
    out.append(f'  <text x="{width / 2:.0f}" y="{height - 10}" text-anchor="middle" fill="#1f3a5f">{curve.axis}; '
               "both axes logarithmic</text>")
    return "\n".join(out + ["</svg>"]) + "\n"


def table(curve, figures):
    """The figures of a curve as a table: a row for each line of its picture."""
    numbers = [n for n, _ in figures.of(curve, curve.panels[0].lines[0])]
    out = [f"| {curve.axis} | " + " | ".join(f"{n:,}" for n in numbers) + " |", "|---|" + "---|" * len(numbers)]
    for panel in curve.panels:
        for line in panel.lines:
            values = dict(figures.of(curve, line))
            out.append(f"| {panel.title}: {line.name} | " + " | ".join(short(values[n]) for n in numbers) + " |")
    return out


def slope(figures, name):
    """What one more costs, where many are: from the first to the last N, in the unit of the figure."""
    last, value = figures.last(name)
    first = min(n for row, n in figures.rows if row == name)
    return (value - figures.at(name, first)) / (last - first)


def costs(figures):
    """What one of everything costs; each row is computed from figures of the curves."""
    unit = collections.OrderedDict()
    unit["an instance in etcd: its file, bytes"] = slope(figures, "instances/store/etcd file") * 1e6
    unit["an instance in etcd: memory, bytes"] = slope(figures, "instances/store/etcd rss") * 1e6
    unit["an instance in a view: memory, bytes"] = slope(figures, "instances/list/rss") * 1e6
    unit["an instance that is kept: memory in use, bytes"] = slope(figures, "registered/register/heap") * 1e6
    unit["registering an instance: CPU of etcd, µs"] = slope(figures, "registered/register/etcd cpu") * 1e3
    unit["a watch() more of the same service: CPU of the process for each change, µs"] = slope(figures, "watchers/change/cpu") * 1e3
    unit["a followed service more, of 10 instances: memory, bytes"] = slope(figures, "services/list/rss") * 1e6
    unit["a change that one process follows: CPU of etcd, µs"] = figures.at("processes/change/etcd cpu", 1) * 1e3
    unit["each process more that follows it: CPU of etcd, µs"] = slope(figures, "processes/change/etcd cpu") * 1e3
    unit["the same: CPU of that process, µs"] = slope(figures, "processes/change/cpu") * 1e3
    unit["the start of a process with a service of 100: CPU of etcd, µs"] = slope(figures, "processes/list/etcd cpu") * 1e3
    unit["a process that follows: memory of etcd, bytes"] = slope(figures, "processes/list/etcd rss") * 1e6
    unit["changes of such an instance that fit into 2 GiB, millions"] = 2 ** 31 / unit["an instance in etcd: its file, bytes"] / 1e6
    return unit


def fleets(figures):
    """How many changes a second three members carry, with half of a core each for them."""
    unit = costs(figures)
    change = unit["a change that one process follows: CPU of etcd, µs"]
    more = unit["each process more that follows it: CPU of etcd, µs"]
    out = ["| processes that follow the service | CPU of one of three members for each change, ms | changes a second with half a core |",
           "|---|---|---|"]
    for processes in (100, 1000, 10000):
        each = change + more * processes / 3
        out.append(f"| {processes:,} | {short(each / 1000)} | {short(0.5e6 / each)} |")
    return out


def peer():
    """What the peer in Go has measured."""
    measured = json.loads((ROOT / "docs/pictures/peer-go.json").read_text())
    return [f"| {measured['about']} | |", "|---|---|"] + [
        f"| {row['name']} | {short(row['value'])} {row['unit'].replace('us', 'µs')} |" for row in measured["rows"]]


def budgets(all_rows):
    """What tools/bench.sh has measured: rows with a budget, or all of them."""
    def shown(row, name, of_budget):
        if name not in row:
            return ""
        is_ratio = name == "ratio" or of_budget and row["budget_of"] == "ratio"
        return (short(row[name]) + ("x" if is_ratio else " " + row["unit"].replace("us", "µs"))).strip()

    out = ["| | bare | registry | ratio | budget | |", "|---|---|---|---|---|---|"]
    for row in json.loads((ROOT / "docs/pictures/budgets.json").read_text()):
        if all_rows or "budget" in row:
            cells = [shown(row, name, name == "budget") for name in ("floor", "library", "ratio", "budget")]
            out.append(f"| {row['what']} | {' | '.join(cells)} | {row.get('verdict', '')} |")
    return out


def main():
    if sys.argv[1:] not in ([], ["--check"]):
        sys.exit(__doc__)
    figures = Figures(ROOT / "docs/pictures/curves.json")
    blocks = {curve.name: table(curve, figures) for curve in CURVES}
    blocks["machine"] = [figures.machine + "."]
    blocks["costs"] = ["| what | cost |", "|---|---|"] + [f"| {name} | {short(value)} |" for name, value in costs(figures).items()]
    blocks["fleets"] = fleets(figures)
    blocks["peer"] = peer()
    blocks["budgets"] = budgets(False)
    blocks["all-rows"] = budgets(True)
    made = {ROOT / f"docs/pictures/curves-{curve.name}.svg": svg(curve, figures) for curve in CURVES}
    for page in PAGES:
        made[page] = re.sub(r"(<!-- figures: ([\w-]+) -->\n).*?(<!-- /figures -->)",
                            lambda block: block[1] + "\n".join(blocks[block[2]]) + "\n" + block[3], page.read_text(), flags=re.DOTALL)
    changed = [path for path, text in made.items() if not path.exists() or path.read_text() != text]
    for path in changed:
        print(f"{path.relative_to(ROOT)}: {'is not what the figures say: run tools/figures.py' if '--check' in sys.argv else 'written'}")
        if "--check" not in sys.argv:
            path.write_text(made[path])
    sys.exit(1 if changed and "--check" in sys.argv else 0)


main()
