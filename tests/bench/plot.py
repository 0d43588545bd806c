#!/usr/bin/python3
"""Draws the bench's pictures.

Usage: tests/bench/plot.py RESULTS_DIR

RESULTS_DIR/restarts.jsonl becomes restart-{light,dark}.{svg,png}: how long clients waited for their
answers around one restart, a panel for each way to restart; in rows of old without answers_ms, how
long they took to connect. RESULTS_DIR/costs.jsonl becomes
cost-{light,dark}.{svg,png}: what syngate's own steps take as hosts grow. A file that is missing, or
has nothing to draw, is left out with a line on stderr; the exit status is 1 if nothing was drawn.
The same input gives the same bytes. Needs Debian's python3-matplotlib and fonts-dejavu-core.
"""

import hashlib
import json
import math
import os
import statistics
import sys
from collections import Counter

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

SUBJECT, MODE = "haproxy restart", "fresh"
WAYS = {
    "bare": "bare restart",
    "folk": "folk recipe: DROP, sleep 1, restart",
    "folk-no-sleep": "the same without the sleep",
    "flip": "two instances, flipped by hand",
    "plug": "plug qdisc (local clients)",
    "drop": "syngate: drop",
    "hold": "syngate: hold",
    "park": "syngate: park",
    "handover": "syngate: handover",
    "redirect": "syngate: redirect to a standby",
    "divert": "syngate: divert to the peer",
}
BUCKET_MS = 10  # of answers_ms and timeline_ms
MARGIN_MS = 300  # shown before and after the restart
FLOOR_MS, CEILING_MS = 0.1, 10_000
FAILED = ("refused", "reset", "cut", "timed_out", "other")

SERIES = {
    "rules": "by other nft rules on the host",
    "legacy rules": "by iptables-legacy rules on the host",
    "ports": "by gated ports, in one range",
    "odd ports": "by gated ports, each by itself",
    "connections": "by connections established on the port",
    "held": "by SYNs held: until all are let go",
}
METRICS = {"wall_ms": "whole run", "close_ms": "to closed", "open_ms": "to open"}
PAIR_WAYS = ("syngate", "nft", "iptables", "iptables-legacy")

# GitHub's pages, and colours of Okabe and Ito that stand out from them.
THEMES = {
    "light": dict(page="#ffffff", ink="#1f2328", muted="#59636e", grid="#d8dee4", shade="#e6eaef",
                  other="#6e7781", syngate="#0072b2", failed="#c4420a",
                  wall_ms="#6e7781", close_ms="#0072b2", open_ms="#b35900"),
    "dark": dict(page="#0d1117", ink="#e6edf3", muted="#9198a1", grid="#2a3038", shade="#21272f",
                 other="#a3acb6", syngate="#56b4e9", failed="#ff7b4a",
                 wall_ms="#a3acb6", close_ms="#56b4e9", open_ms="#e69f00"),
}
MARKERS = {"wall_ms": "o", "close_ms": "s", "open_ms": "^"}
WIDTH = 9  # inches, 864 px on a page
TITLE, TEXT = 12, 9.5  # points
STYLE = {"svg.hashsalt": "syngate", "svg.fonttype": "path", "font.family": "DejaVu Sans",
         "font.size": TEXT, "xtick.labelsize": TEXT, "ytick.labelsize": TEXT}


def say(line):
    print(f"plot: {line}", file=sys.stderr)


def read(path, needed):
    """The objects of a file, one a line, that have all that is needed; none if there is no file."""
    name, rows = os.path.basename(path), []
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = file.readlines()
    except FileNotFoundError:
        say(f"{name}: no such file")
        return rows
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            lacks = [key for key in needed if row.get(key) is None]
        except (ValueError, AttributeError):
            say(f"{name}: line {number} is no whole object: left out")
            continue
        if lacks:
            say(f"{name}: line {number} has no {', '.join(lacks)}: left out")
        else:
            rows.append(row)
    return rows


def representative(rounds):
    """The round whose worst answer is the median; of an even number, the lower one."""
    return sorted(rounds, key=lambda r: r["total"]["max_ms"])[(len(rounds) - 1) // 2]


def chosen(rows):
    """A round for each way, in the order of WAYS, and out of how many at most it was chosen."""
    rows = [r for r in rows if (r["subject"], r["mode"]) == (SUBJECT, MODE) and r["way"] in WAYS
            and "timeline_ms" in r]
    loads = Counter((r.get("rate"), r.get("family")) for r in rows)
    if len(loads) > 1:  # loads that differ are not to be compared
        load = loads.most_common(1)[0][0]
        say(f"restarts.jsonl: of {len(loads)} loads, only {load[0]} a second by {load[1]} is drawn")
        rows = [r for r in rows if (r.get("rate"), r.get("family")) == load]
    ways = {way: [r for r in rows if r["way"] == way] for way in WAYS}
    rounds = max(map(len, ways.values()))
    return {way: representative(of) for way, of in ways.items() if of}, rounds


def shifted(row):
    """Edges and heights of a round's steps, and its failures, in s since the restart began."""
    began, timeline = row["began_ms"], row.get("answers_ms") or row["timeline_ms"]
    edges = [(i * BUCKET_MS - began) / 1000 for i in range(len(timeline) + 1)]
    heights = [min(max(ms, FLOOR_MS), CEILING_MS) if ms else math.nan for ms in timeline]
    return edges, heights, sorted((at - began) / 1000 for at in row.get("failed_at_ms") or [])


def thinned(places, apart):
    """Some of the sorted places, none of them closer to its neighbour than that."""
    kept = []
    for place in places:
        if not kept or place - kept[-1] >= apart:
            kept.append(place)
    return kept


def failures(row):
    """How many clients weren't served."""
    return sum(row.get(kind) or 0 for kind in FAILED)


def duration(ms):
    """As many digits as matter: 0.05 ms, 7.8 ms, 14 ms, 1.03 s."""
    if ms >= 999.5:
        return f"{ms / 1000:.2f} s"
    return f"{ms:.{0 if ms >= 9.95 else 1 if ms >= 0.995 else 2}f} ms"


def summary(row):
    return (f"{failures(row):,} of {row['sent']:,} failed, {row.get('delayed') or 0:,} delayed"
            f" ≥ 0.9 s, worst {duration(row['total']['max_ms'])}")


def quartiles(values):
    """The lower quartile, the median and the upper quartile."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    return tuple(statistics.quantiles(values, n=4, method="inclusive"))


def spread(rows, metric):
    """Sizes, and for each the quartiles of that metric over the rounds, in three lists."""
    by_size = {}
    for row in rows:
        if row.get(metric) is not None:
            by_size.setdefault(row["size"], []).append(max(row[metric], 0.001))  # for log scales
    sizes = sorted(by_size)
    return sizes, list(zip(*(quartiles(by_size[size]) for size in sizes)))


def place(size, smallest):
    """Where a size is on a log scale that has a 0, just left of the smallest other size."""
    return math.log10(size / smallest) + 0.7 if size else 0.0


def apart(heights, least):
    """The heights of labels, in the same order, moved down until they are apart and below the top
    of a panel that is 1 high."""
    moved, last = list(heights), 0.95 + least
    for i in sorted(range(len(moved)), key=lambda i: -moved[i]):
        last = moved[i] = min(moved[i], last - least)
    return moved


def panels(count, theme, head, above, tall, below, foot, gap):
    """A figure with panels in two columns; all lengths are inches."""
    rows, left, right = -(-count // 2), 0.68, 0.12
    height = head + rows * (above + tall + below) + foot
    fig = Figure(figsize=(WIDTH, height), facecolor=theme["page"])
    wide = (WIDTH - left - right - gap) / 2
    axes = []
    for i in range(count):
        bottom = height - head - (i // 2 + 1) * (tall + above) - i // 2 * below
        ax = fig.add_axes([(left + i % 2 * (wide + gap)) / WIDTH, bottom / height,
                           wide / WIDTH, tall / height], facecolor="none")
        ax.spines[["top", "right", "left"]].set_visible(False)
        ax.spines["bottom"].set_color(theme["muted"])
        ax.tick_params(colors=theme["muted"], length=0)
        ax.tick_params(axis="x", length=3)
        ax.set_axisbelow(True)
        axes.append(ax)
    return fig, axes


def headline(fig, theme, title, lines):
    high = fig.get_figheight()
    fig.text(0.12 / WIDTH, 1 - 0.12 / high, title, va="top", size=TITLE, weight="bold",
             color=theme["ink"])
    fig.text(0.12 / WIDTH, 1 - 0.38 / high, "\n".join(lines), va="top", size=TEXT,
             color=theme["muted"], linespacing=1.35)


def caption(ax, theme, title, line, colour):
    where = dict(xy=(0, 1), xycoords="axes fraction", textcoords="offset points")
    ax.annotate(title, xytext=(0, 19 if line else 6), weight="bold", size=10, color=colour, **where)
    if line:
        ax.annotate(line, xytext=(0, 6), size=TEXT, color=theme["muted"], **where)


def decades(values):
    """The powers of ten around these values."""
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return 10.0 ** low, 10.0 ** max(high, low + 1)


def log_scale(ax, low, high, theme, until=1):
    """A log scale, with a line for each power of ten, up to that part of the width."""
    ax.set_yscale("log")
    ax.set_ylim(low, high)
    powers = range(round(math.log10(low)), round(math.log10(high)) + 1)
    ax.set_yticks([10.0 ** power for power in powers])
    ax.set_yticklabels([f"{10.0 ** p:g} ms" if p < 3 else f"{10 ** (p - 3):,} s" for p in powers])
    ax.yaxis.set_minor_locator(NullLocator())
    for power in powers:
        ax.axhline(10.0 ** power, xmax=until, color=theme["grid"], linewidth=0.7, zorder=0.8)


def restart_picture(rows, theme):
    """One panel a way, or nothing if there is no round to show."""
    ways, rounds = chosen(rows) if rows else ({}, 0)
    if not ways:
        return None
    begin = -MARGIN_MS / 1000
    end = max(r["ended_ms"] - r["began_ms"] + MARGIN_MS for r in ways.values()) / 1000
    fig, axes = panels(len(ways), theme, 0.8, 0.48, 1.3, 0.14, 0.4, 0.22)
    some = next(iter(ways.values()))
    load = f", {some['rate']:,} new connections a second" if some.get("rate") else ""
    answers = all(row.get("answers_ms") for row in ways.values())
    what = "waited for its answer" if answers else "took to connect"
    which = f" Of {rounds} rounds, the one with the median worst answer." if rounds > 1 else ""
    headline(fig, theme, f"{SUBJECT}{load}", [
        f"The line: how long the slowest of the clients of every 10 ms {what}.",
        f"Shaded: while the restart runs. ×: clients that failed.{which}"])
    for i, (ax, (way, row)) in enumerate(zip(axes, ways.items())):
        colour = theme["syngate" if WAYS[way].startswith("syngate") else "other"]
        strong = colour == theme["syngate"]
        caption(ax, theme, WAYS[way], summary(row), colour if strong else theme["ink"])
        log_scale(ax, FLOOR_MS, CEILING_MS, theme)
        ax.set_xlim(begin, end)
        ax.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        ax.axvspan(0, (row["ended_ms"] - row["began_ms"]) / 1000, color=theme["shade"], lw=0,
                   zorder=0.7)
        edges, heights, failed = shifted(row)
        if heights:
            ax.stairs(heights, edges, baseline=None, color=colour, linewidth=1.7 if strong else 1.4)
        mark_failures(ax, failed, failures(row), theme["failed"])
        if i % 2:
            ax.set_yticklabels([])
        if i < len(axes) - 2:
            ax.set_xticklabels([])
        else:
            ax.set_xlabel("seconds since the restart began", color=theme["muted"], size=TEXT)
    return fig


def mark_failures(ax, failed, count, colour):
    """A row of crosses at the top, and their number to the right or left where there is room."""
    begin, end = ax.get_xlim()
    wide, high = end - begin, CEILING_MS * 0.4
    marks = thinned([at for at in failed if begin <= at <= end], wide / 40)
    ax.plot(marks, [high] * len(marks), "x", color=colour, markersize=6, markeredgewidth=1.8)
    style = dict(textcoords="offset points", va="center", size=TEXT, weight="bold", color=colour)
    if marks and end - marks[-1] > 0.3 * wide:
        ax.annotate(f"{count:,} failed", (marks[-1], high), (8, 0), **style)
    elif marks and marks[0] - begin > 0.3 * wide:
        ax.annotate(f"{count:,} failed", (marks[0], high), (-8, 0), ha="right", **style)


def cost_picture(rows, theme):
    """One panel a series and one for the pairs of commands, or nothing if there are no figures."""
    mine = {name: [r for r in rows if r["series"] == name and r["way"] == "syngate"]
            for name in SERIES}
    mine = {name: of for name, of in mine.items() if any(spread(of, m)[0] for m in METRICS)}
    pairs = [r for r in rows if r["series"] == "pair" and r.get("wall_ms") is not None]
    if not mine and not pairs:
        return None
    fig, axes = panels(len(mine) + bool(pairs), theme, 0.82, 0.3, 1.6, 0.36, 0.02, 0.74)
    headline(fig, theme, "What syngate itself takes", [
        "Medians over the rounds; bands and whiskers: the middle half.  Sizes: a log scale, after 0.  "
        "Whole run: COMMAND is true.",
        "To closed: from the start until the gate is closed.  "
        "To open: from the decision until it is open."])
    values = [v for of in mine.values() for m in METRICS for vs in spread(of, m)[1] for v in vs]
    for ax, (name, of) in zip(axes, mine.items()):
        caption(ax, theme, SERIES[name], None, theme["ink"])
        names = {"wall_ms": "let go"} if name == "held" else METRICS
        cost_panel(ax, of, decades(values), theme, names)
    if pairs:
        pair_panel(axes[-1], pairs, theme)
    return fig


def cost_panel(ax, rows, limits, theme, names):
    """A line, its band and its name at the right end, for each metric over the sizes."""
    sizes = sorted({row["size"] for row in rows})
    smallest = next((size for size in sizes if size), 1)
    first, last = place(sizes[0], smallest), place(sizes[-1], smallest)
    wide = last - first or 1
    log_scale(ax, *limits, theme, until=0.8)
    ends = {}
    for metric in METRICS:
        at, quarters = spread(rows, metric)
        if at:
            (low, middle, high), x = quarters, [place(size, smallest) for size in at]
            ax.fill_between(x, low, high, color=theme[metric], alpha=0.25, linewidth=0)
            ax.plot(x, middle, MARKERS[metric] + "-", color=theme[metric], markersize=4,
                    linewidth=1.6, clip_on=False)
            ends[metric] = math.log10(middle[-1] / limits[0]) / math.log10(limits[1] / limits[0])
    for metric, height in zip(ends, apart(ends.values(), 0.11)):
        ax.annotate(names[metric], (last, height), (10, 0), textcoords="offset points",
                    xycoords=("data", "axes fraction"), va="center", size=TEXT,
                    color=theme[metric])
    ax.set_xlim(first - 0.05 * wide, first + 1.325 * wide)
    ax.spines["bottom"].set_bounds(first - 0.05 * wide, last + 0.05 * wide)
    ticks = {-place(size, smallest): size for size in reversed(sizes)}
    kept = thinned(ticks, wide / 8)  # from the right, since the largest matters most
    ax.set_xticks([-at for at in kept])
    ax.set_xticklabels([f"{ticks[at]:,}".replace(",000", "k") for at in kept])


def pair_panel(ax, rows, theme):
    """A bar a way: the median, with a line from quartile to quartile."""
    ways = sorted({row["way"] for row in rows}, key=lambda way: (
        PAIR_WAYS.index(way) if way in PAIR_WAYS else len(PAIR_WAYS), way))
    of = [quartiles([row["wall_ms"] for row in rows if row["way"] == way]) for way in ways]
    caption(ax, theme, "what a pair of commands takes", None, theme["ink"])
    widest = max(high for _, _, high in of) or 1
    names = 0.03 + 0.0185 * max(map(len, ways))  # that part of the width is theirs
    for y, (way, (low, middle, high)) in enumerate(zip(ways, of)):
        ax.annotate(way, (0, y), xycoords=("axes fraction", "data"), va="center", size=TEXT,
                    color=theme["ink"])
        colour, strength = ("syngate", 1) if way == "syngate" else ("other", 0.6)
        ax.barh(y, middle, height=0.5, color=theme[colour], alpha=strength, linewidth=0)
        ax.plot([low, high], [y, y], color=theme["ink"], linewidth=1.2)
        ax.annotate(duration(middle), (high, y), (6, 0), textcoords="offset points", va="center",
                    size=TEXT, color=theme["ink"])
    ax.set_ylim(len(ways) - 0.4, -0.6)
    ax.set_yticks([])
    ax.set_xticks([])
    ax.set_xlim(-1.3 * widest * names / (1 - names), 1.3 * widest)
    ax.spines["bottom"].set_visible(False)


def digest(path):
    """Of the file that a picture is of; nothing, if there is none."""
    try:
        with open(path, "rb") as file:
            return hashlib.sha256(file.read()).hexdigest()
    except FileNotFoundError:
        return None


def save(fig, path, theme, title, of):
    """As SVG with nothing behind it, and as PNG on the page's colour; no dates, no versions."""
    fig.savefig(f"{path}.svg", transparent=True,
                metadata={"Date": None, "Creator": None, "Title": title, "Description": of})
    fig.savefig(f"{path}.png", dpi=200, facecolor=theme["page"],
                metadata={"Software": None, "Title": title})


def main(folder):
    matplotlib.rcdefaults()  # not the user's own settings
    matplotlib.rcParams.update(STYLE)
    restarts = read(os.path.join(folder, "restarts.jsonl"), (
        "subject", "way", "mode", "sent", "total", "began_ms", "ended_ms"))
    costs = read(os.path.join(folder, "costs.jsonl"), ("series", "way", "size"))
    drawn = 0
    for name, draw, rows, file in (("restart", restart_picture, restarts, "restarts.jsonl"),
                                   ("cost", cost_picture, costs, "costs.jsonl")):
        of = digest(os.path.join(folder, file))
        for kind, theme in THEMES.items():
            fig = draw(rows, theme)
            if fig is None:
                say(f"nothing to draw for {name}: left out")
                break
            save(fig, os.path.join(folder, f"{name}-{kind}"), theme, f"syngate: {name}",
                 f"{file}, sha256 {of}")
            drawn += 1
    return 0 if drawn else 1


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit("Usage: tests/bench/plot.py RESULTS_DIR")
    sys.exit(main(sys.argv[1]))
