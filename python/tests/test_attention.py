import numpy
import pytest

import lacuna
from reference import check, to_bf16, visible


@pytest.mark.parametrize("dtype", ["f16", "bf16"])
@pytest.mark.parametrize("dim", [32, 64, 96, 128, 256])
def test_dtypes_and_head_dims(inputs, dtype, dim):
    given = inputs((2, 4, 70, dim), (2, 2, 90, dim), dtype)
    out, lse = lacuna.attention(*given.arrays, causal=True, return_lse=True, dtype=dtype)
    assert out.dtype == given.arrays[0].dtype and lse.dtype == numpy.float32 and lse.shape == (2, 4, 70)
    check(given.number(out), *given.values, visible(70, 90, True), dtype, lse)


@pytest.mark.parametrize("heads", [(1, 1), (6, 2), (5, 1), (8, 8)])
@pytest.mark.parametrize("lengths", [(1, 1), (1, 200), (64, 64), (65, 130), (130, 65), (33, 0)])
def test_shapes(inputs, heads, lengths):
    (q_heads, kv_heads), (q_len, kv_len) = heads, lengths
    given = inputs((1, q_heads, q_len, 64), (1, kv_heads, kv_len, 64))
    out, lse = lacuna.attention(*given.arrays, return_lse=True)
    check(out, *given.values, visible(q_len, kv_len), "f16", lse)


def test_nothing_to_do():
    q, k = numpy.zeros((0, 4, 8, 64), numpy.float16), numpy.zeros((0, 2, 8, 64), numpy.float16)
    assert lacuna.attention(q, k, k).shape == q.shape
    q = numpy.zeros((2, 4, 0, 64), numpy.float16)
    k = numpy.zeros((2, 2, 8, 64), numpy.float16)
    assert lacuna.attention(q, k, k, causal=True).shape == q.shape


@pytest.mark.parametrize("window", [(5, None), (0, 0), (40, 3), (None, 10)])
@pytest.mark.parametrize("causal", [False, True])
def test_windows(inputs, window, causal):
    given = inputs((1, 2, 80, 64), (1, 2, 100, 64))
    out, lse = lacuna.attention(*given.arrays, causal=causal, window=window, return_lse=True)
    check(out, *given.values, visible(80, 100, causal, window), "f16", lse)


def test_options(inputs):
    given = inputs((1, 4, 100, 64), (1, 2, 100, 64), "bf16")
    sink = numpy.array([-1.0, 0.0, 2.0, 5.0], numpy.float32)
    options = {"scale": 0.3, "softcap": 4.0, "sink": sink}
    seen = visible(100, 100, True)
    out, lse = lacuna.attention(*given.arrays, causal=True, dtype="bf16", return_lse=True, **options)
    check(given.number(out), *given.values, seen, "bf16", lse, **options)
    cut = lacuna.attention(*given.arrays, causal=True, dtype="bf16", splits=3, **options)
    check(given.number(cut), *given.values, seen, "bf16", **options)
    zero = lacuna.attention(*given.arrays, scale=0.0, dtype="bf16")
    check(given.number(zero), *given.values, True, "bf16", scale=0.0)


def test_rows_without_keys(inputs):
    given = inputs((1, 2, 64, 64), (1, 2, 64, 64))
    mask = numpy.zeros((2, 2), numpy.uint8)
    mask[1, 0] = 1
    plan = lacuna.Blocks(mask, 32, 32)
    out, lse = lacuna.attention(*given.arrays, plan=plan, return_lse=True)
    assert (out[:, :, :32] == 0).all() and numpy.isneginf(lse[:, :, :32]).all()
    assert numpy.isfinite(lse[:, :, 32:]).all()


def test_layouts_and_strides_need_no_copy(inputs):
    given = inputs((2, 4, 50, 64), (2, 2, 60, 64))
    seen = visible(50, 60, True)
    expected = lacuna.attention(*given.arrays, causal=True)
    check(expected, *given.values, seen, "f16")
    turned = [numpy.ascontiguousarray(array.swapaxes(1, 2)) for array in given.arrays]
    out = lacuna.attention(*turned, causal=True, layout="bshd")
    assert out.shape == (2, 50, 4, 64) and (out.swapaxes(1, 2) == expected).all()
    # Views of the same memory, as [batch, heads, seq, dim].
    assert (lacuna.attention(*(array.swapaxes(1, 2) for array in turned), causal=True) == expected).all()
    # A fused projection [tokens, (q, k, v) heads, dim], cut without a copy.
    fused = numpy.concatenate([given.arrays[0][:, :, :50], given.arrays[1][:, :, :50], given.arrays[2][:, :, :50]], 1)
    fused = numpy.ascontiguousarray(fused.swapaxes(1, 2)).swapaxes(1, 2)
    parts = fused[:, :4], fused[:, 4:6], fused[:, 6:]
    whole = [numpy.ascontiguousarray(part) for part in parts]
    assert (lacuna.attention(*parts) == lacuna.attention(*whole)).all()


def test_outputs_of_the_caller(inputs):
    given = inputs((1, 2, 40, 64), (1, 2, 40, 64))
    expected, expected_lse = lacuna.attention(*given.arrays, return_lse=True)
    room = numpy.full((1, 2, 40, 128), 7, numpy.float16)
    lse = numpy.zeros((1, 2, 40), numpy.float32)
    out = lacuna.attention(*given.arrays, out=room[..., :64], lse=lse)
    assert out.base is room and (out == expected).all() and (lse == expected_lse).all() and (room[..., 64:] == 7).all()
    out.flags.writeable = False
    with pytest.raises(lacuna.InvalidArgument, match="read-only"):
        lacuna.attention(*given.arrays, out=out)


def test_ml_dtypes(inputs):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    given = inputs((1, 2, 40, 64), (1, 2, 40, 64), "bf16")
    arrays = [array.view(ml_dtypes.bfloat16) for array in given.arrays]
    out = lacuna.attention(*arrays, causal=True)
    assert out.dtype == ml_dtypes.bfloat16
    assert (out.view(numpy.uint16) == lacuna.attention(*given.arrays, causal=True, dtype="bf16")).all()


@pytest.mark.parametrize("shared", [True, False])
def test_pages(inputs, shared):
    given = inputs((2, 4, 30, 64), (2, 2, 100, 64))
    page, pages = 16, 7
    random = numpy.random.default_rng(1)
    heads = 1 if shared else 2
    table = random.permutation(2 * heads * pages).reshape(2, heads, pages).astype(numpy.int32)
    pool = [numpy.full((2 * heads * pages, 2, page, 64), numpy.nan, numpy.float16) for _ in range(2)]
    for which, array in zip(pool, given.arrays[1:]):
        for b, h, t in numpy.ndindex(2, 2, 100):
            which[table[b, 0 if shared else h, t // page], h, t % page] = array[b, h, t]
    # The last page is not full: nobody may see what lies behind the last key.
    options = {"block_table": table[:, 0] if shared else table, "page_size": page, "kv_len": 100, "causal": True}
    expected = lacuna.attention(*given.arrays, causal=True)
    for which in pool:
        which[numpy.isnan(which)] = 3.0
    assert (lacuna.attention(given.arrays[0], *pool, **options) == expected).all()


def test_decode(inputs):
    given = inputs((3, 8, 2, 64), (3, 2, 150, 64), "bf16")
    lens = numpy.array([150, 7, 64], numpy.int32)
    out, lse = lacuna.decode(*given.arrays, kv_lens=lens, dtype="bf16", return_lse=True)
    for b, length in enumerate(lens):
        q, k, v = (values[b : b + 1] for values in given.values)
        k, v = k[:, :, :length], v[:, :, :length]
        check(given.number(out[b : b + 1]), q, k, v, visible(2, length, True), "bf16", lse[b : b + 1])
    plain = lacuna.decode(*given.arrays, dtype="bf16")
    check(given.number(plain), *given.values, visible(2, 150, True), "bf16")


def test_merge(inputs):
    given = inputs((2, 4, 20, 64), (2, 2, 90, 64))
    q, k, v = given.arrays
    parts = [lacuna.attention(q, k[:, :, cut], v[:, :, cut], return_lse=True) for cut in (slice(0, 40), slice(40, 90))]
    outs = numpy.stack([out for out, _ in parts]).astype(numpy.float32)
    logs = numpy.stack([lse for _, lse in parts])
    out, lse = numpy.empty_like(q), numpy.empty((2, 4, 20), numpy.float32)
    lacuna.merge(outs, logs, out=out, lse=lse)
    check(out, *given.values, True, "f16", lse)
    bits = numpy.empty(q.shape, numpy.uint16)
    lacuna.merge(outs, logs, out=bits, dtype="bf16")
    assert abs(to_bf16(out).astype(int) - bits.astype(int)).max() <= 1


def test_the_stream_counts_work(inputs):
    given = inputs((1, 2, 128, 64), (1, 2, 128, 64))
    stream = lacuna.Stream(lacuna.Device("simt"))
    lacuna.attention(*given.arrays, stream=stream)
    counters = stream.counters()
    assert counters["launches"] == 1 and counters["mma_macs"] == 2 * 2 * 128 * 128 * 64
    stream.synchronize()


def test_kernel_name():
    shape = lacuna.Shape(1, 4, 2, 128, 128, 64, "f16")
    assert lacuna.kernel_name(shape, causal=True, device="simt").endswith("_forward_d64_f16")
