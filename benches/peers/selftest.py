#!/usr/bin/env python3
"""Checks of the harness that need no GPU: the standard library alone; numpy, a C compiler and the library where found.

    python3 selftest.py     what was skipped is said; selftest_torch.py goes further where PyTorch is installed
"""

import argparse
import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import cases
import peers
import serving
import tables
from c_structs import Header
from lacuna_kernels import HEADERS, LIBRARIES, Library, first_file
from percentiles import percentile, summary


class Skip(Exception):
    pass


def struct_layout():
    """Sizes, offsets and constants are those of the C compiler."""
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if compiler is None:
        raise Skip("no C compiler")
    path = first_file(HEADERS)
    header = Header(path)
    with tempfile.TemporaryDirectory() as folder:
        source, program = Path(folder, "layout.c"), Path(folder, "layout")
        source.write_text(header.layout_program(), encoding="utf-8")
        subprocess.run([compiler, f"-I{path.parent}", "-o", program, source], check=True)
        said = subprocess.run([program], capture_output=True, text=True, check=True).stdout
    assert said == header.layout(), f"the C compiler says\n{said}\nthe reader\n{header.layout()}"
    assert "lacuna_forward_params.counter" in said and "lacuna_kernel_table.last_error" in said


def library():
    """The bundle's library loads without a driver and has the header's ABI."""
    if not any(path.is_file() for path in LIBRARIES):
        raise Skip("no liblacuna_cuda.so: make gpu-bundle builds it")
    loaded = Library()
    assert loaded.machine == "cuda" and "90a" in loaded.architectures, (loaded.machine, loaded.architectures)


def all_cases():
    """Every case of the comparison is there once, and the dense case of a shape comes before its sparse ones."""
    found = cases.all_cases()
    names = [case.name for case in found]
    assert len(set(names)) == len(names)
    for head_dim in (64, 128):
        for length in ("8192", "32768", "131072"):
            for kind in ("full", "causal"):
                for heads, lists in (("32/32", 32), ("32/8", 8)):
                    shape = f"d{head_dim} h{heads} n{length} {kind}"
                    dense = names.index(f"{shape} dense")
                    for block in (64, 128):
                        for density in (50, 25, 10):
                            assert dense < names.index(f"{shape} b{block} l{lists} {density}%")
    assert [case.tier for case in found] == sorted(case.tier for case in found)
    for case in found:
        assert case.length % 128 == 0 and (case.dense or case.lists in (1, case.kv_heads, case.q_heads))
        assert serving.rows_of(case)[0] == "lacuna"
        assert case == cases.Case(**json.loads(json.dumps({k: v for k, v in case.record().items() if k != "name"})))


def budget():
    """Less time keeps less, and what is kept fits."""
    found = cases.all_cases()
    before = None
    for seconds in (0, 60, 300, 1e6):
        kept = {case.name for case, _, keep in cases.fits(found, serving.rows_of, seconds) if keep}
        used = sum(estimate for _, estimate, keep in cases.fits(found, serving.rows_of, seconds) if keep)
        assert used <= seconds and (before is None or len(kept) > len(before))
        before = kept
    assert len(before) == len(found)


def percentiles():
    assert [percentile([1, 2, 3, 4, 5], p) for p in (0, 10, 50, 90, 100)] == [1, 1.4, 3, 4.6, 5]
    assert percentile([7], 90) == 7
    assert summary([3, 1, 2]) == {"median": 2, "p10": 1.2, "p90": 2.8, "min": 1, "samples": 3}


def masks():
    """Counts, pairs and lists against loops over blocks and tokens."""
    try:
        import numpy
    except ImportError:
        raise Skip("no numpy") from None
    import block_masks

    blocks, block = 9, 4
    for causal in (False, True):
        for density in (1.0, 0.5, 0.1):
            mask = block_masks.random_mask(3, blocks, density, causal, 7)
            assert (mask == block_masks.random_mask(3, blocks, density, causal, 7)).all()
            lists = block_masks.to_lists(mask, block)
            pairs = [0, 0, 0]
            for head in range(3):
                for row in range(blocks):
                    at = head * blocks + row
                    named = list(lists.indices[lists.offsets[at] : lists.offsets[at + 1]])
                    assert named == [j for j in range(blocks) if mask[head, row, j]] and row in named
                    visible = row + 1 if causal else blocks
                    assert len(named) == max(1, round(density * visible)) and named[-1] < visible
                for query in range(blocks * block):
                    for key in range(blocks * block):
                        pairs[head] += mask[head, query // block, key // block] and (not causal or key <= query)
            assert list(block_masks.visited_pairs(mask, block, causal)) == pairs
            if density == 1.0:
                assert pairs[0] == block_masks.dense_pairs(blocks * block, causal)
    apart = block_masks.random_mask(2, 32, 0.5, False, 7)
    assert (apart[0] != apart[1]).any(), "lists are drawn separately"
    assert lists.offsets.dtype == lists.indices.dtype == numpy.int32


def result(case, row, us, pairs, **fields):
    flop = 4 * pairs * case.head_dim
    times = {"median": us, "p10": 0.98 * us, "p90": 1.01 * us, "min": us, "samples": 9}
    made = {"kind": "result", "case": case.record(), "row": row, "us": times, "pairs": pairs, **fields}
    return {**made, "tflops": flop / us * 1e-6}


def report():
    """Tables from made-up results: rates, ratios and remarks are what a calculator gives."""
    dense = cases.Case(0, 128, 32, 8, 8192, False)
    sparse = cases.Case(0, 128, 32, 8, 8192, False, 0.25, 64, 8)
    all_pairs = 32 * 8192 * 8192
    events = [
        result(dense, "lacuna", 2000.0, all_pairs),
        result(dense, "fa3", 1800.0, all_pairs),
        result(dense, "sdpa-flash", 4000.0, all_pairs),
        result(sparse, "lacuna", 999.0, all_pairs // 4),  # measured again below
        result(sparse, "lacuna", 600.0, all_pairs // 4, plan_us=12.0),
        {"kind": "absent", "case": sparse.record(), "row": "flashinfer", "reason": "ImportError: no"},
        {"kind": "wrong", "case": sparse.record(), "row": "flex", "error": 0.5, "lse_error": None},
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.jsonl")
        path.write_text("".join(json.dumps(event) + "\n" for event in events), encoding="utf-8")
        text = tables.report(tables.Results(tables.load([path])))
    for expected in (
        "| D128, 32/8 heads, 8192 tokens, full | 550 ±2 % | 611 ±2 % | 275 ±2 % | 0.90 (fa3) |",
        "| blocks of 64, 8 lists, 25 % | 458 ±2 % | 3.00 x | 75 % | 12 us |",
        "lacuna over fa3",
        "- absent: flashinfer: ImportError: no (d128 h32/8 n8192 full b64 l8 25%)",
        "- wrong: flex: error 5.00e-01",
    ):
        assert expected in text, f"{expected!r} is not in\n{text}"


# A worker that serves its cases, but hangs in one row, dies in another, and prints what is no event.
FAKE_WORKER = """
import json, sys, time
sys.path.insert(0, sys.argv[1])
from cases import Case
job = json.load(sys.stdin)
say = lambda kind, **fields: print(json.dumps({"kind": kind, **fields}), flush=True)
say("run", device="fake", driver="0")
for number, (case, rows, estimate) in enumerate(job["cases"]):
    case = Case(**case).record()
    name = case["name"]
    say("case", case=name)
    for row in rows:
        say("start", case=name, row=row)
        if row == "flex":
            print("a library prints", flush=True)
            time.sleep(60)
        if row == "fa3":
            sys.exit(3)
        say("result", case=case, row=row, us={"median": 1, "p10": 1, "p90": 1, "samples": 1}, tflops=1, pairs=1)
say("done")
"""


def supervision():
    """A row that hangs or dies is lost; the others of its case and all other cases are measured."""
    found = [case for case in cases.all_cases() if case.tier == 0 and case.dense][:3]
    with tempfile.TemporaryDirectory() as folder:
        out = str(Path(folder, "x.jsonl"))
        options = argparse.Namespace(seconds=50, out=out, without="", portable=False, library=None)
        run = peers.Run(options, found)
        run.command = [sys.executable, "-c", FAKE_WORKER, str(Path(peers.__file__).parent)]
        patience = peers.PATIENCE_OTHERS
        peers.PATIENCE_OTHERS = 2
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                assert run.work()
        finally:
            peers.PATIENCE_OTHERS = patience
        run.out.close()
        events = tables.load([options.out])
    lost = [(e["row"], e["reason"]) for e in events if e["kind"] == "lost"]
    assert [row for row, _ in lost] == ["fa3", "flex", "fa3", "flex"], lost
    assert "status 3" in lost[0][1] and "said nothing" in lost[1][1]
    for case in found:
        rows = {e["row"] for e in events if e["kind"] == "result" and e["case"]["name"] == case.name}
        assert rows == {"lacuna", "sdpa-cudnn", "sdpa-flash"}, (case.name, rows)
    assert all(e["device"] == "fake" and e["commit"] for e in events)


def dry_run():
    """The plan prints with nothing installed."""
    done = subprocess.run(
        [sys.executable, str(Path(peers.__file__)), "--dry-run", "--seconds", "120"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONNOUSERSITE": "1"},
    ).stdout
    assert "tier 0" in done and "do not fit" in done


def main():
    checks = [struct_layout, library, all_cases, budget, percentiles, masks, report, supervision, dry_run]
    for check in checks:
        try:
            check()
            print(f"ok       {check.__name__}")
        except Skip as reason:
            print(f"SKIPPED  {check.__name__}: {reason}")
    print("selftest passed")


if __name__ == "__main__":
    main()
