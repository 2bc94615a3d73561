import numpy
import pytest

import lacuna
from reference import by_tokens, check, from_bf16, to_bf16, visible

HEADS, KV_HEADS, DIM, GATE, BLOCK = 4, 2, 64, 32, 16


def pooled(tokens, names=("max", "min", "avg")):
    """[batch, heads, tokens, dim] -> [batch, heads, blocks, pools * dim]."""
    blocks = [tokens[:, :, start : start + BLOCK] for start in range(0, tokens.shape[2], BLOCK)]
    pools = {"max": numpy.max, "min": numpy.min, "avg": numpy.mean}
    return numpy.stack([numpy.concatenate([pools[name](block, 2) for name in names], -1) for block in blocks], 2)


def rotated(vectors, positions, theta):
    half = vectors.shape[-1] // 2
    angles = positions[:, None] * theta ** (-2.0 * numpy.arange(half) / (2 * half))
    cosine, sine = numpy.cos(angles), numpy.sin(angles)
    low, high = vectors[..., :half], vectors[..., half:]
    return numpy.concatenate([low * cosine - high * sine, high * cosine + low * sine], -1)


def softmax(logits):
    weights = numpy.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


@pytest.fixture
def weights():
    random = numpy.random.default_rng(3)
    draw = lambda *dims: to_bf16(random.standard_normal(dims).astype(numpy.float32) * dims[-2] ** -0.5)
    return {"w_k": draw(HEADS, 3 * DIM, GATE), "w_q": draw(HEADS, DIM, GATE)}


def make_gate(weights, **settings):
    sizes = {"q_heads": HEADS, "kv_heads": KV_HEADS, "head_dim": DIM, "max_len": 512, "block_size": BLOCK}
    return lacuna.SeerGate(**weights, dtype="bf16", **sizes, **settings)


def test_prefill_gate(inputs, weights):
    length, theta = 150, 500.0
    given = inputs((2, HEADS, length, DIM), (2, KV_HEADS, length, DIM), "bf16")
    gate_q, gate_k, v = given.arrays
    w_k, w_q = (from_bf16(weights[name]).astype(numpy.float64) for name in ("w_k", "w_q"))
    positions = BLOCK * numpy.arange(-(-length // BLOCK))
    q_gate = rotated(pooled(given.values[0], ("avg",)) @ w_q, positions, theta)
    k_gate = rotated(numpy.repeat(pooled(given.values[1]), 2, 1) @ w_k, positions, theta)
    row, column = numpy.indices((len(positions),) * 2)
    chance = softmax(numpy.where(column <= row, q_gate @ k_gate.swapaxes(2, 3) / GATE**0.5, -numpy.inf))

    gate = make_gate(weights, rope_theta=theta)
    shape = lacuna.Shape(2, HEADS, KV_HEADS, length, length, DIM, "bf16")
    plan = gate.plan(gate_q, gate_k, threshold=0.12, last_rows_dense=1)
    kept = plan.block_mask(shape, causal=True).astype(bool)
    wanted = (chance > 0.12) | (row == column) | ((row == row.max()) & (column <= row))
    sure = abs(chance - 0.12) > 1e-4
    assert (kept == wanted)[sure].all() and sure.mean() > 0.99 and 0.1 < kept.mean() < 0.5
    assert plan.overflow() == 0
    out, lse = lacuna.attention(gate_q, gate_k, v, plan=plan, causal=True, dtype="bf16", return_lse=True)
    seen = by_tokens(kept, length, length, BLOCK, BLOCK) & visible(length, length, True)
    check(from_bf16(out), *given.values, seen, "bf16", lse)

    best = gate.plan(gate_q, gate_k, blocks=3, last_rows_dense=0, force_diagonal=False)
    counts = best.block_mask(shape, causal=True).sum(3)
    assert (counts == numpy.minimum(numpy.arange(len(positions)) + 1, 3)).all()
    shared = gate.plan(gate_q, gate_k, top_p=0.5, share_heads=True)
    assert shared.block_mask(shape, causal=True).shape[1] == KV_HEADS
    small = gate.plan(gate_q, gate_k, threshold=0.0, capacity=100)
    fits = small.block_mask(shape, causal=True).sum()
    assert 0 < fits <= 100 and small.overflow() == 2 * HEADS * 55 - fits


def test_chunks_with_a_cache(inputs, weights):
    given = inputs((1, HEADS, 150, DIM), (1, KV_HEADS, 150, DIM), "bf16")
    gate_q, gate_k, _ = given.arrays
    gate = make_gate(weights)
    cache = gate.cache(1, 150)
    for start, end in ((0, 50), (50, 51), (51, 150)):
        gate.append(cache, gate_k[:, :, start:end], start)
    shape = lacuna.Shape(1, HEADS, KV_HEADS, 150, 150, DIM, "bf16")
    whole = gate.plan(gate_q, gate_k, density=0.5).block_mask(shape, causal=True)
    chunks = gate.plan(gate_q, cache=cache, kv_len=150, density=0.5).block_mask(shape, causal=True)
    assert (whole == chunks).all() and 0.2 < whole.mean() < 0.6


def test_decode_gate(inputs):
    random = numpy.random.default_rng(4)
    draw = lambda *dims: to_bf16(random.standard_normal(dims).astype(numpy.float32) * dims[-2] ** -0.5)
    w_q, w_k = draw(KV_HEADS, 2 * DIM, GATE), draw(KV_HEADS, 3 * DIM, GATE)
    norm = random.random(GATE).astype(numpy.float32) + 0.5
    sizes = {"q_heads": HEADS, "kv_heads": KV_HEADS, "head_dim": DIM, "max_len": 512, "block_size": BLOCK}
    gate = lacuna.DecodeGate(w_q, w_k, norm, norm, dtype="bf16", **sizes)
    given = inputs((2, HEADS, 1, DIM), (2, KV_HEADS, 200, DIM), "bf16")
    gate_q, gate_k, v = given.arrays
    lens = numpy.array([200, 117], numpy.int32)
    cache = gate.cache(2, 208)
    gate.append(cache, gate_k, starts=numpy.zeros(2, numpy.int32), lens=lens)
    plan = gate.plan(gate_q, cache, 200, kv_lens=lens, blocks=3)
    out = lacuna.decode(gate_q, gate_k, v, plan=plan, kv_lens=lens, dtype="bf16")

    def normed(x):
        return x / numpy.sqrt((x * x).mean(-1, keepdims=True) + 1e-6) * norm

    for b, length in enumerate(lens):
        keys = pooled(given.values[1][b : b + 1, :, :length]) @ from_bf16(w_k)
        keys = rotated(normed(keys), BLOCK * numpy.arange(keys.shape[2]), 10000.0)[0]
        query = given.values[0][b].reshape(KV_HEADS, 1, 2 * DIM) @ from_bf16(w_q)
        query = rotated(normed(query), numpy.array([length - 1]), 10000.0)
        current = (length - 1) // BLOCK
        logits = (query @ keys.swapaxes(1, 2))[:, 0, :current]
        seen = numpy.zeros((HEADS, 1, length), bool)
        for head in range(HEADS):
            for block in (*numpy.argsort(-logits[head // 2])[:3], current):
                seen[head, 0, block * BLOCK : (block + 1) * BLOCK] = True
        q, k, v_values = (values[b : b + 1, :, :length] for values in given.values)
        check(from_bf16(out[b : b + 1]), q, k, v_values, seen, "bf16")


def test_what_gates_refuse(inputs, weights):
    given = inputs((1, HEADS, 32, DIM), (1, KV_HEADS, 32, DIM), "bf16")
    gate_q, gate_k, _ = given.arrays
    gate = make_gate(weights)
    for bad, text in [
        ({}, "one of threshold"),
        ({"blocks": 1, "top_p": 0.5}, "one of threshold"),
        ({"blocks": 0}, "at least 1"),
        ({"top_p": 1.5}, "top_p"),
        ({"threshold": float("nan")}, "finite"),
        ({"blocks": 1.5}, "integer"),
    ]:
        with pytest.raises(lacuna.InvalidArgument, match=text):
            gate.plan(gate_q, gate_k, **bad)
    with pytest.raises(lacuna.InvalidArgument, match="either"):
        gate.plan(gate_q, blocks=1)
    with pytest.raises(lacuna.InvalidArgument, match="max_len"):
        gate.cache(1, 10_000)
    with pytest.raises(lacuna.InvalidArgument, match="pool"):
        make_gate(weights, k_pool=("max", "max"))
    with pytest.raises(lacuna.InvalidArgument, match="w_k"):
        make_gate({**weights, "w_k": weights["w_k"][:, :-1]})
    plan = gate.plan(gate_q, gate_k, blocks=1)
    other = inputs((1, HEADS, 48, DIM), (1, KV_HEADS, 48, DIM), "bf16")
    with pytest.raises(lacuna.InvalidArgument, match="plan"):
        lacuna.attention(*other.arrays, plan=plan, causal=True, dtype="bf16")
