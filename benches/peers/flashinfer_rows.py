"""FlashInfer's block-sparse wrappers. They compile their kernels with nvcc at first use, which takes minutes.

- `flashinfer`: one list for all heads, KV blocks as pages.
- `flashinfer-variable`: a list for each KV head, written out token by token.
- `flashinfer-cake`: its kernels for Hopper: D128, blocks of 64, no mask, no GQA, some 64 blocks a row.

Causal: each query block is a sequence of its own over the keys its list names, aligned at the end, where the diagonal
block comes last; so its own causal mask is the right one. The check with the reference says whether that holds.
"""

import torch

from call import Call, wall_us

WORKSPACE_BYTES = 512 << 20


def workspace(inputs):
    return torch.zeros(WORKSPACE_BYTES, dtype=torch.uint8, device=inputs.device)


def plain(case, inputs):
    import flashinfer

    wrapper = flashinfer.BlockSparseAttentionWrapper(workspace(inputs))
    offsets, indices = (torch.from_numpy(x).to(inputs.device) for x in (inputs.lists.offsets, inputs.lists.indices))

    def plan():
        wrapper.plan(
            offsets,
            indices,
            case.length,
            case.length,
            case.block,
            case.block,
            case.q_heads,
            case.kv_heads,
            case.head_dim,
            causal=case.causal,
            q_data_type=torch.bfloat16,
            kv_data_type=torch.bfloat16,
            o_data_type=torch.bfloat16,
        )

    plan()  # the first one compiles
    plan_us = wall_us(plan, inputs.device)
    # [len, heads, dim], its own layout.
    sets = [tuple(x[0].transpose(0, 1).contiguous() for x in one) for one in inputs.sets]

    def run(at):
        return wrapper.run(*sets[at]).transpose(0, 1)[None]

    return Call(run, {"plan_us": plan_us})


def variable(backend):
    def make(case, inputs):
        import flashinfer

        heads = case.lists
        blocks = case.length // case.block
        mask = inputs.mask_of_heads(heads)
        sizes = torch.full((heads, blocks), case.block, dtype=torch.int32, device=inputs.device)
        wrapper = flashinfer.VariableBlockSparseAttentionWrapper(workspace(inputs), backend=backend)

        def plan():
            wrapper.plan(
                mask,
                sizes,
                sizes,
                case.q_heads,
                case.kv_heads,
                case.head_dim,
                causal=case.causal,
                q_data_type=torch.bfloat16,
            )

        plan()
        plan_us = wall_us(plan, inputs.device)

        def run(at):
            q, k, v = inputs.sets[at]
            return wrapper.run(q[0], k[0], v[0])[None]

        return Call(run, {"plan_us": plan_us})

    return make


MAKERS = {"flashinfer": plain, "flashinfer-variable": variable("auto"), "flashinfer-cake": variable("cake")}
