"""Exceptions: one class for each kind of failure of the C library, with its text."""

from __future__ import annotations


class Error(Exception):
    """Any failure that lacuna reports. `status` is the name of the C status, for example "LACUNA_ERROR_SHAPE"."""

    status = ""


class InvalidArgument(Error, ValueError):
    """A tensor, list, number or option does not fit the others or its range."""


class DeviceMismatch(InvalidArgument):
    """Memory, a plan or a stream of another device than that of the call."""


class Unsupported(Error, NotImplementedError):
    """A valid request that no kernel serves, or not on this device."""


class Unavailable(Error, RuntimeError):
    """No such device, no driver, or not in this build."""


class OutOfMemory(Error, MemoryError):
    """A device allocation failed."""


class KernelError(Error, RuntimeError):
    """A launch failed, the SIMT host found an error in a kernel, or lacuna has a defect."""


CLASSES: dict[str, type[Error]] = {
    "LACUNA_ERROR_NULL": InvalidArgument,
    "LACUNA_ERROR_STRUCT": InvalidArgument,
    "LACUNA_ERROR_HANDLE": InvalidArgument,
    "LACUNA_ERROR_SHAPE": InvalidArgument,
    "LACUNA_ERROR_VALUE": InvalidArgument,
    "LACUNA_ERROR_DEVICE": DeviceMismatch,
    "LACUNA_ERROR_UNSUPPORTED": Unsupported,
    "LACUNA_ERROR_NO_KERNEL": Unsupported,
    "LACUNA_ERROR_UNAVAILABLE": Unavailable,
    "LACUNA_ERROR_LIST": InvalidArgument,
    "LACUNA_ERROR_OUT_OF_MEMORY": OutOfMemory,
}


def make(status: str, text: str) -> Error:
    """The exception for a status of the C library; unknown ones are kernel errors."""
    error = CLASSES.get(status, KernelError)(text)
    error.status = status
    return error
