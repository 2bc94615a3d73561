import ctypes
import sys

import numpy
import pytest

import lacuna
from lacuna import _dlpack
from reference import check, visible


class Producer:
    """An object with DLPack alone, of numpy's memory. `old`: it speaks DLPack from before 1.0."""

    def __init__(self, array, old=False, device=None):
        self.array, self.old, self.device = array, old, device
        self.given = 0

    def __dlpack_device__(self):
        return self.device or (1, 0)

    def __dlpack__(self, **arguments):
        if self.old and "max_version" in arguments:
            raise TypeError("unexpected keyword")
        self.given += 1
        return self.array.__dlpack__(**arguments)


@pytest.mark.parametrize("old", [False, True])
def test_dlpack(inputs, old):
    given = inputs((1, 2, 40, 64), (1, 2, 50, 64))
    producers = [Producer(array, old) for array in given.arrays]
    out, lse = numpy.empty_like(given.arrays[0]), numpy.empty((1, 2, 40), numpy.float32)
    lacuna.attention(*producers, causal=True, out=Producer(out, old), lse=lse)
    check(out, *given.values, visible(40, 50, True), "f16", lse)
    assert [producer.given for producer in producers] == [1, 1, 1]
    with pytest.raises(lacuna.InvalidArgument, match="pass out="):
        lacuna.attention(*producers)


def test_dlpack_gives_memory_back(inputs):
    given = inputs((1, 2, 40, 64), (1, 2, 50, 64))
    before = [sys.getrefcount(array) for array in given.arrays]
    for _ in range(3):
        lacuna.attention(*(Producer(array) for array in given.arrays), out=numpy.empty_like(given.arrays[0]))
    assert [sys.getrefcount(array) for array in given.arrays] == before


def test_dlpack_read_only(inputs):
    given = inputs((1, 2, 40, 64), (1, 2, 50, 64))
    out = numpy.empty_like(given.arrays[0])
    out.flags.writeable = False
    with pytest.raises((lacuna.InvalidArgument, BufferError)):
        lacuna.attention(*given.arrays, out=Producer(out))
    for array in given.arrays:
        array.flags.writeable = False
    lacuna.attention(*given.arrays)


def test_bad_capsules():
    class Broken:
        def __dlpack_device__(self):
            return (1, 0)

        def __dlpack__(self, **arguments):
            return 7

    with pytest.raises(lacuna.InvalidArgument, match="no DLPack capsule"):
        lacuna.attention(Broken(), Broken(), Broken())


def test_layout_of_the_structs():
    """DLPack's header, counted by hand."""
    assert ctypes.sizeof(_dlpack._Tensor) == 48 and _dlpack._Tensor.byte_offset.offset == 40
    assert _dlpack._Managed.deleter.offset == 56 and _dlpack._Versioned.tensor.offset == 32


def test_the_cuda_array_interface_is_read():
    from lacuna import _arrays

    class Array:
        __cuda_array_interface__ = {
            "shape": (2, 3, 4, 64),
            "typestr": "<f2",
            "data": (4096, True),
            "strides": (3 * 4 * 128 * 2, 128 * 2, 3 * 128 * 2, 2),
            "version": 3,
            "stream": 2,
        }

    seen = _arrays.view("q", Array())
    assert (seen.pointer, seen.shape, seen.strides) == (4096, (2, 3, 4, 64), (1536, 128, 384, 1))
    assert (seen.dtype, seen.ordinal, seen.writable, seen.stream, seen.device) == ("f16", 0, False, 2, "cuda:0")


def test_other_libraries_give_their_own_arrays(inputs):
    """An array of the array API standard gets results of its own kind."""

    class Space:
        float32 = numpy.float32

        @staticmethod
        def empty(shape, dtype, device):
            assert device == "cpu"
            return Standard(numpy.empty(shape, dtype))

    class Standard(Producer):
        dtype = property(lambda self: self.array.dtype)

        def __init__(self, array):
            super().__init__(array)
            self.device = None

        def __array_namespace__(self):
            self.device = "cpu"
            return Space

        def __dlpack_device__(self):
            return (1, 0)

    given = inputs((1, 2, 40, 64), (1, 2, 50, 64))
    out, lse = lacuna.attention(*(Standard(array) for array in given.arrays), return_lse=True)
    assert isinstance(out, Standard) and isinstance(lse, Standard)
    check(out.array, *given.values, True, "f16", lse.array)
