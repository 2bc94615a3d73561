"""What a row gives to be checked and timed."""

import time
from dataclasses import dataclass, field
from typing import Callable, Optional

import torch


@dataclass
class Call:
    """`run(i)`: attention of input set i, enqueued on the current stream; gives out [1, heads, len, dim]."""

    run: Callable
    info: dict = field(default_factory=dict)  # goes into the result as it is
    lse: Optional[Callable] = None  # `lse(i)` after `run(i)`: [1, heads, len], natural log


def wall_us(work, device):
    """Wall time of `work`, device included: what a peer's planning costs its caller."""
    synchronize(device)
    start = time.perf_counter()
    work()
    synchronize(device)
    return 1e6 * (time.perf_counter() - start)


def synchronize(device):
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
