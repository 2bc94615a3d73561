"""lacuna's kernels on torch tensors, through the kernel table of liblacuna_cuda.so (or of a SIMT build, for tests)."""

import ctypes
import math
from pathlib import Path

from c_structs import Header

HERE = Path(__file__).resolve().parent
# In the GPU bundle the header lies beside these scripts, in a checkout where it belongs.
HEADERS = (HERE / "lacuna_kernels.h", HERE.parents[1] / "cuda" / "lacuna_kernels.h")
LIBRARIES = (HERE.parent / "liblacuna_cuda.so", HERE.parents[1] / "gpu-bundle" / "liblacuna_cuda.so")


def first_file(paths):
    found = [path for path in paths if path.is_file()]
    if not found:
        raise FileNotFoundError("none of these exists: " + ", ".join(map(str, paths)))
    return found[0]


class LacunaError(RuntimeError):
    """A call that the kernels refused; the text is theirs."""


class Library:
    """The kernel table of one shared library."""

    def __init__(self, path=None):
        self.header = Header(first_file(HEADERS))
        self.path = str(path or first_file(LIBRARIES))
        self._handle = ctypes.CDLL(self.path)
        simt_only = not hasattr(self._handle, "lacuna_cuda_kernels")
        table = self._handle.lacuna_simt_kernels if simt_only else self._handle.lacuna_cuda_kernels
        table.restype = ctypes.POINTER(self.header.structs["lacuna_kernel_table"])
        self.table = table().contents
        expected = self.header.constants["LACUNA_KERNELS_ABI"]
        if self.table.abi != expected:
            raise LacunaError(f"{self.path} has ABI {self.table.abi}, the header {expected}: build the bundle again")

    @property
    def machine(self):
        return self.table.machine.decode()

    @property
    def architectures(self):
        return self.table.architectures.decode()

    def new(self, struct):
        return self.header.structs["lacuna_" + struct]()

    def call(self, function, *arguments):
        status = getattr(self.table, function)(*arguments)
        if status != self.header.constants["LACUNA_OK"]:
            raise LacunaError(f"{function}: status {status}, {self.table.last_error().decode()}")


def current_stream(tensor):
    """torch's current stream on the tensor's device as a CUstream; null for the SIMT host's default one."""
    if not tensor.is_cuda:
        return None
    import torch

    return ctypes.c_void_p(torch.cuda.current_stream(tensor.device).cuda_stream)


class Forward:
    """Forward attention for one shape, mask and plan; `plan` is None (every block) or block_masks.BlockLists.

    Tensors are torch's, `[batch, heads, len, dim]` with any strides. Allocates its schedule and counter once; a call
    only launches. The struct holds raw pointers: whoever calls keeps the tensors alive.
    """

    def __init__(self, library, q, k, causal, plan=None, family=0):
        import torch

        self.library = library
        self.torch = torch
        constants = library.header.constants
        self.params = params = library.new("forward_params")
        shape = params.shape
        shape.batch, shape.q_heads, shape.q_len, shape.head_dim = q.shape
        shape.kv_heads, shape.kv_len = k.shape[1], k.shape[2]
        shape.dtype = constants["LACUNA_BF16" if q.dtype == torch.bfloat16 else "LACUNA_F16"]
        params.mask.causal, params.mask.window_left, params.mask.window_right = int(causal), -1, -1
        params.scale = 1.0 / math.sqrt(shape.head_dim)
        params.splits = 1
        params.family = family
        self._keep = []
        self._set_plan(plan, q.device)
        self._set_tensors(q, k, k, q, None)
        self.config = self._config()
        if plan is not None:
            self._allocate_schedule(plan, q.device)
            self.build_schedule()
        counter = torch.empty(4, dtype=torch.int32, device=q.device)
        self._keep.append(counter)
        params.counter = counter.data_ptr()

    def _set_plan(self, lists, device):
        plan = self.params.plan
        plan.plan_batch = 1
        plan.formula.vertical_stride = plan.formula.heads_per_step = 1
        if lists is None:
            plan.kind = self.library.header.constants["LACUNA_PLAN_FORMULA"]
            plan.heads, plan.block_q, plan.block_k = 1, 64, 64
            plan.formula.dense_from = 2**31 - 1
            return
        plan.kind = self.library.header.constants["LACUNA_PLAN_LISTS"]
        plan.heads, plan.block_q, plan.block_k = lists.heads, lists.block, lists.block
        offsets, indices = (self.torch.from_numpy(x).to(device) for x in (lists.offsets, lists.indices))
        self._keep += [offsets, indices]
        plan.capacity = indices.numel()
        plan.row_offsets, plan.indices = offsets.data_ptr(), indices.data_ptr()

    def _set_tensors(self, q, k, v, out, lse):
        params = self.params
        for name, tensor in (("q", q), ("k", k), ("v", v), ("out", out)):
            if tensor.stride(3) != 1:
                raise ValueError(f"{name}: the last dimension must be contiguous")
            setattr(params, name, tensor.data_ptr())
            strides = getattr(params, name + "_stride")
            strides.batch, strides.head, strides.seq = tensor.stride()[:3]
        params.lse = lse.data_ptr() if lse is not None else None
        if lse is not None:
            strides = params.lse_stride
            strides.batch, strides.head, strides.seq = lse.stride()

    def _config(self):
        config = self.library.new("forward_config")
        self.library.call("forward_config", ctypes.byref(self.params), ctypes.byref(config))
        return config

    @property
    def kernel(self):
        return self.config.kernel.decode()

    def _allocate_schedule(self, lists, device):
        schedule = self.params.schedule
        schedule.tile_q = max(self.config.schedule_q, lists.block)
        schedule.unit = lists.block
        tiles = -(-self.params.shape.q_len // schedule.tile_q)
        schedule.rows = lists.heads * tiles
        schedule.capacity = len(lists.indices)
        sizes = {
            "offsets": schedule.rows + 1,
            "entries": schedule.capacity,
            "order": schedule.rows,
            "counts": schedule.rows,
            "overflow": 1,
        }
        for name, size in sizes.items():
            memory = self.torch.empty(size, dtype=self.torch.int32, device=device)
            self._keep.append(memory)
            setattr(schedule, name, memory.data_ptr())
            if name == "overflow":
                self._overflow = memory

    def build_schedule(self):
        """The launches that a selector pays for each new plan."""
        build = self.library.new("schedule_params")
        for field in ("shape", "mask", "plan", "schedule"):
            setattr(build, field, getattr(self.params, field))
        self.library.call("schedule_build", ctypes.byref(build), current_stream(self._keep[0]))

    def entries_left_out(self):
        """Schedule entries that did not fit; waits for the device."""
        return int(self._overflow.item()) if self.params.schedule.rows else 0

    def __call__(self, q, k, v, out, lse=None):
        self._set_tensors(q, k, v, out, lse)
        self.library.call("forward", ctypes.byref(self.params), current_stream(q))
        return out
