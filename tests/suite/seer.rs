//! SeerAttention's planners: pieces against the whole, plans against capacity, attention over what was selected.

use crate::harness::{shape, streams};
use lacuna::seer::{
    DecodeGate, DecodeGateConfig, DecodeGateWeights, GateConfig, GateWeights, Pools, Rope, SeerGate, Select,
    SelectOptions, Span,
};
use lacuna::{AttentionShape, Mask, Stream, Tensor, bf16};

fn gate(stream: &Stream, shape: &AttentionShape, block_size: usize, k_heads: usize, dg: usize) -> SeerGate<bf16> {
    let d = shape.head_dim;
    let weights = GateWeights {
        w_k: Tensor::random(stream, [1, k_heads, 3 * d, dg], 7).unwrap(),
        w_q: (dg != d).then(|| Tensor::random(stream, [1, shape.q_heads, d, dg], 8).unwrap()),
    };
    let config = GateConfig { block_size, ..GateConfig::published(10000.0, dg) };
    SeerGate::new(stream, (shape.q_heads, shape.kv_heads, d), 4096, config, weights).unwrap()
}

#[test]
fn chunks_select_what_the_whole_selects() {
    for stream in streams(1) {
        for (block, k_heads, dg) in [(32, 4, 64), (64, 2, 128), (16, 2, 64)] {
            let whole = shape(2, (4, 2), (331, 331), 64);
            let gate = gate(&stream, &whole, block, k_heads, dg);
            let q = Tensor::<bf16>::random(&stream, [2, 4, 331, 64], 1).unwrap();
            let k = Tensor::<bf16>::random(&stream, [2, 2, 331, 64], 2).unwrap();
            let options = SelectOptions { last_rows_dense: 0, sink_blocks: 1, ..SelectOptions::new(Select::Blocks(3)) };
            let mut cache = gate.cache(&stream, 2, 400).unwrap();
            let mut memory = stream.alloc_bytes(cache.workspace_bytes(331)).unwrap();
            let mut done = 0;
            for len in [100, 1, 27, 64, 90, 49] {
                let part = k.view().narrow(2, done, len).unwrap();
                gate.append(&stream, &mut cache, part, Span::From(done), &mut memory).unwrap();
                let queries = q.view().narrow(2, done, len).unwrap();
                done += len;
                let chunk = AttentionShape { q_len: len, kv_len: done, ..whole };
                let mut plan = gate.empty_plan(&stream, &chunk, &Mask::CAUSAL, &options, None).unwrap();
                let mut workspace = stream.alloc_bytes(gate.cached_workspace_bytes(&chunk, &options)).unwrap();
                gate.select_with_cache(
                    &stream,
                    &chunk,
                    &Mask::CAUSAL,
                    queries,
                    &cache,
                    &options,
                    &mut plan,
                    &mut workspace,
                )
                .unwrap();
                assert_eq!(plan.overflow(&stream).unwrap(), 0);
                let keys = k.view().narrow(2, 0, done).unwrap();
                let direct = gate.plan(&stream, &chunk, &Mask::CAUSAL, queries, keys, &options).unwrap();
                let mask = |plan: &lacuna::BlockPlan| plan.block_mask(&stream, &chunk, &Mask::CAUSAL).unwrap().data;
                assert_eq!(mask(&plan), mask(&direct), "block {block}, {len} queries before key {done}");
                let lists = |plan: &lacuna::BlockPlan| plan.lists(&stream).unwrap().unwrap().0;
                assert_eq!(lists(&plan), lists(&direct));
            }
        }
    }
}

#[test]
fn decode_selection_keeps_the_current_block_and_the_budget() {
    for stream in streams(2) {
        let (hq, hkv, d, dg) = (6, 2, 64, 32);
        let config = DecodeGateConfig {
            block_size: 16,
            k_pool: Pools::MAX_MIN_AVG,
            rope: Some(Rope::new(10000.0, dg)),
            norm_eps: 1e-6,
            compat: false,
        };
        let weights = DecodeGateWeights {
            w_q: Tensor::<bf16>::random(&stream, [1, hkv, 3 * d, dg], 3).unwrap(),
            w_k: Tensor::random(&stream, [1, hkv, 3 * d, dg], 4).unwrap(),
            q_norm: Some(Tensor::vector(&stream, &vec![1.0; dg]).unwrap()),
            k_norm: None,
        };
        let gate = DecodeGate::new(&stream, (hq, hkv, d), 1024, config, weights).unwrap();
        let mut cache = gate.cache(&stream, 3, 1024).unwrap();
        let k = Tensor::<bf16>::random(&stream, [3, hkv, 300, d], 5).unwrap();
        let mut memory = stream.alloc_bytes(cache.workspace_bytes(300)).unwrap();
        let starts = Tensor::vector(&stream, &[0, 0, 0]).unwrap();
        let lens = Tensor::vector(&stream, &[300, 17, 96]).unwrap();
        let span = Span::Ragged { starts: &starts, lens: &lens };
        gate.append(&stream, &mut cache, k.view(), span, false, &mut memory).unwrap();

        let call = shape(3, (hq, hkv), (1, 300), d);
        let q = Tensor::<bf16>::random(&stream, [3, hq, 1, d], 6).unwrap();
        let options = SelectOptions::new(Select::TokenBudget(64));
        let mut plan = gate.empty_plan(&stream, &call, &options, None).unwrap();
        let mut workspace = stream.alloc_bytes(gate.workspace_bytes(&call)).unwrap();
        gate.select_into(&stream, &call, Some(&lens), q.view(), &cache, &options, &mut plan, &mut workspace).unwrap();
        let (offsets, indices) = plan.lists(&stream).unwrap().unwrap();
        let lists: Vec<&[i32]> = offsets.windows(2).map(|w| &indices[w[0] as usize..w[1] as usize]).collect();
        assert_eq!(lists.iter().map(|list| list.len()).collect::<Vec<_>>(), [5, 5, 2, 2, 5, 5]);
        assert!(lists[..2].iter().all(|list| list[4] == 18), "{lists:?}");
        assert!(lists[2..4].iter().all(|&list| list == [0, 1]), "{lists:?}");
        assert!(lists[4..].iter().all(|list| list[4] == 5), "{lists:?}");
    }
}
