import numpy
import pytest

import lacuna
from reference import by_tokens, check, visible


@pytest.mark.parametrize("heads", [1, 2, 4])
@pytest.mark.parametrize("blocks", [(16, 16), (32, 64), (64, 16), (128, 128)])
@pytest.mark.parametrize("per_sequence", [False, True])
def test_block_masks(inputs, heads, blocks, per_sequence):
    (block_q, block_k), (q_len, kv_len) = blocks, (150, 170)
    given = inputs((2, 4, q_len, 64), (2, 2, kv_len, 64), seed=heads)
    random = numpy.random.default_rng(heads)
    dims = (2 if per_sequence else 1, heads, -(-q_len // block_q), -(-kv_len // block_k))
    mask = random.random(dims) < 0.4
    seen = by_tokens(numpy.repeat(mask, 4 // heads, 1), q_len, kv_len, block_q, block_k) & visible(q_len, kv_len, True)
    out, lse = lacuna.attention(*given.arrays, causal=True, plan=lacuna.Blocks(mask, block_q, block_k), return_lse=True)
    check(out, *given.values, seen, "f16", lse)


def test_lists_are_masks():
    mask = numpy.array([[1, 0, 0, 1], [0, 1, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1]], numpy.uint8)
    offsets = numpy.cumsum([0, *mask.sum(1).tolist()])
    lists = lacuna.BlockLists(offsets, numpy.nonzero(mask)[1], block_q=16, block_k=16)
    shape = lacuna.Shape(1, 2, 2, 64, 64, 64, "f16")
    for plan in (lists, lacuna.Blocks(mask, 16, 16), lacuna.Blocks(mask.tolist(), 16, 16)):
        assert (plan.block_mask(shape)[0, 0] == mask).all()
        assert plan.visited_pairs(shape) == 2 * mask.sum() * 256
    assert lists.visited_pairs(shape, causal=True) < lists.visited_pairs(shape)


def test_lists_attend(inputs):
    given = inputs((1, 2, 64, 64), (1, 2, 64, 64))
    offsets, indices = [0, 1, 3, 4, 5, 5, 6, 8, 9], [0, 0, 1, 2, 3, 1, 0, 3, 2]
    plan = lacuna.BlockLists(offsets, indices, heads=2, block_q=16, block_k=16)
    out = lacuna.attention(*given.arrays, plan=plan)
    mask = numpy.zeros((2, 4, 4), bool)
    for row in range(8):
        mask[row // 4, row % 4, indices[offsets[row] : offsets[row + 1]]] = True
    check(out, *given.values, by_tokens(mask, 64, 64, 16, 16), "f16")


@pytest.mark.parametrize("local, sinks", [(1, 0), (2, 1), (0, 1)])
@pytest.mark.parametrize("lengths", [(200, 200), (50, 200)])
def test_windows_of_blocks(inputs, local, sinks, lengths):
    q_len, kv_len = lengths
    given = inputs((1, 2, q_len, 64), (1, 1, kv_len, 64))
    position = (numpy.arange(q_len)[:, None] + kv_len - q_len) // 32
    block = numpy.arange(kv_len)[None, :] // 32
    seen = ((position - block < local) & (block <= position)) | (block < sinks)
    out, lse = lacuna.attention(
        *given.arrays, causal=True, plan=lacuna.Window(local, sinks, block_size=32), return_lse=True
    )
    check(out, *given.values, seen & visible(q_len, kv_len, True), "f16", lse)


@pytest.mark.parametrize("variant", ["dkernel", "phi3"])
def test_s2(inputs, variant):
    heads, kv_heads, length, block = 4, 2, 260, 16
    given = inputs((1, heads, length, 64), (1, kv_heads, length, 64))
    plan = lacuna.S2(block_size=block, local_blocks=2, vertical_stride=3, variant=variant, sink_blocks=1)
    i, j = numpy.arange(length)[:, None] // block, numpy.arange(length)[None, :] // block
    seen = numpy.zeros((heads, length, length), bool)
    for head in range(heads):
        shift = head * kv_heads // heads if variant == "dkernel" else head + 1
        seen[head] = (i - j < 2) | (j < 1) | ((j + shift) % 3 == 0)
    seen &= visible(length, length, True)
    out, lse = lacuna.attention(*given.arrays, causal=True, plan=plan, return_lse=True)
    check(out, *given.values, seen, "f16", lse)
    shape = lacuna.Shape(1, heads, kv_heads, length, length, 64, "f16")
    assert plan.visited_pairs(shape, causal=True) == seen.sum()
    one = lacuna.decode(given.arrays[0][:, :, -1:], *given.arrays[1:], plan=plan)
    check(one, given.values[0][:, :, -1:], *given.values[1:], seen[:, -1:], "f16")


def test_a_planner_serves_many_shapes_and_forgets_old_ones(inputs):
    plan = lacuna.S2(block_size=16, local_blocks=1, vertical_stride=2)
    for length in (*range(1, 80, 2), 5):
        given = inputs((1, 2, length, 64), (1, 2, length, 64))
        out = lacuna.attention(*given.arrays, causal=True, plan=plan)
        i, j = numpy.arange(length)[:, None] // 16, numpy.arange(length)[None, :] // 16
        heads = numpy.arange(2)[:, None, None]
        check(out, *given.values, ((i == j) | ((j + heads) % 2 == 0)) & visible(length, length, True), "f16")


def test_hyper(inputs):
    given = inputs((1, 4, 200, 64), (1, 2, 200, 64), "bf16")
    q, k, v = given.arrays
    exact = lacuna.attention(q, k, v, dtype="bf16")
    # One block holds all keys, or the call is short: nothing is estimated.
    for plan in (lacuna.Hyper(block_size=256, sample_size=0, min_seq_len=0), lacuna.Hyper()):
        out, lse = lacuna.attention(q, k, v, plan=plan, dtype="bf16", return_lse=True)
        check(given.number(out), *given.values, True, "bf16", lse)
    plan = lacuna.Hyper(block_size=32, sample_size=64, min_seq_len=64, seed=5)
    first, again = (lacuna.attention(q, k, v, plan=plan, dtype="bf16") for _ in range(2))
    assert (first == again).all() and (first != exact).any()
    other = lacuna.Hyper(block_size=32, sample_size=64, min_seq_len=64, seed=6)
    assert (lacuna.attention(q, k, v, plan=other, dtype="bf16") != first).any()
    for sampling in ("distinct", "stratified"):
        settings = {"block_size": 32, "min_seq_len": 64, "seed": 5, "sampling": sampling}
        out = lacuna.attention(q, k, v, plan=lacuna.Hyper(**settings, sample_size=64), dtype="bf16")
        assert (out != first).any()
        # Every key once.
        out = lacuna.attention(q, k, v, plan=lacuna.Hyper(**settings, sample_size=200), dtype="bf16")
        check(given.number(out), *given.values, True, "bf16")
    by_values = lacuna.Hyper(block_size=32, sample_size=64, min_seq_len=64, seed=5, sampling="values")
    out = lacuna.attention(q, k, v, plan=by_values, dtype="bf16")
    assert (out != first).any() and (out == lacuna.attention(q, k, v, plan=by_values, dtype="bf16")).all()
    out = lacuna.attention(q, k, v, plan=lacuna.Hyper(block_size=32, min_seq_len=64, sinks=200), dtype="bf16")
    check(given.number(out), *given.values, True, "bf16")
    aligned = lacuna.Hyper(block_size=32, sample_size=64, min_seq_len=64, seed=5, align_windows=True)
    assert (lacuna.attention(q, k, v, plan=aligned, dtype="bf16") != first).any()
    several = lacuna.Hyper(block_size=32, sample_size=64, min_seq_len=64, seed=5, rounds=2)
    assert (lacuna.attention(q, k, v, plan=several, dtype="bf16") != first).any()
    # Exact pieces of 50 that reach 50 keys back, of 4: the first 100 queries attend all there is.
    local = lacuna.Hyper(block_size=16, sample_size=8, min_seq_len=50, local_window=50)
    out = given.number(lacuna.attention(q, k, v, plan=local, causal=True, dtype="bf16"))[:, :, :100]
    check(out, *(x[:, :, :100] for x in given.values), visible(100, 100, True), "bf16")
    with pytest.raises(lacuna.Unsupported, match="local_window"):
        lacuna.attention(q, k, v, plan=local, dtype="bf16")
    with pytest.raises(lacuna.InvalidArgument, match="sampling must be one of 'uniform', "):
        lacuna.Hyper(sampling="strata")
    causal = lacuna.attention(q, k, v, plan=plan, causal=True, dtype="bf16")
    check(
        given.number(causal[:, :, :64]),
        given.values[0][:, :, :64],
        *(x[:, :, :64] for x in given.values[1:]),
        visible(64, 64, True),
        "bf16",
    )


def test_hyper_with_projections_and_samples(inputs):
    """One bucket, one sample: the softmax over a query's own block and a key that stands for the others."""
    given = inputs((1, 1, 128, 64), (1, 1, 128, 64))
    projections, samples = numpy.zeros((64, 3), numpy.float32), numpy.full((1, 1, 1), 100, numpy.int32)
    settings = {"num_projections": 3, "block_size": 64, "sample_size": 1, "min_seq_len": 1}
    plan = lacuna.Hyper(**settings, projections=projections, samples=samples)
    out, lse = lacuna.attention(*given.arrays, plan=plan, return_lse=True)
    q, k, v = (values[0, 0] for values in given.values)
    logits = q @ k.T / 8
    # All codes are 0 and sorting is stable: blocks are those of the sequence. Sample 100 lies in the second.
    weights = numpy.exp(logits)
    seen = by_tokens(numpy.eye(2), 128, 128)
    weights = weights * seen
    weights[:64, 100] = numpy.exp(logits[:64, 100]) * 128
    assert abs(lse[0, 0] - numpy.log(weights.sum(1))).max() < 1e-4
    exact = weights @ v / weights.sum(1)[:, None]
    assert numpy.linalg.norm(out[0, 0] - exact) < 2e-3 * numpy.linalg.norm(exact)
