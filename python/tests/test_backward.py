"""attention_backward with numpy arrays, against gradients written out here."""

import numpy
import pytest

import lacuna
from reference import from_bf16, to_bf16, visible


def by_definition(q, k, v, dout, dlse, seen):
    q, k, v, dout = (x.astype(numpy.float64) for x in (q, k, v, dout))
    group, scale = q.shape[1] // k.shape[1], q.shape[3] ** -0.5
    keys, values = numpy.repeat(k, group, 1), numpy.repeat(v, group, 1)
    logits = numpy.where(seen, q @ keys.swapaxes(2, 3) * scale, -numpy.inf)
    p = numpy.exp(logits - logits.max(3, keepdims=True))
    p /= p.sum(3, keepdims=True)
    dp = dout @ values.swapaxes(2, 3)
    ds = p * (dp - (p * dp).sum(3, keepdims=True) + dlse[..., None]) * scale
    of_group = (*k.shape[:2], group, *k.shape[2:])
    total = lambda x: x.reshape(of_group).sum(2)  # noqa: E731
    return ds @ keys, total(ds.swapaxes(2, 3) @ q), total(p.swapaxes(2, 3) @ dout)


@pytest.mark.parametrize("causal", [False, True])
def test_against_the_definition(causal):
    random = numpy.random.default_rng(5)
    draw = lambda heads, length: random.standard_normal((2, heads, length, 64)).astype(numpy.float16)  # noqa: E731
    q, k, v, dout = draw(4, 60), draw(2, 90), draw(2, 90), draw(4, 60)
    dlse = random.standard_normal((2, 4, 60)).astype(numpy.float32)
    out, lse = lacuna.attention(q, k, v, causal=causal, return_lse=True)
    got = lacuna.attention_backward(q, k, v, out, lse, dout, dlse=dlse, causal=causal)
    expected = by_definition(q, k, v, dout, dlse, visible(60, 90, causal))
    for name, a, b in zip(("dq", "dk", "dv"), got, expected, strict=True):
        assert a.dtype == numpy.float16 and a.shape == b.shape
        error = numpy.linalg.norm(a.astype(numpy.float64) - b) / numpy.linalg.norm(b)
        # Five roundings to 11 bits.
        assert error <= 2.5 * 2.0**-10, f"{name}: {error:.2e}"
    again = lacuna.attention_backward(q, k, v, out, lse, dout, dlse=dlse, causal=causal)
    assert all((a == b).all() for a, b in zip(got, again, strict=True))


def test_bits_of_bfloat16():
    random = numpy.random.default_rng(6)
    q, k, v, dout = (to_bf16(random.standard_normal((1, 2, 50, 32))) for _ in range(4))
    out, lse = lacuna.attention(q, k, v, dtype="bf16", return_lse=True)
    got = lacuna.attention_backward(q, k, v, out, lse, dout, dtype="bf16")
    expected = by_definition(*(from_bf16(x) for x in (q, k, v, dout)), numpy.zeros((1, 2, 50)), visible(50, 50))
    for a, b in zip(got, expected, strict=True):
        assert a.dtype == numpy.uint16
        assert numpy.linalg.norm(from_bf16(a) - b) <= 2.5 * 2.0**-7 * numpy.linalg.norm(b)


def test_errors():
    q, k, v = (numpy.zeros((1, heads, 20, 32), numpy.float16) for heads in (2, 1, 1))
    out, lse = lacuna.attention(q, k, v, return_lse=True)
    with pytest.raises(lacuna.InvalidArgument, match="dout"):
        lacuna.attention_backward(q, k, v, out, lse, out[:, :, :19])
    with pytest.raises(lacuna.InvalidArgument, match=r"lse: expected \[batch, q_heads, q_len\]"):
        lacuna.attention_backward(q, k, v, out, lse[..., None], out)
    with pytest.raises(lacuna.InvalidArgument, match="return_dsink"):
        lacuna.attention_backward(q, k, v, out, lse, out, return_dsink=True)
    with pytest.raises(lacuna.InvalidArgument, match="dtype of dout must be f16"):
        lacuna.attention_backward(q, k, v, out, lse, out.astype(numpy.float32))
