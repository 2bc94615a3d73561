"""FlexAttention of PyTorch, compiled for each shape. Its block mask is made from the same block lists."""

import torch

from call import Call, wall_us


def block_mask(inputs):
    """The BlockMask of a case; None for dense attention without a mask."""
    from torch.nn.attention.flex_attention import BlockMask

    case = inputs.case
    if case.dense and not case.causal:
        return None
    block = case.block or 128
    if case.dense:
        blocks = case.length // block
        mask = torch.ones(1, blocks, blocks, dtype=torch.bool, device=inputs.device).tril()
    elif case.lists == 1:
        mask = inputs.mask_of_heads(1)
    else:
        mask = inputs.mask_of_heads(case.q_heads)
    # Blocks on the diagonal of a causal mask need it token by token; all others are whole.
    partial = torch.zeros_like(mask)
    if case.causal:
        partial = mask & torch.eye(mask.shape[1], dtype=torch.bool, device=inputs.device)
    return BlockMask.from_kv_blocks(
        *ordered(partial),
        *ordered(mask & ~partial),
        BLOCK_SIZE=(block, block),
        mask_mod=causal if case.causal else None,
    )


def causal(batch, head, query, key):
    return query >= key


def ordered(mask):
    """(counts [1, heads, rows], ids [1, heads, rows, blocks]), the ids of a row first, ascending."""
    counts = mask.sum(dim=2, dtype=torch.int32)
    ids = torch.argsort((~mask).to(torch.uint8), dim=2, stable=True).to(torch.int32)
    return counts[None], ids[None]


def make(case, inputs):
    from torch.nn.attention.flex_attention import flex_attention

    # Each shape is compiled for itself; the default allows 8.
    torch._dynamo.config.recompile_limit = torch._dynamo.config.accumulated_recompile_limit = 10_000
    masks = []
    plan_us = wall_us(lambda: masks.append(block_mask(inputs)), inputs.device)
    on_gpu = torch.device(inputs.device).type == "cuda"
    compiled = torch.compile(flex_attention, dynamic=False) if on_gpu else flex_attention
    # The default tile of 128 rows does not divide blocks of 64; half the rows, half the warps.
    options = {"BLOCK_M": 64, "BLOCK_N": 64, "num_warps": 4} if case.block == 64 else None
    group = case.q_heads != case.kv_heads

    def run(at):
        q, k, v = inputs.sets[at]
        return compiled(q, k, v, block_mask=masks[0], enable_gqa=group, kernel_options=options)

    return Call(run, {"plan_us": plan_us} if masks[0] is not None else {})
