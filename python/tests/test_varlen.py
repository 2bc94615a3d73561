import numpy
import pytest

import lacuna
from reference import check, visible

Q_LENS, KV_LENS = [5, 0, 70, 1], [40, 9, 70, 130]


def starts(lens):
    return numpy.cumsum([0, *lens]).astype(numpy.int32)


def rows(values):
    """[1, heads, tokens, dim] -> [tokens, heads, dim]."""
    return numpy.ascontiguousarray(values[0].swapaxes(0, 1))


@pytest.mark.parametrize("lists", [False, True])
@pytest.mark.parametrize("keys", ["packed", "padded", "paged"])
def test_packed_sequences(inputs, keys, lists):
    q_starts, k_starts = starts(Q_LENS), starts(KV_LENS)
    given = inputs((1, 4, q_starts[-1] + 2, 64), (1, 2, k_starts[-1], 64))
    q, k, v = map(rows, given.arrays)
    options = {"max_seqlen_q": 70, "max_seqlen_k": 130, "causal": True, "return_lse": True}
    cuts = [slice(k_starts[b], k_starts[b + 1]) for b in range(4)]
    if keys == "packed":
        options["cu_seqlens_k"] = k_starts
    else:
        options["kv_lens"] = numpy.array(KV_LENS, numpy.int32)
        k, v = (
            numpy.stack([numpy.pad(x[cut], ((0, 144 - len(x[cut])), (0, 0), (0, 0))) for cut in cuts]) for x in (k, v)
        )
        if keys == "padded":
            k, v = k[:, :130], v[:, :130]
        else:
            k, v = (x.reshape(36, 16, 2, 64) for x in (k, v))
            options |= {"block_table": numpy.arange(36, dtype=numpy.int32).reshape(4, 9), "page_size": 16}
    mask = numpy.tri(5, 9, 4, dtype=int)
    mask[:, 2] = 0
    if lists:
        options["plan"] = lacuna.Blocks(mask, 16, 16)
    out, lse = lacuna.attention_varlen(q, k, v, q_starts, **options)
    assert out.shape == q.shape and lse.shape == (4, len(q))
    assert (out[q_starts[-1] :] == 0).all() and (lse[:, q_starts[-1] :] == 0).all()
    for b in range(4):
        cut = slice(q_starts[b], q_starts[b + 1])
        seen = visible(Q_LENS[b], KV_LENS[b], True)
        if lists:
            seen &= mask[numpy.arange(Q_LENS[b])[:, None] // 16, numpy.arange(KV_LENS[b])[None, :] // 16].astype(bool)
        values = given.values[0][:, :, cut], *(x[:, :, cuts[b]] for x in given.values[1:])
        check(out[cut].swapaxes(0, 1)[None], *values, seen, "f16", lse[None, :, cut])


def test_padded_keys_of_whole_batches(inputs):
    given = inputs((3, 4, 20, 64), (3, 2, 90, 64))
    lens = numpy.array([90, 20, 33], numpy.int32)
    out, lse = lacuna.attention(*given.arrays, causal=True, kv_lens=lens, return_lse=True)
    for b, length in enumerate(lens):
        q, k, v = (values[b : b + 1] for values in given.values)
        seen = visible(20, length, True)
        check(out[b : b + 1], q, k[:, :, :length], v[:, :, :length], seen, "f16", lse[b : b + 1])


def test_hostile_lengths(inputs):
    """Lengths are data: nothing leaves the tensors, whatever they are."""
    given = inputs((1, 2, 40, 64), (1, 2, 60, 64))
    q, k, v = map(rows, given.arrays)
    extremes = [-(2**31), -1, 0, 7, 39, 41, 2**31 - 1]
    random = numpy.random.default_rng(0)
    for _ in range(20):
        q_starts, k_starts = (random.choice(extremes, 4).astype(numpy.int32) for _ in range(2))
        lacuna.attention_varlen(q, k, v, q_starts, k_starts, max_seqlen_q=30, max_seqlen_k=50, causal=False)


def test_what_is_refused(inputs):
    given = inputs((1, 2, 40, 64), (1, 2, 60, 64))
    q, k, v = map(rows, given.arrays)
    s, t = starts([40]), starts([60])
    most = {"max_seqlen_q": 40, "max_seqlen_k": 60}
    for arguments, options, text in [
        ((q, k, v, s), most, "either"),
        ((q, k, v, s, t), {**most, "kv_lens": t[1:]}, "either"),
        ((given.arrays[0], k, v, s, t), most, r"q: expected \[tokens, heads, dim\]"),
        ((q, k, v, s, t[:1]), most, "cu_seqlens_k"),
        ((q, k, v, s[:0], t), most, "cu_seqlens_q"),
        ((q, k, v, s.astype(numpy.int64), t), most, "int64"),
        ((q, k, v, s, t), {**most, "max_seqlen_q": -1}, "q_len"),
        ((q, k, v, s, t), {**most, "plan": lacuna.Hyper()}, "HyperAttention"),
    ]:
        with pytest.raises(lacuna.InvalidArgument, match=text):
            lacuna.attention_varlen(*arguments, **options)
