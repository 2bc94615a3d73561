"""The rows of the comparison: lacuna and what it is compared with, each on the same tensors.

A row is a function `make(case, inputs) -> Call`. It raises what the peer raises where that cannot serve the case; the
caller writes the reason down. Which rows a case has stands in serving.py.
"""

import statistics

import torch

import flashinfer_rows
import flex_row
from call import Call
from lacuna_kernels import Forward, Library


class Lacuna:
    def __init__(self, library, family):
        self.library = library
        self.family = self.library.header.constants[family]

    def __call__(self, case, inputs):
        q, k, _ = inputs.sets[0]
        forward = Forward(self.library, q, k, case.causal, inputs.lists, self.family)
        info = {"kernel": forward.kernel}
        if inputs.lists is not None:
            if forward.entries_left_out():
                raise RuntimeError("the schedule left entries out")
            if q.is_cuda:
                info["plan_us"] = self._schedule_us(forward)
        # NaN first: what a kernel does not write shows in the check.
        outs = [torch.full_like(q, float("nan")) for q, _, _ in inputs.sets]
        lses = [torch.full(q.shape[:3], float("nan"), device=q.device) for q, _, _ in inputs.sets]

        def run(at):
            q, k, v = inputs.sets[at]
            return forward(q, k, v, outs[at], lses[at])

        return Call(run, info, lse=lambda at: lses[at])

    @staticmethod
    def _schedule_us(forward, calls=10):
        """Median time of the three launches that arrange a plan."""
        samples = []
        for _ in range(calls):
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            torch.cuda._sleep(200_000)  # cycles; the launches queue up behind it
            start.record()
            forward.build_schedule()
            end.record()
            end.synchronize()
            samples.append(1e3 * start.elapsed_time(end))
        return statistics.median(samples)


def sdpa(backend):
    def make(case, inputs):
        from torch.nn.attention import SDPBackend, sdpa_kernel
        from torch.nn.functional import scaled_dot_product_attention

        chosen = getattr(SDPBackend, backend)
        group = case.q_heads != case.kv_heads

        def run(at):
            q, k, v = inputs.sets[at]
            with sdpa_kernel(chosen):
                return scaled_dot_product_attention(q, k, v, is_causal=case.causal, enable_gqa=group)

        return Call(run)

    return make


def fa3(case, inputs):
    """FlashAttention-3 from the wheel fa3-fwd (bf16 alone); else a flash-attention build with the Hopper package."""
    try:
        from fa3_fwd_interface import flash_attn_func
    except ImportError:
        from flash_attn_interface import flash_attn_func

    views = [tuple(x.transpose(1, 2) for x in one) for one in inputs.sets]

    def run(at):
        out = flash_attn_func(*views[at], causal=case.causal)
        return (out[0] if isinstance(out, tuple) else out).transpose(1, 2)

    return Call(run)


def makers(library_path):
    """name -> make. lacuna's library is loaded here; without one its rows raise why."""
    rows = {
        "fa3": fa3,
        "sdpa-cudnn": sdpa("CUDNN_ATTENTION"),
        "sdpa-flash": sdpa("FLASH_ATTENTION"),
        "flex": flex_row.make,
        **flashinfer_rows.MAKERS,
    }
    try:
        library = Library(library_path)
        rows["lacuna"] = Lacuna(library, "LACUNA_FAMILY_AUTO")
        rows["lacuna-portable"] = Lacuna(library, "LACUNA_FAMILY_PORTABLE")
        facts = {"library": library.path, "architectures": library.architectures}
    except OSError as error:
        reason = f"{type(error).__name__}: {error}"

        def absent(case, inputs):
            raise RuntimeError(reason)

        rows["lacuna"] = rows["lacuna-portable"] = absent
        facts = {"library": None, "library_error": reason}
    return rows, facts

