#!/usr/bin/env python3
"""Markdown tables, and plots where matplotlib is installed, from the JSON lines of peers.py.

    python3 tables.py peers.jsonl [more.jsonl ...] [--plots FOLDER]

A case that was measured more than once counts with its last result. FLOP are useful ones: 4 x visited pairs x head_dim.
"""

import argparse
import json
import sys

OWN = ("lacuna", "lacuna-portable")
VERSIONS = ("torch", "triton", "cudnn", "fa3_fwd", "flashinfer")


def load(paths):
    events = []
    for path in paths:
        with open(path, encoding="utf-8") as file:
            events += [json.loads(line) for line in file if line.strip()]
    return events


def shape_of(case):
    return (case["head_dim"], case["q_heads"], case["kv_heads"], case["length"], case["causal"])


def shape_title(shape):
    head_dim, q_heads, kv_heads, length, causal = shape
    return f"D{head_dim}, {q_heads}/{kv_heads} heads, {length} tokens, {'causal' if causal else 'full'}"


class Results:
    """`rows[shape][(block, lists, density)][row]`: result; the key (0, 0, 1.0) is the dense case."""

    DENSE = (0, 0, 1.0)

    def __init__(self, events):
        self.events = events
        self.rows = {}
        for event in events:
            if event["kind"] == "result":
                case = event["case"]
                key = (case["block"], case["lists"], case["density"])
                self.rows.setdefault(shape_of(case), {}).setdefault(key, {})[event["row"]] = event

    def shapes(self):
        return sorted(self.rows, key=lambda shape: (-shape[0], shape[3], shape[4], shape[1:3]))

    def names(self):
        """Rows that were measured anywhere, lacuna first."""
        found = {row for cases in self.rows.values() for case in cases.values() for row in case}
        return [row for row in OWN if row in found] + sorted(found - set(OWN))

    def fastest_dense(self, shape):
        """(name, result) of the fastest dense peer of a shape, or None."""
        dense = self.rows.get(shape, {}).get(self.DENSE, {})
        peers = [(name, result) for name, result in dense.items() if name not in OWN]
        return min(peers, key=lambda pair: pair[1]["us"]["median"], default=None)

    def speedup(self, shape, result):
        """(over the fastest dense peer, share of the ideal): the ideal is dense pairs / visited pairs."""
        fastest = self.fastest_dense(shape)
        if fastest is None:
            return None
        times = fastest[1]["us"]["median"] / result["us"]["median"]
        return times, times * result["pairs"] / fastest[1]["pairs"]


def table(header, lines):
    rule = ["---"] + ["---:"] * (len(header) - 1)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [header, rule, *lines]) + "\n"


def spread(us):
    """How far p10 and p90 lie from the median, the larger one in per cent."""
    return 100 * max(us["p90"] / us["median"] - 1, 1 - us["p10"] / us["median"])


def rate(result):
    return f"{result['tflops']:.0f} ±{spread(result['us']):.0f} %" if result else ""


def dense_table(results):
    names = [name for name in results.names() if any(name in c.get(Results.DENSE, {}) for c in results.rows.values())]
    lines = []
    for shape in results.shapes():
        dense = results.rows[shape].get(Results.DENSE)
        if not dense:
            continue
        fastest = results.fastest_dense(shape)
        ratio = ""
        if fastest and "lacuna" in dense:
            ratio = f"{fastest[1]['us']['median'] / dense['lacuna']['us']['median']:.2f} ({fastest[0]})"
        lines.append([shape_title(shape), *(rate(dense.get(name)) for name in names), ratio])
    return table(["dense, TFLOP/s", *names, "lacuna / fastest peer"], lines) if lines else ""


def sparse_table(results, shape):
    sparse = {key: rows for key, rows in results.rows[shape].items() if key != Results.DENSE}
    names = [name for name in results.names() if any(name in rows for rows in sparse.values())]
    lines = []
    for key in sorted(sparse, key=lambda key: (-key[0], key[1], -key[2])):
        (block, lists, density), rows = key, sparse[key]
        title = f"blocks of {block}, {lists} list{'s' if lists > 1 else ''}, {100 * density:g} %"
        cells = [title, *(rate(rows.get(name)) for name in names)]
        gained = results.speedup(shape, rows["lacuna"]) if "lacuna" in rows else None
        cells += [f"{gained[0]:.2f} x", f"{100 * gained[1]:.0f} %"] if gained else ["", ""]
        plan = rows.get("lacuna", {}).get("plan_us")
        cells.append(f"{plan:.0f} us" if plan is not None else "")
        lines.append(cells)
    if not lines:
        return ""
    fastest = results.fastest_dense(shape)
    against = fastest[0] if fastest else "no dense peer"
    header = [shape_title(shape) + ", TFLOP/s", *names, f"lacuna over {against}", "of the ideal", "its schedule"]
    return table(header, lines)


def remarks(results):
    """What was not measured, and why, each reason once."""
    reasons = {}
    for event in results.events:
        if event["kind"] in ("absent", "wrong", "lost", "dropped"):
            reason = event.get("reason") or f"error {event['error']:.2e}, LSE error {event.get('lse_error')}"
            reasons.setdefault((event["kind"], event.get("row", "case"), reason), []).append(event["case"]["name"])
    lines = []
    for (kind, row, reason), names in reasons.items():
        which = names[0] if len(names) == 1 else f"{len(names)} cases, first {names[0]}"
        lines.append(f"- {kind}: {row}: {reason} ({which})")
    return "\n".join(lines) + "\n" if lines else ""


def conditions(results):
    lines = []
    for event in results.events:
        if event["kind"] == "run":
            facts = [f"{event.get('device')}, driver {event.get('driver')}", str(event.get("commit"))]
            facts += [f"{name} {event[name]}" for name in VERSIONS if event.get(name)]
            lines.append(", ".join(facts))
    clocks = [e["clocks"] for e in results.events if e["kind"] == "result" and e.get("clocks")]
    if clocks:
        low, high = min(c["sm_mhz"] for c in clocks), max(c["sm_mhz"] for c in clocks)
        watts = max(c["watts"] for c in clocks)
        lines.append(f"SM clock while timing: medians of {low:.0f} to {high:.0f} MHz; power up to {watts:.0f} W")
    return "\n".join(dict.fromkeys(lines)) + "\n" if lines else ""


def report(results):
    parts = [conditions(results), dense_table(results)]
    parts += [sparse_table(results, shape) for shape in results.shapes()]
    parts.append(remarks(results))
    return "\n".join(part for part in parts if part)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+")
    parser.add_argument("--plots", help="folder for PNG plots")
    options = parser.parse_args()
    results = Results(load(options.files))
    print(report(results), end="")
    if options.plots:
        try:
            import plots
        except ImportError as error:
            print(f"no plots: {error}", file=sys.stderr)
            return
        for path in plots.draw(results, options.plots):
            print(f"wrote {path}", file=sys.stderr)


if __name__ == "__main__":
    main()
