"""Random block masks of a stated density, as the CSR lists that lacuna reads and as the dense masks that peers want.

numpy alone: the same seed gives the same mask on every machine.
"""

from dataclasses import dataclass

import numpy as np


@dataclass
class BlockLists:
    """`mask[list, query block, KV block]`, and the same as CSR; blocks are square and sequences whole blocks."""

    block: int
    mask: np.ndarray
    offsets: np.ndarray  # int32 [lists * query blocks + 1]
    indices: np.ndarray  # int32, ascending in a row

    @property
    def heads(self):
        return self.mask.shape[0]


def random_mask(lists, blocks, density, causal, seed):
    """In each row the diagonal block and random others, `round(density * visible)` in all and at least one.

    The same count in every row that sees equally many blocks: what top-k selection gives.
    """
    random = np.random.default_rng(seed)
    mask = np.zeros((lists, blocks, blocks), dtype=bool)
    visible = np.arange(1, blocks + 1) if causal else np.full(blocks, blocks)
    wanted = np.maximum(1, np.rint(density * visible).astype(np.int64))
    diagonal = np.arange(blocks)
    for plane in mask:
        rank = random.random((blocks, blocks))
        rank[diagonal, diagonal] = -1.0  # always the first choice
        if causal:
            rank[np.triu_indices(blocks, 1)] = 2.0  # never
        chosen = np.arange(blocks)[None, :] < wanted[:, None]
        np.put_along_axis(plane, np.argsort(rank, axis=1), chosen, axis=1)
    return mask


def to_lists(mask, block):
    counts = mask.sum(axis=2, dtype=np.int64).ravel()
    offsets = np.concatenate([[0], np.cumsum(counts)])
    if offsets[-1] >= 2**31:
        raise ValueError(f"{offsets[-1]} blocks do not fit 32-bit offsets")
    indices = np.flatnonzero(mask) % mask.shape[2]
    return BlockLists(block, mask, offsets.astype(np.int32), indices.astype(np.int32))


def visited_pairs(mask, block, causal):
    """Visible (query, key) pairs of each list: under a causal mask diagonal blocks count their lower triangle."""
    blocks = mask.sum(axis=(1, 2), dtype=np.int64)
    if not causal:
        return blocks * block * block
    diagonal = np.trace(mask, axis1=1, axis2=2).astype(np.int64)
    return (blocks - diagonal) * block * block + diagonal * (block * (block + 1) // 2)


def dense_pairs(length, causal):
    return length * (length + 1) // 2 if causal else length * length
