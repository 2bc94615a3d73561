import importlib.util

import numpy
import pytest

import lacuna
from reference import from_bf16, to_bf16


def pytest_report_header(config):
    torch = "found" if importlib.util.find_spec("torch") else "not installed: test_torch.py is skipped"
    return [f"liblacuna {lacuna.__version__} ({lacuna.build()}) on {lacuna.Device().name}", f"torch: {torch}"]


class Inputs:
    """Random q, k, v: as float64 values that the type holds, and as arrays of it."""

    def __init__(self, q_dims, kv_dims, dtype="f16", seed=0):
        random = numpy.random.default_rng(seed)
        self.dtype = dtype
        draw = [random.standard_normal(dims).astype(numpy.float32) for dims in (q_dims, kv_dims, kv_dims)]
        if dtype == "f16":
            self.arrays = [values.astype(numpy.float16) for values in draw]
            self.values = [values.astype(numpy.float64) for values in self.arrays]
        else:
            self.arrays = [to_bf16(values) for values in draw]
            self.values = [from_bf16(bits).astype(numpy.float64) for bits in self.arrays]

    def number(self, out):
        """A result as numbers."""
        return from_bf16(out) if out.dtype == numpy.uint16 else out


@pytest.fixture
def inputs():
    return Inputs
