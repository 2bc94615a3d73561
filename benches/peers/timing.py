"""Times the rows of a case in turn: one call of each, then the next round, so that clocks and heat are shared alike.

Each call takes the next input set, which other calls have pushed out of the L2 cache. A short kernel is held back
behind a spinning one until the host has queued it with both its events, so that no launch is timed.
"""

import torch

from cases import MAX_ROUNDS, MIN_ROUNDS, ROW_SECONDS, WARM_UP_CALLS
from percentiles import percentile, summary

HOLD_BACK_BELOW_MS = 3.0
HOLD_BACK_CYCLES = 1_000_000  # about half a millisecond


def one_call(run, at, hold_back):
    """Enqueues a call; gives its two events."""
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    if hold_back:
        torch.cuda._sleep(HOLD_BACK_CYCLES)
    start.record()
    run(at)
    end.record()
    return start, end


def warm_up(run, sets):
    """Milliseconds of a call, after the first ones."""
    samples = []
    for at in range(WARM_UP_CALLS + 1):
        start, end = one_call(run, at % sets, at > 0)
        end.synchronize()
        samples.append(start.elapsed_time(end))
    return percentile(sorted(samples[1:]), 50)


def time_rows(calls, sets, heartbeat):
    """`calls`: name -> run. Gives name -> summary in microseconds. `heartbeat()` is called once a round."""
    guess = {name: warm_up(run, sets) for name, run in calls.items()}
    rounds = int(len(guess) * ROW_SECONDS * 1e3 / max(sum(guess.values()), 1e-3))
    rounds = max(MIN_ROUNDS, min(MAX_ROUNDS, rounds))
    samples = {name: [] for name in calls}
    names = list(calls)
    turn = 0
    for number in range(rounds):
        first = number % len(names)  # nobody always runs after the same row
        pending = []
        for name in names[first:] + names[:first]:
            pending.append((name, one_call(calls[name], turn % sets, guess[name] < HOLD_BACK_BELOW_MS)))
            turn += 1
        for name, (start, end) in pending:
            end.synchronize()
            samples[name].append(1e3 * start.elapsed_time(end))
        heartbeat()
    return {name: summary(values) for name, values in samples.items()}
