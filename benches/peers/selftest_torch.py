#!/usr/bin/env python3
"""Checks of the harness with PyTorch on the CPU: lacuna's kernels run on the SIMT host, through the same ctypes calls.

    python3 selftest_torch.py --simt-archive target/.../liblacuna_simt.a [--flex]

--flex also compiles FlexAttention for the CPU, which takes a minute. The archive is in the build folder of the crate.
"""

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import redirect_stdout
from pathlib import Path

import torch

import flex_row
import reference
import rows
import timing
import worker
from cases import Case
from inputs import Inputs
from lacuna_kernels import HERE, HEADERS, LacunaError, first_file

L2_BYTES = 1 << 16
CASES = [
    Case(0, 64, 4, 2, 384, False),
    Case(0, 128, 4, 2, 384, True),
    Case(0, 128, 2, 2, 512, False, 0.5, 64, 2),
    Case(0, 128, 4, 2, 512, False, 0.5, 64, 2),
    Case(0, 128, 4, 2, 512, True, 0.5, 64, 4),
    Case(0, 64, 4, 4, 512, True, 0.25, 128, 4),
    Case(0, 64, 4, 2, 512, False, 0.25, 128, 1),
    Case(0, 128, 4, 2, 512, True, 0.5, 64, 1),
]
# The SIMT host's thread state is larger than what the loader keeps for libraries loaded late.
TUNABLE = "glibc.rtld.optional_static_tls=16384"


def simt_library(archive, folder):
    path = str(Path(folder, "liblacuna_simt_peers.so"))
    command = ["c++", "-shared", "-Wl,-u,lacuna_simt_kernels", archive, "-lpthread", "-o", path]
    subprocess.run(command, check=True)
    return path


def references():
    """The sampled reference is dense attention in f64, and a changed row or a missing block is far over the bound."""
    for case in CASES:
        inputs = Inputs(case, "cpu", L2_BYTES)
        q, k, v = (x[0].double() for x in inputs.sets[0])
        group = case.q_heads // case.kv_heads
        k, v = k.repeat_interleave(group, dim=0), v.repeat_interleave(group, dim=0)
        scores = q @ k.transpose(1, 2) / case.head_dim**0.5
        seen = torch.ones(case.q_heads, case.length, case.length, dtype=torch.bool)
        if not case.dense:
            ones = torch.ones(case.block, case.block, dtype=torch.bool)
            seen = torch.stack([torch.kron(mask, ones) for mask in inputs.mask_of_heads(case.q_heads)])
        if case.causal:
            seen = seen & torch.ones(case.length, case.length, dtype=torch.bool).tril()
        assert int(seen.sum()) == inputs.pairs, case.name
        scores = scores.masked_fill(~seen, -torch.inf)
        out, lse = torch.softmax(scores, dim=2) @ v, torch.logsumexp(scores, dim=2)
        sampled = reference.sample_rows(case.length, case.block)
        expected = reference.reference(inputs, 0, sampled)
        assert reference.compare(out[None], sampled, expected[0]) < 1e-5, case.name
        assert reference.compare_lse(lse[None], sampled, expected[1]) < 1e-5, case.name
        rounded = out.bfloat16()
        assert reference.compare(rounded[None], sampled, expected[0]) < reference.ROW_ERROR, case.name
        rounded[0, sampled[3]] = rounded[0, sampled[4]]
        assert not reference.compare(rounded[None], sampled, expected[0]) <= reference.ROW_ERROR, case.name
        rounded[0, 5, 5] = torch.nan
        assert not reference.compare(rounded[None], sampled, expected[0]) <= reference.ROW_ERROR, case.name
        if not case.dense:
            inputs.lists.mask[0, -1] = ~inputs.lists.mask[0, -1]  # another last row of blocks
            other = reference.reference(inputs, 0, sampled)
            assert not reference.compare(out[None], sampled, other[0]) <= reference.ROW_ERROR, case.name


def lacuna(makers):
    """Both kernel families, dense and by lists, with GQA, through the library."""
    for case in CASES:
        inputs = Inputs(case, "cpu", L2_BYTES)
        sampled = reference.sample_rows(case.length, case.block)
        expected = reference.reference(inputs, 1, sampled)
        for name, family in (("lacuna", "sm90"), ("lacuna-portable", "sm80")):
            call = makers[name](case, inputs)
            assert call.info["kernel"].startswith(family), call.info
            out = call.run(1)
            error = reference.compare(out, sampled, expected[0])
            lse_error = reference.compare_lse(call.lse(1), sampled, expected[1])
            assert error <= reference.ROW_ERROR and lse_error <= reference.LSE_ERROR, (case.name, error, lse_error)
    try:
        case = Case(0, 48, 2, 2, 128, False)
        makers["lacuna"](case, Inputs(case, "cpu", L2_BYTES))
    except LacunaError as error:
        assert "head_dim 48" in str(error), error
    else:
        raise AssertionError("head_dim 48 was served")


def flex():
    """The BlockMask says what the lists say: FlexAttention compiled for the CPU follows it."""
    from torch.nn.attention.flex_attention import flex_attention

    for case in CASES[1:]:
        inputs = Inputs(case, "cpu", L2_BYTES)
        sampled = reference.sample_rows(case.length, case.block)
        expected = reference.reference(inputs, 0, sampled)
        q, k, v = inputs.sets[0]
        with torch.no_grad():
            compiled = torch.compile(flex_attention, dynamic=False)
            mask = flex_row.block_mask(inputs)
            out = compiled(q, k, v, block_mask=mask, enable_gqa=case.q_heads != case.kv_heads)
        assert reference.compare(out, sampled, expected[0]) <= reference.ROW_ERROR, case.name


def measured(makers):
    """A case from inputs to result lines; the clock is the host's here. A wrong row is named and not timed."""

    class HostEvent:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            self.at = time.perf_counter()

        def synchronize(self):
            pass

        def elapsed_time(self, end):
            return 1e3 * (end.at - self.at)

    class NoWatch:
        def summary(self, start):
            return None

    def wrong(case, inputs):
        call = makers["lacuna"](case, inputs)
        run = call.run
        call.run = lambda at: run(at) * 1.02
        return call

    def absent(case, inputs):
        raise RuntimeError("not here")

    torch.cuda.Event, torch.cuda._sleep, timing.MAX_ROUNDS = HostEvent, lambda cycles: None, 8
    every = {**makers, "wrong": wrong, "absent": absent}
    output = io.StringIO()
    with redirect_stdout(output):
        names = ["lacuna", "wrong", "absent", "lacuna-portable"]
        worker.measure(CASES[3], names, every, "cpu", L2_BYTES, NoWatch())
    events = [json.loads(line) for line in output.getvalue().splitlines()]
    kinds = {(event["kind"], event["row"]) for event in events if "row" in event}
    assert {("result", "lacuna"), ("result", "lacuna-portable"), ("wrong", "wrong"), ("absent", "absent")} <= kinds
    assert ("result", "wrong") not in kinds
    for event in events:
        if event["kind"] == "result":
            flop = 4 * event["pairs"] * CASES[3].head_dim
            assert abs(event["tflops"] / (flop / (event["us"]["median"] * 1e-6) * 1e-12) - 1) < 1e-9
            assert event["us"]["samples"] >= 6 and event["us"]["p10"] <= event["us"]["median"] <= event["us"]["p90"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simt-archive", required=True)
    parser.add_argument("--flex", action="store_true")
    options = parser.parse_args()
    if TUNABLE not in os.environ.get("GLIBC_TUNABLES", ""):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "GLIBC_TUNABLES": TUNABLE})
    with tempfile.TemporaryDirectory() as folder:
        makers, facts = rows.makers(simt_library(options.simt_archive, folder))
        assert facts["library"], facts
        checks = [references, lambda: lacuna(makers), lambda: measured(makers)] + ([flex] if options.flex else [])
        for check, name in zip(checks, ("references", "lacuna", "measured", "flex")):
            check()
            print(f"ok       {name}", flush=True)
    print("selftest_torch passed")


if __name__ == "__main__":
    main()
