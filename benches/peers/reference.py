"""Attention in float32 for a few query rows of every head, and the comparison with a row's output.

The relative error of a query row, |out - ref| / |ref|, is about 0.3 % in bf16: half an ulp is up to 0.4 % in P and in
the output, and errors of many keys average out. With random inputs a missing block among n moves a row by 1 / sqrt(n),
3 % for one in 1024. The bound lies between.
"""

import math
import random

import torch

ROW_ERROR = 0.01
LSE_ERROR = 1e-4  # times max(1, |LSE|)


def sample_rows(length, block, count=12):
    """Rows at the ends of the sequence and of blocks, and random ones."""
    step = block or 64
    rows = {0, step - 1, step, length // 2 - 1, length // 2, length - step, length - 1}
    chooser = random.Random(length)
    while len(rows) < count:
        rows.add(chooser.randrange(length))
    return sorted(rows)


def reference(inputs, at, rows):
    """(out [heads, rows, dim], lse [heads, rows]) in float32 for set `at`."""
    case = inputs.case
    q, k, v = inputs.sets[at]
    group = case.q_heads // case.kv_heads
    row = torch.tensor(rows, device=q.device)
    visible = torch.ones(len(rows), case.length, dtype=torch.bool, device=q.device)
    if case.causal:
        visible = torch.arange(case.length, device=q.device)[None, :] <= row[:, None]
    blocks = None if case.dense else inputs.mask_of_heads(case.q_heads)[:, row // case.block]
    outs, lses = [], []
    for kv_head in range(case.kv_heads):
        keys, values = k[0, kv_head].float(), v[0, kv_head].float()
        for head in range(kv_head * group, (kv_head + 1) * group):
            seen = visible if blocks is None else visible & blocks[head].repeat_interleave(case.block, dim=1)
            scores = (q[0, head, row].float() @ keys.T) / math.sqrt(case.head_dim)
            scores = scores.masked_fill(~seen, -math.inf)
            lse = torch.logsumexp(scores, dim=1)
            outs.append(torch.exp(scores - lse[:, None]) @ values)
            lses.append(lse)
    return torch.stack(outs), torch.stack(lses)


def compare(out, rows, expected):
    """The largest relative error of a sampled row; NaN if the output has anything that is not finite, anywhere."""
    if not bool(torch.isfinite(out).all()):
        return math.nan
    got = out[0][:, rows].float()
    return float(((got - expected).norm(dim=2) / expected.norm(dim=2)).max())


def compare_lse(lse, rows, expected):
    """The largest error of a sampled LSE in units of max(1, |LSE|)."""
    got = lse[0][:, rows].float()
    return float(((got - expected).abs() / expected.abs().clamp(min=1.0)).max())
