"""The tensors of a case: enough sets of q, k, v that none is in the L2 cache when it is used again."""

from functools import cached_property

import torch

from block_masks import dense_pairs, random_mask, to_lists, visited_pairs

# Bytes that other sets bring through the cache before a set is used again, in L2 sizes.
L2_TURNOVER = 4
SEED = 20260419


class Inputs:
    def __init__(self, case, device, l2_bytes):
        self.case = case
        self.device = device
        torch.manual_seed(SEED)
        dims = [(1, heads, case.length, case.head_dim) for heads in (case.q_heads, case.kv_heads, case.kv_heads)]
        # q, k, v, and the output that a row writes, as large as q.
        set_bytes = 2 * case.length * case.head_dim * (2 * case.q_heads + 2 * case.kv_heads)
        count = max(2, -(-L2_TURNOVER * l2_bytes // set_bytes) + 1)
        self.sets = [
            tuple(torch.randn(shape, device=device, dtype=torch.bfloat16) for shape in dims) for _ in range(count)
        ]

    @cached_property
    def lists(self):
        """BlockLists of the plan; None for dense."""
        case = self.case
        if case.dense:
            return None
        blocks = case.length // case.block
        return to_lists(random_mask(case.lists, blocks, case.density, case.causal, SEED), case.block)

    @cached_property
    def pairs(self):
        """Visible (query, key) pairs of all query heads: the mask's own, not the density asked for."""
        case = self.case
        if case.dense:
            return case.q_heads * dense_pairs(case.length, case.causal)
        return int(visited_pairs(self.lists.mask, case.block, case.causal).sum()) * (case.q_heads // case.lists)

    @property
    def useful_flop(self):
        return 4 * self.pairs * self.case.head_dim

    def mask_of_heads(self, heads):
        """The block mask as a tensor [heads, query blocks, KV blocks]; `heads` a multiple of the lists."""
        mask = torch.from_numpy(self.lists.mask).to(self.device)
        return mask.repeat_interleave(heads // self.case.lists, dim=0)
