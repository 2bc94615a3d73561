//! The cache of gate vectors: pieces give the bits of the whole, in ragged batches too, and contents are data.

use crate::harness::{shape, streams};
use crate::seer_case::{Prefill, Tally, flags, logit_error, score_error};
use lacuna::seer::{GateCache, SeerGate, Select, SelectOptions, Span};
use lacuna::{AttentionShape, Mask, Stream, Tensor, bf16};

/// Vectors of a sequence's first blocks, as bits, head by head.
fn vectors(stream: &Stream, cache: &GateCache, sequence: usize, blocks: usize) -> Vec<u32> {
    let [_, heads, all, gate_dim] = cache.vectors().dims();
    let values = cache.vectors().to_vec(stream).unwrap();
    let head = |h: usize| &values[(sequence * heads + h) * all * gate_dim..][..blocks * gate_dim];
    (0..heads).flat_map(|h| head(h).iter().map(|x| x.to_bits())).collect()
}

fn case(batch: usize, len: usize, block: usize) -> Prefill {
    Prefill { k_heads: 2, ..Prefill::new(shape(batch, (4, 2), (len, len), 32), block) }
}

fn append(stream: &Stream, gate: &SeerGate<bf16>, cache: &mut GateCache, k: &Tensor<bf16>, span: Span<'_>) {
    let mut workspace = stream.alloc_bytes(cache.workspace_bytes(k.dims()[2])).unwrap();
    workspace.fill(stream, 0xFF).unwrap();
    gate.append(stream, cache, k.view(), span, &mut workspace).unwrap();
}

/// Some tokens of some sequences of `[batch, heads, len, dim]`, right behind each other in a packed tensor.
fn part(stream: &Stream, k: &[bf16], dims: [usize; 4], starts: &[usize], tokens: usize) -> Tensor<bf16> {
    let [batch, heads, len, dim] = dims;
    let mut values = Vec::new();
    for (b, h) in (0..batch).flat_map(|b| (0..heads).map(move |h| (b, h))) {
        for t in starts[b]..starts[b] + tokens {
            let row = ((b * heads + h) * len + t) * dim;
            // Behind the end, something that must not be read.
            values.extend((0..dim).map(|e| if t < len { k[row + e] } else { bf16::NAN }));
        }
    }
    Tensor::from_slice(stream, &values, [batch, heads, tokens, dim]).unwrap()
}

#[test]
fn ragged_pieces_give_the_bits_of_the_whole() {
    for block in [16, 64] {
        for stream in streams(block as u64) {
            let case = case(3, 200, block);
            let (dims, inputs) = ([3, 2, 200, 32], case.inputs::<bf16>());
            let gate = case.gate(&stream, &inputs, 256);
            let mut whole = gate.cache(&stream, 3, 200).unwrap();
            append(&stream, &gate, &mut whole, &part(&stream, &inputs.k, dims, &[0; 3], 200), Span::From(0));

            let mut pieces = gate.cache(&stream, 3, 256).unwrap();
            let mut done = [0usize; 3];
            for lens in [[1, 0, 70], [15, 1, 0], [0, 40, 58], [100, 90, 1], [20, 0, 70], [64, 69, 1]] {
                let (starts, wanted): (Vec<i32>, Vec<i32>) =
                    done.iter().zip(lens).map(|(&start, len)| (start as i32, len as i32)).unzip();
                let k = part(&stream, &inputs.k, dims, &done, 101);
                let starts = Tensor::vector(&stream, &starts).unwrap();
                let lens_on_device = Tensor::vector(&stream, &wanted).unwrap();
                append(&stream, &gate, &mut pieces, &k, Span::Ragged { starts: &starts, lens: &lens_on_device });
                done.iter_mut().zip(lens).for_each(|(done, len)| *done += len);
                for b in 0..3 {
                    // Complete blocks are final.
                    let blocks = done[b] / block;
                    assert_eq!(vectors(&stream, &pieces, b, blocks), vectors(&stream, &whole, b, blocks));
                }
            }
            assert_eq!(done, [200; 3]);
            for b in 0..3 {
                let blocks = 200usize.div_ceil(block);
                assert_eq!(vectors(&stream, &pieces, b, blocks), vectors(&stream, &whole, b, blocks), "open block");
            }
        }
    }
}

/// The first block of a chunk may hold few of its queries, the last one few of its keys: both as the reference has it.
#[test]
fn chunks_select_by_the_definition() {
    let mut tally = Tally::default();
    for stream in streams(3) {
        let whole = case(2, 300, 32);
        let inputs = whole.inputs::<bf16>();
        let gate = whole.gate(&stream, &inputs, 300);
        let mut cache = gate.cache(&stream, 2, 300).unwrap();
        let mut done = 0;
        for len in [70, 1, 25, 128, 76] {
            append(
                &stream,
                &gate,
                &mut cache,
                &part(&stream, &inputs.k, [2, 2, 300, 32], &[done; 2], len),
                Span::From(done),
            );
            let q = part(&stream, &inputs.q, [2, 4, 300, 32], &[done; 2], len);
            done += len;
            let chunk = Prefill { shape: AttentionShape { q_len: len, kv_len: done, ..whole.shape }, ..whole.clone() };
            let mut of_chunk = chunk.inputs::<bf16>();
            of_chunk.q = q.to_vec(&stream).unwrap();
            of_chunk.k = part(&stream, &inputs.k, [2, 2, 300, 32], &[0; 2], done).to_vec(&stream).unwrap();
            let options = SelectOptions { last_rows_dense: 1, ..SelectOptions::new(Select::Blocks(3)) };
            let (logits, lists) = chunk.expected(&of_chunk, &[options]);
            let mut plan = gate.empty_plan(&stream, &chunk.shape, &Mask::CAUSAL, &options, None).unwrap();
            let mut workspace = stream.alloc_bytes(gate.cached_workspace_bytes(&chunk.shape, &options)).unwrap();
            gate.select_with_cache(
                &stream,
                &chunk.shape,
                &Mask::CAUSAL,
                q.view(),
                &cache,
                &options,
                &mut plan,
                &mut workspace,
            )
            .unwrap();
            let got = flags(&stream, &plan, done.div_ceil(32));
            let [q, k] = chunk.tensors(&stream, &of_chunk);
            let direct = gate.logits(&stream, &chunk.shape, &Mask::CAUSAL, q.view(), k.view()).unwrap();
            let error = logit_error(&direct.to_vec(&stream).unwrap(), &logits, true);
            tally.compare(&got, &lists[0], score_error(error, &logits), &chunk);
        }
    }
    tally.finish("chunks");
}

/// Starts and lengths on the device are data.
#[test]
fn wild_spans_stay_inside() {
    for stream in streams(5) {
        let case = case(4, 40, 16);
        let inputs = case.inputs::<bf16>();
        let gate = case.gate(&stream, &inputs, 128);
        let k = part(&stream, &inputs.k, [4, 2, 40, 32], &[0; 4], 40);
        for (starts, lens) in [
            ([i32::MIN, -1, i32::MAX, 1 << 30], [i32::MAX, -7, 40, i32::MIN]),
            ([120, 127, 128, 0], [40, 1 << 30, 40, 40]),
        ] {
            let mut cache = gate.cache(&stream, 4, 100).unwrap();
            let starts = Tensor::vector(&stream, &starts).unwrap();
            let lens = Tensor::vector(&stream, &lens).unwrap();
            append(&stream, &gate, &mut cache, &k, Span::Ragged { starts: &starts, lens: &lens });
            // The next one is as good as ever.
            append(&stream, &gate, &mut cache, &k, Span::From(0));
            let mut fresh = gate.cache(&stream, 4, 100).unwrap();
            append(&stream, &gate, &mut fresh, &k, Span::From(0));
            for b in 0..4 {
                assert_eq!(vectors(&stream, &cache, b, 3), vectors(&stream, &fresh, b, 3));
            }
        }
    }
}

#[test]
fn memory_is_a_vector_a_block() {
    for stream in streams(6) {
        let case = case(2, 64, 64);
        let gate = case.gate(&stream, &case.inputs::<bf16>(), 1000);
        let cache = gate.cache(&stream, 2, 1000).unwrap();
        // 16 blocks of 2 heads and 32 elements, and 3 rows of 32 for the open block of 2 heads.
        assert_eq!(cache.memory_bytes(), 4 * 2 * (2 * 16 * 32 + 2 * 3 * 32));
        assert_eq!((cache.batch(), cache.max_len()), (2, 1024));
    }
}
