"""SeerAttention: learned gates that say which blocks attention visits."""

from __future__ import annotations

import ctypes
from typing import Any

from ._arrays import DTYPES, Array, view
from ._attention import raw_stream, reference, stream_for, workspace
from ._device import Device, Stream
from ._errors import InvalidArgument
from ._library import Handle, call, constants, struct
from ._request import Options, Shape, integer
from .plans import Plan

_RULES = ("threshold", "density", "blocks", "top_p", "token_budget")
RULES = {name: constants[f"LACUNA_RULE_{name.upper()}"] for name in _RULES}
POOLS = {name: constants[f"LACUNA_POOL_{name.upper()}"] for name in ("max", "min", "avg")}


def _pools(what: str, names: Any) -> int:
    names = (names,) if isinstance(names, str) else tuple(names)
    unknown = [name for name in names if name not in POOLS]
    if unknown or len(set(names)) != len(names):
        raise InvalidArgument(f"{what} must name each of 'max', 'min' and 'avg' at most once, got {list(names)}")
    return sum(POOLS[name] for name in names)


def _select(rule: dict[str, Any], **forced: Any) -> Any:
    given = {name: value for name, value in rule.items() if value is not None}
    if len(given) != 1:
        raise InvalidArgument(f"select: expected one of {', '.join(rule)}, got {list(given) or 'none'}")
    ((name, value),) = given.items()
    number = {"count": integer(name, value)} if name in ("blocks", "token_budget") else {"value": float(value)}
    return struct(
        "select", rule=RULES[name], **number, **{name: integer(name, value) for name, value in forced.items()}
    )


class GateCache:
    """Gate vectors of the keys of sequences that grow. Made by `cache` of a gate; `append` of the gate fills it."""

    def __init__(self, gate: _Gate, batch: int, max_len: int) -> None:
        self.gate, self.batch, self.max_len = gate, integer("batch", batch), integer("max_len", max_len)
        arguments = (gate.stream.value, gate.handle.value, self.batch, self.max_len)
        self.handle = Handle("gate_cache", "gate_cache_create", *arguments)


class _Gate:
    """What both gates share: settings, weights (kept alive, not copied), the device."""

    handle: Handle

    def __init__(
        self, weights: dict[str, Any], dtype: str | None, device: Any, stream: Any, sizes: dict[str, Any]
    ) -> None:
        first = view("w_k", weights["w_k"], dtype, raw_stream(stream))
        self.dtype = first.dtype
        if self.dtype not in DTYPES:
            raise InvalidArgument(f"dtype of w_k must be f16 or bf16, got {self.dtype}")
        self._bits = dtype
        self.stream: Stream = stream_for(device, stream, first)
        self._weights = weights
        frequencies = sizes.pop("rope_frequencies")
        rope = {} if frequencies is None else _frequencies(frequencies)
        floats = {name: float(sizes.pop(name)) for name in ("rope_theta", "rope_factor", "norm_eps") if name in sizes}
        numbers = {name: integer(name, value) for name, value in sizes.items()}
        self.config = struct("gate_config", dtype=DTYPES[self.dtype][0], **numbers, **floats)
        self.q_heads, self.kv_heads, self.head_dim = (sizes[name] for name in ("q_heads", "kv_heads", "head_dim"))
        if rope:
            self.config.rope_frequencies, self.config.rope_frequencies_len = rope["address"], rope["len"]

    def tensors(self, *names: str) -> list[Any]:
        """Weights as the C ABI has them; norms are f32 whatever the rest is."""
        arrays = []
        for name in names:
            weight = self._weights[name]
            array = None if weight is None else view(name, weight, None if name.endswith("norm") else self._bits)
            arrays.append(reference(array, name))
        return arrays

    def seen(self, what: str, given: Any) -> Array:
        array = view(what, given, self._bits)
        if len(array.shape) != 4:
            raise InvalidArgument(f"{what}: expected [batch, heads, tokens, head_dim], got {list(array.shape)}")
        return array

    def cache(self, batch: int, max_len: int) -> GateCache:
        """A cache for `batch` sequences of up to max_len tokens."""
        return GateCache(self, batch, max_len)

    def append(
        self,
        cache: GateCache,
        gate_k: Any,
        start: int = 0,
        *,
        starts: Any = None,
        lens: Any = None,
        decoding: bool = False,
    ) -> None:
        """Appends the tokens gate_k [batch, kv_heads, tokens, head_dim], keys before the model's rotation.

        Every sequence goes on at position `start`, or sequence b at starts[b] with its first lens[b] tokens (i32
        [batch] each, on the device of gate_k). `decoding` matters to `compat` gates alone.
        """
        tokens, size = self.seen("gate_k", gate_k), ctypes.c_size_t()
        lists = [None if given is None else view(name, given) for name, given in (("starts", starts), ("lens", lens))]
        call("gate_cache_workspace", cache.handle.value, tokens.shape[2], ctypes.byref(size))
        memory, address = workspace(gate_k, self.stream, size.value)
        head = (self.stream.value, self.handle.value, cache.handle.value, reference(tokens, "gate_k"))
        where = (integer("start", start), reference(lists[0], "starts"), reference(lists[1], "lens"))
        call("gate_cache_append", *head, *where, int(bool(decoding)), address, size.value)
        del memory

    def fill(
        self,
        shape: Shape,
        options: Options,
        select: Any,
        capacity: int | None,
        gate_q: Any,
        gate_k: Any,
        cache: GateCache | None,
        kv_lens: Any,
    ) -> Plan:
        """Makes a plan and selects into it."""
        c_shape, c_options, size = shape.to_abi(), options.to_abi(), ctypes.c_size_t()
        head = (ctypes.byref(c_shape), ctypes.byref(c_options), ctypes.byref(select))
        room = 0 if capacity is None else max(integer("capacity", capacity), 1)
        handle = Handle("plan", "gate_plan_create", self.stream.value, self.handle.value, *head, room)
        plan = Plan(self.stream, shape, handle)
        cached = int(cache is not None)
        call("gate_workspace", self.handle.value, head[0], head[2], cached, ctypes.byref(size))
        memory, address = workspace(gate_q, self.stream, size.value)
        keys = None if gate_k is None else self.seen("gate_k", gate_k)
        lens = None if kv_lens is None else view("kv_lens", kv_lens)
        tensors = (reference(self.seen("gate_q", gate_q), "gate_q"), reference(keys, "gate_k"))
        holder = None if cache is None else cache.handle.value
        arguments = (*head, *tensors, holder, reference(lens, "kv_lens"), handle.value, address, size.value)
        call("gate_select", self.stream.value, self.handle.value, *arguments)
        del memory
        return plan


def _frequencies(values: Any) -> dict[str, Any]:
    numbers = [float(value) for value in values]
    array = (ctypes.c_double * len(numbers))(*numbers)
    return {"address": ctypes.addressof(array), "len": len(numbers), "kept": array}


class SeerGate(_Gate):
    """The gate of prompts. For query block i and key block j of query head h:

        logit[i, j] = rope(pools(Q in block i) * w_q[h]) . rope(pools(K in block j) * w_k[h]) / sqrt(gate_dim)

    Args:
        w_k: [q_heads or kv_heads, head_dim * pools of k, gate_dim], float16 or bfloat16.
        w_q: [q_heads, head_dim * pools of q, gate_dim]; None: the pooled queries as they are.
        max_len: keys that a sequence may have.
        block_size: 16, 32, 64 or 128 tokens.
        q_pool, k_pool: of "max", "min", "avg"; joined in this order.
        rope_theta: base of the rotation; 0: none. rope_frequencies (gate_dim / 2 radians a token) take its place.
    """

    def __init__(
        self,
        w_k: Any,
        w_q: Any = None,
        *,
        q_heads: int,
        kv_heads: int,
        head_dim: int,
        max_len: int,
        block_size: int = 64,
        q_pool: Any = ("avg",),
        k_pool: Any = ("max", "min", "avg"),
        rope_theta: float = 10000.0,
        rope_frequencies: Any = None,
        rope_factor: float = 1.0,
        dtype: str | None = None,
        device: Device | str | None = None,
        stream: Any = None,
    ) -> None:
        sizes: dict[str, Any] = {"q_heads": q_heads, "kv_heads": kv_heads, "head_dim": head_dim, "max_len": max_len}
        sizes |= {"block_size": block_size, "q_pool": _pools("q_pool", q_pool), "k_pool": _pools("k_pool", k_pool)}
        sizes |= {"rope_theta": rope_theta, "rope_factor": rope_factor, "rope_frequencies": rope_frequencies}
        super().__init__({"w_k": w_k, "w_q": w_q}, dtype, device, stream, sizes)
        arguments = (self.stream.value, ctypes.byref(self.config), *self.tensors("w_k", "w_q"))
        self.handle = Handle("gate", "gate_create", *arguments)

    def plan(
        self,
        gate_q: Any,
        gate_k: Any = None,
        *,
        cache: GateCache | None = None,
        kv_len: int | None = None,
        threshold: float | None = None,
        density: float | None = None,
        blocks: int | None = None,
        top_p: float | None = None,
        token_budget: int | None = None,
        causal: bool = True,
        last_rows_dense: int = 2,
        force_diagonal: bool = True,
        sink_blocks: int = 0,
        share_heads: bool = False,
        capacity: int | None = None,
    ) -> Plan:
        """Which blocks to visit, as a plan for `attention` with the same mask.

        Args:
            gate_q: [batch, q_heads, q_len, head_dim], queries before the model's rotation.
            gate_k: [batch, kv_heads, kv_len, head_dim], keys before it; or `cache`, which holds all `kv_len` keys.
            threshold, density, blocks, top_p, token_budget: exactly one, the rule that keeps blocks of a row: softmax
                above it; the part of the triangle; so many best; the fewest best with that mass; tokens' worth of best.
            last_rows_dense, force_diagonal, sink_blocks: blocks added to those.
            share_heads: one list for the query heads of a KV head.
            capacity: room in blocks; None: for the most that the rule can keep. See `Plan.overflow`.
        """
        rule = dict(threshold=threshold, density=density, blocks=blocks, top_p=top_p, token_budget=token_budget)
        forced = {"last_rows_dense": last_rows_dense, "sink_blocks": sink_blocks}
        flags = {"force_diagonal": int(bool(force_diagonal)), "share_heads": int(bool(share_heads))}
        select = _select(rule, **forced, **flags)
        queries = self.seen("gate_q", gate_q)
        if (gate_k is None) == (kv_len is None):
            raise InvalidArgument("expected either gate_k, or a cache with kv_len")
        keys = self.seen("gate_k", gate_k).shape[2] if kv_len is None else integer("kv_len", kv_len)
        shape = _shape(self, queries, keys)
        return self.fill(shape, Options(causal=bool(causal)), select, capacity, gate_q, gate_k, cache, None)


class DecodeGate(_Gate):
    """The gate of decoding (SeerAttention-R), one selection for the query heads of a KV head.

    Args:
        w_q: [kv_heads, q_heads / kv_heads * head_dim, gate_dim], float16 or bfloat16.
        w_k: [kv_heads, head_dim * pools of k, gate_dim].
        q_norm, k_norm: f32 [gate_dim], weights of RMS norms before the rotation; None: no norm.
        norm_eps: added to the mean square under their roots.
        compat: does as the published code where it departs from its training.

    The rest as for `SeerGate`.
    """

    def __init__(
        self,
        w_q: Any,
        w_k: Any,
        q_norm: Any = None,
        k_norm: Any = None,
        *,
        q_heads: int,
        kv_heads: int,
        head_dim: int,
        max_len: int,
        block_size: int = 64,
        k_pool: Any = ("max", "min", "avg"),
        rope_theta: float = 10000.0,
        rope_frequencies: Any = None,
        rope_factor: float = 1.0,
        norm_eps: float = 1e-6,
        compat: bool = False,
        dtype: str | None = None,
        device: Device | str | None = None,
        stream: Any = None,
    ) -> None:
        sizes: dict[str, Any] = {"q_heads": q_heads, "kv_heads": kv_heads, "head_dim": head_dim, "max_len": max_len}
        sizes |= {"block_size": block_size, "k_pool": _pools("k_pool", k_pool), "compat": int(bool(compat))}
        sizes |= {"rope_theta": rope_theta, "rope_factor": rope_factor, "rope_frequencies": rope_frequencies}
        weights = {"w_q": w_q, "w_k": w_k, "q_norm": q_norm, "k_norm": k_norm}
        super().__init__(weights, dtype, device, stream, {**sizes, "norm_eps": norm_eps})
        arguments = (ctypes.byref(self.config), *self.tensors("w_q", "w_k", "q_norm", "k_norm"))
        self.handle = Handle("gate", "decode_gate_create", self.stream.value, *arguments)

    def plan(
        self,
        gate_q: Any,
        cache: GateCache,
        kv_len: int,
        *,
        kv_lens: Any = None,
        threshold: float | None = None,
        density: float | None = None,
        blocks: int | None = None,
        top_p: float | None = None,
        token_budget: int | None = None,
        sink_blocks: int = 0,
        capacity: int | None = None,
    ) -> Plan:
        """Which blocks the newest 1 to 16 tokens visit, as a plan for `decode`; their own block is always among them.

        Args:
            gate_q: [batch, q_heads, q_len, head_dim], queries before the model's rotation.
            cache: holds the keys, the newest too.
            kv_len: keys of a sequence, or the most of them with `kv_lens`, i32 [batch] on the device of gate_q.

        Rules, `sink_blocks` and `capacity` as in `SeerGate.plan`.
        """
        rule = dict(threshold=threshold, density=density, blocks=blocks, top_p=top_p, token_budget=token_budget)
        select = _select(rule, sink_blocks=sink_blocks)
        shape = _shape(self, self.seen("gate_q", gate_q), integer("kv_len", kv_len))
        return self.fill(shape, Options(causal=True), select, capacity, gate_q, None, cache, kv_lens)


def _shape(gate: _Gate, queries: Array, kv_len: int) -> Shape:
    batch, q_heads, q_len, head_dim = queries.shape
    return Shape(batch, q_heads, gate.kv_heads, q_len, kv_len, head_dim, gate.dtype)
