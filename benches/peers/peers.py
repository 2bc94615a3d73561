#!/usr/bin/env python3
"""lacuna and other attention kernels side by side on one GPU.

    python3 peers.py --seconds 540 --out peers.jsonl      measure; then: python3 tables.py peers.jsonl
    python3 peers.py --dry-run --seconds 540              the plan, on any machine

Needs PyTorch with CUDA. Everything else is taken where it can be imported, and named where not. The measuring is done
by a process of its own: a kernel that hangs or faults costs its row, not the run.
"""

import argparse
import dataclasses
import json
import queue
import subprocess
import sys
import threading
import time
from collections import Counter
from datetime import datetime, timezone

import cases as case_module
from lacuna_kernels import HERE
from serving import rows_of

# Seconds without a word from the worker until it is ended. FlashInfer compiles with nvcc, flex with Triton.
PATIENCE = {"lacuna": 60, "lacuna-portable": 60, "fa3": 60, "sdpa-flash": 60, "sdpa-cudnn": 60, "timing": 90}
PATIENCE_OTHERS = 300
STOP_AFTER_LOSSES = 2  # a row that was lost so often is left out of all other cases
FATAL_STARTS = 2


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=540, help="time for all of it; what does not fit is dropped")
    parser.add_argument("--out", default="peers.jsonl", help="results are appended to this file, a JSON line each")
    parser.add_argument("--library", help="liblacuna_cuda.so; default: the GPU bundle's")
    parser.add_argument("--only", default="", help="only cases whose name contains this, e.g. 'd128 h32/8'")
    parser.add_argument("--tiers", default="0123", help="importance of the cases to run, e.g. 01")
    parser.add_argument("--without", default="", help="rows to leave out, separated by commas")
    parser.add_argument("--portable", action="store_true", help="also time lacuna's portable kernel family")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and stop")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def commit():
    """What the library was built from: the bundle's ABOUT, else the checkout."""
    for about in (HERE.parent / "ABOUT", HERE.parents[1] / "gpu-bundle" / "ABOUT"):
        if about.is_file():
            return about.read_text(encoding="utf-8").splitlines()[0]
    command = ["git", "-C", str(HERE), "describe", "--always", "--dirty"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def print_plan(chosen, rows, seconds):
    total, dropped = 0.0, 0
    for case, estimate, kept in case_module.fits(chosen, rows, seconds):
        print(f"{'   ' if kept else '-- '}tier {case.tier}  {estimate:5.1f} s  {case.name:40}  {' '.join(rows(case))}")
        total += estimate if kept else 0.0
        dropped += not kept
    print(f"{len(chosen) - dropped} cases in about {total:.0f} s of {seconds:.0f}; {dropped} (marked --) do not fit")
    print("not counted: what FlashInfer compiles at its first use")


class Worker:
    """One measuring process."""

    def __init__(self, command, job):
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.process.stdin.write(json.dumps(job))
        self.process.stdin.close()
        self.lines = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.process.stdout:
            self.lines.put(line)
        self.lines.put(None)

    def next_line(self, patience):
        """A line; None at the end of the process; raises queue.Empty when it says nothing."""
        return self.lines.get(timeout=patience)

    def end(self):
        self.process.kill()
        return self.process.wait()


class Run:
    """All workers of one call of this program."""

    def __init__(self, options, chosen):
        self.options = options
        self.command = [sys.executable, str(HERE / "peers.py"), "--worker"]
        self.deadline = time.time() + options.seconds
        self.remaining = chosen
        self.losses = Counter()
        self.skipped = set()  # (case name, row)
        self.seen = set()
        self.facts = {"commit": commit(), "command": " ".join(sys.argv), "time": None}
        self.out = open(options.out, "a", encoding="utf-8")

    def rows(self, case):
        without = {row for row, count in self.losses.items() if count >= STOP_AFTER_LOSSES}
        without |= {row for name, row in self.skipped if name == case.name}
        without |= set(filter(None, self.options.without.split(",")))
        return rows_of(case, self.options.portable, without)

    def record(self, event):
        key = (event["kind"], event.get("case", {}).get("name"), event.get("row"))
        if key in self.seen and event["kind"] != "run":
            return  # a worker that was started again repeats what it cannot serve
        self.seen.add(key)
        if event["kind"] == "run":
            self.facts.update(device=event.get("device"), driver=event.get("driver"))
        self.facts["time"] = datetime.now(timezone.utc).isoformat(timespec="seconds")
        self.out.write(json.dumps({**self.facts, **event}) + "\n")
        self.out.flush()
        show(event, self.seen)

    def lost(self, current, reason):
        """The worker hung or died on `current`: what it must not try again."""
        case, row = current
        self.remaining = self.remaining[self.remaining.index(case) :]
        self.record({"kind": "lost", "case": case.record(), "row": row or "case", "reason": reason})
        if row in (None, "timing"):
            self.remaining = self.remaining[1:]
        else:
            self.skipped.add((case.name, row))
            self.losses[row] += 1

    def work(self):
        """Runs workers until nothing remains; gives whether anything was measured."""
        failed_starts = 0
        while self.remaining and time.time() < self.deadline and failed_starts < FATAL_STARTS:
            current = self._one_worker()
            failed_starts = failed_starts + 1 if current == (None, None) else 0
        for case in self.remaining:
            self.record({"kind": "dropped", "case": case.record(), "reason": "out of time"})
        return any(kind == "result" for kind, _, _ in self.seen)

    def _one_worker(self):
        plan, compiled = [], set()
        for case in self.remaining:
            rows = self.rows(case)
            plan.append((dataclasses.asdict(case), rows, case_module.estimated_seconds(case, rows, compiled)))
        worker = Worker(self.command, {"cases": plan, "library": self.options.library, "deadline": self.deadline})
        by_name = {case.name: case for case in self.remaining}
        current = (None, None)
        try:
            while True:
                patience = PATIENCE.get(current[1], PATIENCE_OTHERS)
                over = self.deadline + 30 - time.time()
                try:
                    line = worker.next_line(max(1.0, min(patience, over)))
                except queue.Empty:
                    if over < patience:
                        print("out of time: the case in progress is given up")
                        self.remaining = self.remaining[self.remaining.index(current[0]) :] if current[0] else []
                        return current
                    self._give_up(current, f"said nothing for {patience} s")
                    return current
                if line is None:
                    self._give_up(current, f"the process ended with status {worker.end()}")
                    return current
                event = parse(line)
                if event is None:
                    continue
                kind = event["kind"]
                if kind == "done":
                    self.remaining = []
                    return current
                if kind == "case":
                    current = (by_name[event["case"]], None)
                elif kind == "start":
                    current = (by_name[event["case"]], event["row"])
                elif kind != "alive":
                    self.record(event)
        finally:
            worker.end()

    def _give_up(self, current, reason):
        if current[0] is None:
            print(f"the worker did not get to any case: {reason}")
        else:
            self.lost(current, reason)


def parse(line):
    """An event, or None for what a library printed."""
    try:
        event = json.loads(line)
    except ValueError:
        event = None
    if isinstance(event, dict) and "kind" in event:
        return event
    print("  |", line.rstrip())
    return None


def show(event, seen):
    kind = event["kind"]
    if kind == "run":
        print(f"{event.get('device')}, driver {event.get('driver')}, torch {event.get('torch')}")
        print(f"lacuna: {event.get('library') or event.get('library_error')}")
        return
    name = f"{event['case']['name']:40} {event.get('row', ''):20}"
    if kind == "result":
        us = event["us"]
        spread = f"{us['p10']:.0f}..{us['p90']:.0f}"
        print(f"{name} {us['median']:10.1f} us ({spread}, {us['samples']})  {event['tflops']:6.1f} TFLOP/s")
    elif kind == "wrong":
        print(f"{name} WRONG: error {event['error']:.2e}, lse {event.get('lse_error')}")
    else:
        told = ("told", event.get("row"), event["reason"])
        if told not in seen:
            seen.add(told)
            print(f"{name} {kind}: {event['reason']}")


def main():
    options = arguments()
    if options.worker:
        import worker

        job = json.load(sys.stdin)
        job["cases"] = [(case_module.Case(**case), rows, estimate) for case, rows, estimate in job["cases"]]
        worker.main(job)
        return 0
    chosen = [c for c in case_module.all_cases() if str(c.tier) in options.tiers and options.only in c.name]
    if options.dry_run:
        without = options.without.split(",")
        print_plan(chosen, lambda case: rows_of(case, options.portable, without), options.seconds)
        return 0
    return 0 if Run(options, chosen).work() else 1


if __name__ == "__main__":
    sys.exit(main())
