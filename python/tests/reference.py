"""Attention by definition, in float64, and how far a kernel may be from it."""

import numpy


def to_bf16(values):
    """The bits of bfloat16, rounded to nearest even."""
    bits = numpy.ascontiguousarray(values, numpy.float32).view(numpy.uint32).astype(numpy.uint64)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(numpy.uint16)


def from_bf16(bits):
    return (bits.astype(numpy.uint32) << 16).view(numpy.float32)


def rounded(values, dtype):
    """Values as the type holds them, in float64."""
    if dtype == "f16":
        return values.astype(numpy.float16).astype(numpy.float64)
    return from_bf16(to_bf16(values)).astype(numpy.float64)


def visible(q_len, kv_len, causal=False, window=(None, None)):
    """Which keys a query may see: [q_len, kv_len] of bool."""
    position, key = numpy.arange(q_len)[:, None] + kv_len - q_len, numpy.arange(kv_len)[None, :]
    seen = numpy.ones((q_len, kv_len), bool)
    left, right = window
    if causal:
        seen &= key <= position
    if left is not None:
        seen &= key >= position - left
    if right is not None:
        seen &= key <= position + right
    return seen


def by_tokens(blocks, q_len, kv_len, block_q=64, block_k=64, shift=0):
    """A mask of blocks [.., query blocks, key blocks] as one of tokens [.., q_len, kv_len]."""
    rows = (numpy.arange(q_len) + shift) // block_q
    return blocks.astype(bool)[..., rows[:, None], numpy.arange(kv_len)[None, :] // block_k]


def attention(q, k, v, seen, scale=None, softcap=None, sink=None, dtype=None):
    """(out, lse) in float64; `seen` broadcasts to [batch, q_heads, q_len, kv_len].

    With a dtype, probabilities and result are rounded to it: the ideal low-precision algorithm.
    """
    q, k, v = (values.astype(numpy.float64) for values in (q, k, v))
    group = q.shape[1] // k.shape[1]
    k, v = numpy.repeat(k, group, 1), numpy.repeat(v, group, 1)
    logits = q @ k.swapaxes(2, 3) * (q.shape[3] ** -0.5 if scale is None else scale)
    if softcap is not None:
        logits = softcap * numpy.tanh(logits / softcap)
    logits = numpy.where(seen, logits, -numpy.inf)
    highest = logits.max(3, initial=-numpy.inf)
    if sink is not None:
        highest = numpy.maximum(highest, sink[None, :, None])
    highest = numpy.where(numpy.isinf(highest), 0.0, highest)
    weights = numpy.exp(logits - highest[..., None])
    total = weights.sum(3)
    if sink is not None:
        total = total + numpy.exp(sink[None, :, None] - highest)
    with numpy.errstate(divide="ignore"):
        lse = numpy.log(total) + highest
    if dtype is not None:
        weights = rounded(weights, dtype)
    out = weights @ v / numpy.where(total == 0, 1.0, total)[..., None]
    return (out if dtype is None else rounded(out, dtype)), lse


def check(out, q, k, v, seen, dtype, lse=None, **options):
    """A result against the definition: at most twice the error of the ideal low-precision algorithm, or an ulp."""
    exact, exact_lse = attention(q, k, v, seen, **options)
    ideal, _ = attention(q, k, v, seen, dtype=dtype, **options)
    out = numpy.asarray(out, numpy.float64)
    assert out.shape == exact.shape
    assert numpy.isfinite(out).all()
    size = max(numpy.linalg.norm(exact), 1e-30)
    ulp = 2.0**-10 if dtype == "f16" else 2.0**-7
    bound = max(2 * numpy.linalg.norm(ideal - exact) / size, ulp)
    error = numpy.linalg.norm(out - exact) / size
    assert error <= bound, f"relative error {error:.2e}, at most {bound:.2e}"
    if lse is not None:
        lse = numpy.asarray(lse, numpy.float64)
        assert (numpy.isneginf(lse) == numpy.isneginf(exact_lse)).all()
        finite = numpy.isfinite(exact_lse)
        lse, exact_lse = lse[finite], exact_lse[finite]
        assert (abs(lse - exact_lse) <= 1e-4 * numpy.maximum(1, abs(exact_lse))).all()
