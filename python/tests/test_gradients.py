"""Gradients against torch's own, in float64."""

import numpy
import pytest

import lacuna
from reference import by_tokens

torch = pytest.importorskip("torch")


def tensors(heads, lens, dim, dtype, seed=0):
    generator = torch.Generator().manual_seed(seed)
    (q_heads, kv_heads), (q_len, kv_len) = heads, lens
    dims = [(2, q_heads, q_len, dim), (2, kv_heads, kv_len, dim), (2, kv_heads, kv_len, dim), (2, q_heads, q_len, dim)]
    return [torch.randn(d, generator=generator).to(dtype) for d in dims]


def exact(q, k, v, dout, mask, dlse=None, sink=None):
    """dq, dk, dv (and dsink) by torch in float64."""
    given = [x.detach().double().requires_grad_() for x in (q, k, v)]
    q, k, v = given
    group = q.shape[1] // k.shape[1]
    logits = q @ k.repeat_interleave(group, 1).transpose(2, 3) * q.shape[3] ** -0.5
    logits = logits.masked_fill(~mask, -torch.inf)
    if sink is not None:
        sink = sink.detach().double().requires_grad_()
        given.append(sink)
        column = sink[None, :, None, None].expand(*logits.shape[:3], 1)
        logits = torch.cat([logits, column], 3)
    p = logits.softmax(3)[..., : k.shape[2]]
    loss = (p @ v.repeat_interleave(group, 1) * dout.double()).sum()
    if dlse is not None:
        loss = loss + (logits.logsumexp(3) * dlse.double()).sum()
    loss.backward()
    return [x.grad for x in given]


def check(got, expected, dtype):
    """Five roundings: P, dS, out, delta and the result."""
    for name, a, b in zip(("dq", "dk", "dv", "dsink"), got, expected, strict=False):
        error = ((a.double() - b).norm() / b.norm()).item()
        assert error <= 2.5 * torch.finfo(dtype).eps, f"{name}: {error:.2e}"


def causal_mask(q_len, kv_len):
    return torch.ones(q_len, kv_len, dtype=torch.bool).tril(kv_len - q_len)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("heads", [(4, 4), (6, 2), (4, 1)])
@pytest.mark.parametrize("lens", [(96, 96), (50, 130)])
def test_causal(dtype, heads, lens):
    q, k, v, dout = tensors(heads, lens, 64, dtype)
    for x in (q, k, v):
        x.requires_grad_()
    out, lse = lacuna.attention(q, k, v, causal=True, return_lse=True)
    dlse = torch.randn(lse.shape)
    ((out * dout).sum() + (lse * dlse).sum()).backward()
    check([x.grad for x in (q, k, v)], exact(q, k, v, dout, causal_mask(*lens), dlse), dtype)


@pytest.mark.parametrize("layout", ["bhsd", "bshd"])
def test_blocks_and_s2(layout):
    q, k, v, dout = tensors((4, 2), (150, 150), 32, torch.bfloat16)
    blocks = torch.rand(2, 4, 10, 10, generator=torch.Generator().manual_seed(3)) < 0.4
    blocks |= torch.eye(10, dtype=torch.bool)
    s2 = lacuna.S2(block_size=16, local_blocks=2, vertical_stride=3)
    shape = lacuna.Shape(2, 4, 2, 150, 150, 32, "bf16")
    pattern = numpy.repeat(s2.block_mask(shape, causal=True), 2, 1)
    for plan, mask in ((lacuna.Blocks(blocks, 16, 16), blocks.numpy()), (s2, pattern)):
        seen = torch.from_numpy(by_tokens(mask, 150, 150, 16, 16)) & causal_mask(150, 150)
        swap = (lambda x: x) if layout == "bhsd" else (lambda x: x.transpose(1, 2))
        given = [swap(x).clone().requires_grad_() for x in (q, k, v)]
        out = lacuna.attention(*given, plan=plan, causal=True, layout=layout)
        out.backward(swap(dout))
        check([swap(x.grad) for x in given], exact(q, k, v, dout, seen), torch.bfloat16)


def test_sink():
    q, k, v, dout = tensors((4, 2), (70, 70), 64, torch.float16)
    sink = torch.tensor([0.5, -1.0, 2.0, 0.0], requires_grad=True)
    out = lacuna.attention(q, k, v, causal=True, sink=sink)
    (out * dout).sum().backward()
    check([sink.grad], [exact(q, k, v, dout, causal_mask(70, 70), sink=sink)[3]], torch.float16)


def test_hyper_with_one_block_is_dense():
    q, k, v, dout = tensors((4, 2), (100, 100), 32, torch.bfloat16)
    given = [x.clone().requires_grad_() for x in (q, k, v)]
    hyper = lacuna.Hyper(block_size=128, sample_size=16, min_seq_len=1)
    lacuna.attention(*given, plan=hyper).backward(dout)
    full = torch.ones(100, 100, dtype=torch.bool)
    check([x.grad for x in given], exact(q, k, v, dout, full), torch.bfloat16)
    # Short calls are exact.
    given = [x.clone().requires_grad_() for x in (q, k, v)]
    lacuna.attention(*given, plan=lacuna.Hyper(), causal=True).backward(dout)
    check([x.grad for x in given], exact(q, k, v, dout, causal_mask(100, 100)), torch.bfloat16)


def test_gradients_of_sums_and_of_the_lse_alone():
    q, k, v, dout = tensors((2, 1), (40, 40), 32, torch.float16)
    q.requires_grad_()
    lacuna.attention(q, k, v).sum().backward()
    full = torch.ones(40, 40, dtype=torch.bool)
    check([q.grad], exact(q, k, v, torch.ones_like(dout), full), torch.float16)
    q.grad = None
    _, lse = lacuna.attention(q, k, v, return_lse=True)
    lse.sum().backward()
    check([q.grad], exact(q, k, v, torch.zeros_like(dout), full, torch.ones_like(lse))[:1], torch.float16)


def test_what_has_no_gradient():
    q, k, v, _ = tensors((2, 1), (40, 40), 32, torch.float16)
    q.requires_grad_()
    with pytest.raises(lacuna.Unsupported, match="kv_lens"):
        lacuna.attention(q, k, v, kv_lens=torch.tensor([40, 40], dtype=torch.int32))
    with pytest.raises(lacuna.Unsupported, match="splits"):
        lacuna.attention(q, k, v, splits=2)
