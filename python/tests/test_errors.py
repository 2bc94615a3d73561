import numpy
import pytest

import lacuna


def zeros(q=(1, 4, 64, 64), k=(1, 2, 64, 64), v=None, dtype=numpy.float16):
    return [numpy.zeros(dims, dtype) for dims in (q, k, v or k)]


REFUSED = {
    "f32": (zeros(dtype=numpy.float32), {}, "f16 or bf16, got f32"),
    "f64": (zeros(dtype=numpy.float64), {}, "float64"),
    "bits without a name": (zeros(dtype=numpy.uint16), {}, "uint16"),
    "swapped bytes": (zeros(dtype=">f2"), {}, "swapped"),
    "another dtype": (zeros(), {"dtype": "bf16"}, "dtype of q must be bf16"),
    "unknown dtype": (zeros(), {"dtype": "int4"}, "dtype must be one of"),
    "3 axes": (zeros(q=(4, 64, 64)), {}, r"q: expected \[batch, heads, seq, dim\]"),
    "heads": (zeros(q=(1, 3, 64, 64)), {}, "q_heads must be a multiple of kv_heads"),
    "lengths": (zeros(v=(1, 2, 63, 64)), {}, r"v: expected \[1, 2, 64, 64\], got \[1, 2, 63, 64\]"),
    "batches": (zeros(q=(2, 4, 64, 64)), {}, r"k: expected \[2, 2, 64, 64\]"),
    "more queries": (zeros(q=(1, 4, 65, 64)), {"causal": True}, "at most kv_len"),
    "negative window": (zeros(), {"window": (-1, None)}, "window_left must be at least 0"),
    "half a window": (zeros(), {"window": 5}, "window must be"),
    "broken window": (zeros(), {"window": (1.5, None)}, "integer"),
    "no split": (zeros(), {"splits": 0}, "splits must be at least 1"),
    "65 splits": (zeros(), {"splits": 65}, "splits"),
    "huge splits": (zeros(), {"splits": 1 << 40}, "32 bits"),
    "no softcap": (zeros(), {"softcap": 0.0}, "softcap"),
    "nan": (zeros(), {"scale": float("nan")}, "scale"),
    "family": (zeros(), {"family": "volta"}, "family must be one of"),
    "layout": (zeros(), {"layout": "hbsd"}, "layout"),
    "sink": (zeros(), {"sink": numpy.zeros(3, numpy.float32)}, "sink"),
    "half of the pages": (zeros(), {"page_size": 16}, "both or neither"),
    "kv_len": (zeros(), {"kv_len": 63}, "kv_len"),
    "no planner": (zeros(), {"plan": "dense"}, "plan: expected a planner"),
    "mask": (zeros(), {"plan": lacuna.Blocks([[1], [1]])}, r"mask: expected \[1, 1\]"),
    "mask heads": (zeros(), {"plan": lacuna.Blocks(numpy.ones((3, 1, 1), int))}, "plan heads"),
    "block size": (zeros(), {"plan": lacuna.Blocks([[1], [1]], block_q=48)}, "block_q"),
    "lists": (zeros(), {"plan": lacuna.BlockLists([0, 2], [0, 1])}, "row 0"),
    "S2 is causal": (zeros(), {"plan": lacuna.S2()}, "causal"),
    "hyper with a softcap": (zeros(), {"plan": lacuna.Hyper(), "softcap": 1.0}, "HyperAttention"),
    "out dtype": (zeros(), {"out": numpy.zeros((1, 4, 64, 64), numpy.float32)}, "dtype of out"),
    "out shape": (zeros(), {"out": numpy.zeros((1, 4, 63, 64), numpy.float16)}, "out: expected"),
    "out repeats": (zeros(), {"out": numpy.lib.stride_tricks.as_strided(zeros()[0], strides=(0, 0, 0, 2))}, "no two"),
    "lse shape": (zeros(), {"lse": numpy.zeros((1, 4, 64, 1), numpy.float32)}, "lse: expected"),
    "stream": (zeros(), {"stream": "mine"}, "stream: expected"),
    "head_dim": (zeros((1, 4, 64, 40), (1, 2, 64, 40)), {}, "head_dim 40"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_requests(name):
    given, options, text = REFUSED[name]
    with pytest.raises(lacuna.Error, match=text) as caught:
        lacuna.attention(*given, **options)
    assert isinstance(caught.value, (lacuna.InvalidArgument, lacuna.Unsupported))
    assert len(str(caught.value).splitlines()) == 1


def test_what_is_no_array():
    q, k, v = zeros()
    for bad in (None, 3, "q", [[1.0]], object()):
        with pytest.raises(lacuna.InvalidArgument, match="v: expected a numpy array"):
            lacuna.attention(q, k, bad)
    backwards = q[:, :, ::-1]
    with pytest.raises(lacuna.InvalidArgument, match="q: strides must be at least 0"):
        lacuna.attention(backwards, k, v)
    apart = numpy.zeros((1, 4, 64, 128), numpy.float16)[..., ::2]
    with pytest.raises(lacuna.InvalidArgument, match="q: the last stride"):
        lacuna.attention(apart, k, v)


def test_devices():
    with pytest.raises(lacuna.InvalidArgument, match="auto, simt or cuda:N"):
        lacuna.Device("tpu")
    with pytest.raises(lacuna.Unavailable, match="cuda:4096") as caught:
        lacuna.Device("cuda:4096")
    assert caught.value.status == "LACUNA_ERROR_UNAVAILABLE" and isinstance(caught.value, RuntimeError)
    with pytest.raises(lacuna.Unavailable, match="cuda:4096"):
        lacuna.attention(*zeros(), device="cuda:4096")
    device = lacuna.Device("simt")
    assert device.is_simt and device.ordinal is None and "asked for" in device.choice
    with pytest.raises(lacuna.InvalidArgument, match="foreign"):
        lacuna.Stream(device, 7)


class OnGpu:
    """An object as a GPU library has it; nobody may follow its address here."""

    def __init__(self, array, device=1):
        self.device = device
        self.__cuda_array_interface__ = {
            "shape": array.shape,
            "typestr": array.dtype.str,
            "data": (0x7F00_0000_0000, False),
            "strides": None,
            "version": 3,
            "stream": 1,
        }


def test_memory_of_a_gpu_is_not_for_the_host():
    q, k, v = zeros()
    with pytest.raises(lacuna.DeviceMismatch, match="k lives on cuda:1, but the call runs on simt"):
        lacuna.attention(q, OnGpu(k), v)
    with pytest.raises(lacuna.Unavailable, match="cuda:4096"):
        lacuna.attention(*(OnGpu(array, 4096) for array in (q, k, v)), out=OnGpu(q, 4096))


def test_merge_refuses():
    parts, logs = numpy.zeros((2, 1, 2, 3, 64), numpy.float32), numpy.zeros((2, 1, 2, 3), numpy.float32)
    out = numpy.zeros((1, 2, 3, 64), numpy.float16)
    lacuna.merge(parts, logs, out=out)
    for bad in [
        dict(partial_out=parts[:1], partial_lse=logs, out=out),
        dict(partial_out=parts.astype(numpy.float16), partial_lse=logs, out=out),
        dict(partial_out=parts[:, :, :, ::2], partial_lse=logs[..., ::2], out=out[:, :, :2]),
        dict(partial_out=parts, partial_lse=logs, out=out.astype(numpy.float32)),
        dict(partial_out=parts, partial_lse=logs, out=out, lse=numpy.zeros((1, 2, 4), numpy.float32)),
    ]:
        with pytest.raises(lacuna.InvalidArgument):
            lacuna.merge(**bad)


def test_every_status_has_a_class():
    from lacuna import _errors, _library

    for name in _library.constants:
        if name.startswith("LACUNA_ERROR_"):
            kinds = ("CUDA", "SIMT", "PANIC")
            expected = _errors.KernelError if name.endswith(kinds) else _errors.CLASSES[name]
            assert isinstance(_errors.make(name, "text"), expected)
