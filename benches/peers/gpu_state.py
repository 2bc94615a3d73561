"""What the GPU says about itself: facts once, clocks and power while something runs. Settings are never touched."""

import os
import platform
import subprocess
import threading
import time

from percentiles import percentile

FIELDS = ("sm_mhz", "memory_mhz", "watts", "celsius")
QUERY = "clocks.sm,clocks.mem,power.draw,temperature.gpu"
PERIOD_SECONDS = 0.05


def nvml_reader():
    """A function that gives FIELDS and the bits of reasons that hold the clocks down."""
    import pynvml

    pynvml.nvmlInit()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    handle = pynvml.nvmlDeviceGetHandleByIndex(int(visible) if visible.isdigit() else 0)

    def read():
        return (
            pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM),
            pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_MEM),
            pynvml.nvmlDeviceGetPowerUsage(handle) / 1000,
            pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU),
            pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle),
        )

    read()
    return read


def smi(query):
    command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader,nounits"]
    output = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    return [field.strip() for field in output.splitlines()[0].split(",")]


def smi_reader():
    def read():
        return (*map(float, smi(QUERY)), 0)

    read()
    return read


class Watch:
    """Samples the GPU on a thread; `summary(start)` is about the time since `start` (time.monotonic)."""

    def __init__(self):
        self.samples = []
        self.source = None
        for source, make in (("nvml", nvml_reader), ("nvidia-smi", smi_reader)):
            try:
                self._read = make()
                self.source = source
                break
            except Exception:  # neither is needed to measure
                continue
        if self.source:
            threading.Thread(target=self._run, daemon=True).start()

    def _run(self):
        while True:
            try:
                self.samples.append((time.monotonic(), self._read()))
            except Exception:
                return
            time.sleep(PERIOD_SECONDS)

    def summary(self, start):
        values = [sample for at, sample in list(self.samples) if at >= start]
        if not values:
            return None
        summary = {"source": self.source, "samples": len(values)}
        for index, field in enumerate(FIELDS):
            column = sorted(value[index] for value in values)
            summary[field] = percentile(column, 50)
        summary["sm_mhz_p10"] = percentile(sorted(value[0] for value in values), 10)
        reasons = 0
        for value in values:
            reasons |= int(value[4])
        summary["clock_reasons"] = f"{reasons:#x}"
        return summary


def facts():
    """Device, driver and versions, for the first line of a result file."""
    import torch

    known = {"host": platform.machine(), "python": platform.python_version(), "torch": torch.__version__}
    for name in ("triton", "flashinfer", "fa3_fwd", "numpy"):
        known[name] = version_of(name)
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        known["device"] = properties.name
        known["multiprocessors"] = properties.multi_processor_count
        known["l2_bytes"] = properties.L2_cache_size
        known["memory_bytes"] = properties.total_memory
        known["cuda"] = torch.version.cuda
        known["cudnn"] = torch.backends.cudnn.version()
    try:
        names = "driver_version,power.limit,clocks.max.sm,clocks.max.mem"
        known.update(zip(("driver", "power_limit_watts", "max_sm_mhz", "max_memory_mhz"), smi(names)))
    except Exception as error:
        known["driver"] = f"unknown: {type(error).__name__}"
    return known


def version_of(name):
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version({"flashinfer": "flashinfer-python", "fa3_fwd": "fa3-fwd"}.get(name, name))
    except PackageNotFoundError:
        return None
