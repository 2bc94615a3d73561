"""Against torch's scaled_dot_product_attention with a mask."""

import pytest

import lacuna
from reference import by_tokens

torch = pytest.importorskip("torch")
DTYPES = [torch.float16, torch.bfloat16]


def tensors(q_dims, kv_dims, dtype, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(dims, generator=generator).to(dtype) for dims in (q_dims, kv_dims, kv_dims)]


def compare(out, q, k, v, mask, lse=None):
    """At most twice the error of torch's own low-precision result, but an ulp; both against float64."""
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    attend = torch.nn.functional.scaled_dot_product_attention
    exact = attend(q.double(), k.double(), v.double(), attn_mask=mask)
    low = attend(q, k, v, attn_mask=mask)
    size = exact.norm()
    bound = max(2 * (low.double() - exact).norm() / size, torch.finfo(q.dtype).eps)
    assert out.dtype == q.dtype and out.device == q.device
    assert (out.double() - exact).norm() / size <= bound
    if lse is not None:
        logits = (q.double() @ k.double().transpose(2, 3) * q.shape[3] ** -0.5).masked_fill(~mask, -torch.inf)
        assert torch.allclose(lse.double(), logits.logsumexp(3), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("heads", [(4, 4), (6, 2), (4, 1)])
@pytest.mark.parametrize("lengths", [(128, 128), (77, 200)])
def test_causal(dtype, heads, lengths):
    (q_heads, kv_heads), (q_len, kv_len) = heads, lengths
    q, k, v = tensors((2, q_heads, q_len, 64), (2, kv_heads, kv_len, 64), dtype)
    mask = torch.ones(q_len, kv_len, dtype=torch.bool).tril(kv_len - q_len)
    out, lse = lacuna.attention(q, k, v, causal=True, return_lse=True)
    assert lse.dtype == torch.float32 and lse.shape == q.shape[:3]
    compare(out, q, k, v, mask, lse)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("block", [16, 64])
def test_block_masks(dtype, block):
    q, k, v = tensors((2, 4, 200, 128), (2, 2, 200, 128), dtype)
    blocks = torch.rand(2, 4, -(-200 // block), -(-200 // block)) < 0.4
    blocks[..., 0] = True
    mask = torch.from_numpy(by_tokens(blocks.numpy(), 200, 200, block, block))
    out, lse = lacuna.attention(q, k, v, plan=lacuna.Blocks(blocks, block, block), return_lse=True)
    compare(out, q, k, v, mask, lse)


def test_tensors_are_used_in_place():
    """[batch, seq, heads, dim] as models have it, cut from a fused projection."""
    fused = torch.randn(2, 60, 8, 64).to(torch.bfloat16)
    q, k, v = (part.transpose(1, 2) for part in fused.split([4, 2, 2], dim=2))
    mask = torch.ones(60, 60, dtype=torch.bool).tril()
    compare(lacuna.attention(q, k, v, causal=True), q, k, v, mask)
    room = torch.zeros(2, 60, 4, 64, dtype=torch.bfloat16)
    out = lacuna.attention(*fused.split([4, 2, 2], dim=2), causal=True, layout="bshd", out=room)
    assert out is room
    compare(room.transpose(1, 2), q, k, v, mask)


def test_decode_and_numpy_agree():
    q, k, v = tensors((2, 8, 1, 64), (2, 2, 100, 64), torch.float16)
    out = lacuna.decode(q, k, v)
    assert (out.numpy() == lacuna.decode(q.numpy(), k.numpy(), v.numpy())).all()
    compare(out, q, k, v, torch.ones(1, 100, dtype=torch.bool))


def test_dlpack_of_torch():
    """The generic path, which torch tensors do not take by themselves."""

    class Plain:
        def __init__(self, tensor):
            self.tensor = tensor

        def __dlpack__(self, **arguments):
            return self.tensor.__dlpack__(**arguments)

        def __dlpack_device__(self):
            return self.tensor.__dlpack_device__()

    q, k, v = tensors((1, 2, 40, 64), (1, 2, 40, 64), torch.bfloat16)
    out = torch.empty_like(q)
    lacuna.attention(*map(Plain, (q, k, v)), out=Plain(out))
    assert torch.equal(out, lacuna.attention(q, k, v))


def test_what_torch_tensors_cannot_be():
    q, k, v = tensors((1, 2, 40, 64), (1, 2, 40, 64), torch.float16)
    with pytest.raises(lacuna.InvalidArgument, match="f32"):
        lacuna.attention(q.float(), k.float(), v.float())
    with pytest.raises(lacuna.InvalidArgument, match="meta"):
        lacuna.attention(q.to("meta"), k, v)
    with pytest.raises(lacuna.InvalidArgument, match="strided"):
        lacuna.attention(q.to_sparse(), k, v)
    with pytest.raises(lacuna.InvalidArgument, match="dtype of k must be f16, got bf16"):
        lacuna.attention(q, k.bfloat16(), v)


def test_no_graph_without_gradients():
    q, k, v = tensors((1, 2, 40, 64), (1, 2, 40, 64), torch.float16)
    q.requires_grad_()
    out, lse = lacuna.attention(q, k, v, return_lse=True)
    assert out.requires_grad and lse.requires_grad
    with torch.no_grad():
        assert not lacuna.attention(q, k, v).requires_grad
        assert torch.equal(lacuna.attention(q, k, v), out)
