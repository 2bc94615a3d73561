"""The process that measures: `peers.py` starts it, reads its events (JSON lines on standard output) and ends it if a
kernel does not come back.

Events: `start` (a row is about to run for the first time), `alive`, and the lines of the result file.
"""

import json
import sys
import time
import traceback

import torch

import gpu_state
import reference
import rows as row_module
import timing
from inputs import Inputs

STICKY = ("AcceleratorError", "illegal", "unspecified launch failure", "misaligned", "device-side assert")


def emit(kind, **fields):
    sys.stdout.write(json.dumps({"kind": kind, **fields}) + "\n")
    sys.stdout.flush()


def reason_of(error):
    text = f"{type(error).__name__}: {error}".strip()
    lines = [line for line in text.splitlines() if line.strip()]
    return " | ".join(lines[:3])[:400]


def poisoned(error):
    """Whether an error leaves the CUDA context unusable."""
    return any(word in f"{type(error).__name__}: {error}" for word in STICKY)


def prepare(case, name, make, inputs, sampled, expected):
    """Makes a row and compares it with the reference; gives the call, or None if it cannot or must not be timed."""
    emit("start", case=case.name, row=name)
    try:
        call = make(case, inputs)
        out = call.run(0)
        error = reference.compare(out, sampled, expected[0])
        lse_error = reference.compare_lse(call.lse(0), sampled, expected[1]) if call.lse else None
    except Exception as failure:
        if poisoned(failure):
            traceback.print_exc()
            raise SystemExit(3)  # the parent goes on without this row
        emit("absent", case=case.record(), row=name, reason=reason_of(failure))
        return None
    call.info["error"] = error
    if lse_error is not None:
        call.info["lse_error"] = lse_error
    # Written so that NaN is wrong.
    if not (error <= reference.ROW_ERROR and (lse_error is None or lse_error <= reference.LSE_ERROR)):
        emit("wrong", case=case.record(), row=name, **call.info)
        return None
    return call


def measure(case, names, makers, device, l2_bytes, watch):
    inputs = Inputs(case, device, l2_bytes)
    sampled = reference.sample_rows(case.length, case.block)
    expected = reference.reference(inputs, 0, sampled)
    calls = {}
    for name in names:
        call = prepare(case, name, makers[name], inputs, sampled, expected)
        if call:
            calls[name] = call
    if not calls:
        return
    emit("start", case=case.name, row="timing")
    started = time.monotonic()
    times = timing.time_rows({name: call.run for name, call in calls.items()}, len(inputs.sets), lambda: emit("alive"))
    clocks = watch.summary(started)
    for name, us in times.items():
        emit(
            "result",
            case=case.record(),
            row=name,
            us=us,
            tflops=inputs.useful_flop / us["median"] * 1e-6,
            pairs=inputs.pairs,
            sets=len(inputs.sets),
            clocks=clocks,
            **calls[name].info,
        )


def main(job):
    """`job`: {"cases": [(case, row names)], "library": path or None, "deadline": time.time()}."""
    torch.set_float32_matmul_precision("highest")
    device = "cuda:0"
    facts = gpu_state.facts()
    makers, library = row_module.makers(job["library"])
    emit("run", **facts, **library)
    watch = gpu_state.Watch()
    for case, names, estimate in job["cases"]:
        if time.time() + estimate > job["deadline"]:
            emit("dropped", case=case.record(), reason="out of time")
            continue
        emit("case", case=case.name)
        measure(case, names, makers, device, facts["l2_bytes"], watch)
        torch.cuda.empty_cache()
    emit("done")
