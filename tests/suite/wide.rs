//! Schedules whose rows serve more query rows than a kernel's tile, through the raw entry points.

use crate::harness::{Case, Outcome, shape, simt, streams, uniform};
use lacuna::attention::{self, raw};
use lacuna::{BlockMask, BlockPlan, BlockSize, Error, ListRows, Mask, Result, SimtConfig, Stream, Tensor, bf16};

/// Lists `[1, q_heads, q_blocks]` of blocks for a case.
struct Lists {
    block: BlockSize,
    offsets: Vec<i32>,
    indices: Vec<i32>,
}

impl Lists {
    /// About half of the blocks.
    fn random(case: &Case, block: BlockSize) -> Self {
        let s = &case.shape;
        let mut state = case.seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let (mut offsets, mut indices) = (vec![0], Vec::new());
        for _ in 0..s.q_heads * s.q_len.div_ceil(block.q) {
            indices.extend((0..s.kv_len.div_ceil(block.k) as i32).filter(|_| uniform(&mut state) > 0.0));
            offsets.push(indices.len() as i32);
        }
        Self { block, offsets, indices }
    }

    fn blocks(&self, case: &Case) -> BlockMask {
        let (q, k) = (self.block.q, self.block.k);
        BlockMask::from_lists(&case.shape, q, k, 1, case.shape.q_heads, &self.offsets, &self.indices).unwrap()
    }
}

fn vector(stream: &Stream, len: usize) -> Tensor<i32> {
    let mut tensor = Tensor::uninit(stream, [1, 1, 1, len]).unwrap();
    tensor.fill_bytes(stream, 0xFF).unwrap();
    tensor
}

fn address<T: lacuna::Element>(tensor: &mut Tensor<T>) -> *mut T {
    tensor.view_mut().as_mut_ptr()
}

/// Forward over the lists, arranged in rows of `tile_q` query rows.
fn run(case: &Case, lists: &Lists, stream: &Stream, tile_q: usize) -> Result<Outcome> {
    let s = &case.shape;
    let [q, k, v] = case.inputs::<bf16>();
    let mut q = Tensor::from_slice(stream, &q, case.q_dims())?;
    let mut k = Tensor::from_slice(stream, &k, case.kv_dims())?;
    let mut v = Tensor::from_slice(stream, &v, case.kv_dims())?;
    let mut out = Tensor::<bf16>::uninit(stream, case.q_dims())?;
    let mut lse = Tensor::<f32>::uninit(stream, [s.batch, s.q_heads, s.q_len, 1])?;
    let mut offsets = Tensor::vector(stream, &lists.offsets)?;
    let mut indices = Tensor::vector(stream, &lists.indices)?;
    let rows = s.q_heads * s.q_len.div_ceil(tile_q);
    let (capacity, partial) = (lists.indices.len(), case.splits * s.batch * s.q_heads * s.q_len);
    let [mut row_offsets, mut order, mut counts] = [rows + 1, rows, rows].map(|len| vector(stream, len));
    let [mut entries, mut overflow, mut counter] = [capacity, 1, 1].map(|len| vector(stream, len));
    let mut partial_out = Tensor::<f32>::uninit(stream, [1, 1, partial, s.head_dim])?;
    let mut partial_lse = Tensor::<f32>::uninit(stream, [1, 1, 1, partial])?;

    let packed = |heads: usize, len: usize, dim: usize| raw::lacuna_strides {
        batch: (heads * len * dim) as i64,
        head: (len * dim) as i64,
        seq: dim as i64,
    };
    let schedule = raw::lacuna_schedule {
        tile_q: tile_q as i32,
        unit: lists.block.k as i32,
        rows: rows as i32,
        capacity: capacity as i32,
        offsets: address(&mut row_offsets),
        entries: address(&mut entries).cast(),
        order: address(&mut order),
        counts: address(&mut counts),
        overflow: address(&mut overflow),
    };
    let params = raw::lacuna_forward_params {
        shape: raw::lacuna_shape {
            batch: s.batch as i32,
            q_heads: s.q_heads as i32,
            kv_heads: s.kv_heads as i32,
            q_len: s.q_len as i32,
            kv_len: s.kv_len as i32,
            head_dim: s.head_dim as i32,
            dtype: 1,
            ..Default::default()
        },
        mask: raw::lacuna_mask {
            causal: i32::from(case.mask.causal),
            window_left: case.mask.window_left.map_or(-1, |window| window as i32),
            window_right: case.mask.window_right.map_or(-1, |window| window as i32),
        },
        plan: raw::lacuna_block_plan {
            kind: 1,
            plan_batch: 1,
            heads: s.q_heads as i32,
            block_q: lists.block.q as i32,
            block_k: lists.block.k as i32,
            capacity: capacity as i32,
            row_offsets: address(&mut offsets),
            indices: address(&mut indices),
            ..Default::default()
        },
        schedule,
        q: address(&mut q).cast(),
        k: address(&mut k).cast(),
        v: address(&mut v).cast(),
        out: address(&mut out).cast(),
        lse: address(&mut lse),
        q_stride: packed(s.q_heads, s.q_len, s.head_dim),
        k_stride: packed(s.kv_heads, s.kv_len, s.head_dim),
        v_stride: packed(s.kv_heads, s.kv_len, s.head_dim),
        out_stride: packed(s.q_heads, s.q_len, s.head_dim),
        lse_stride: packed(s.q_heads, s.q_len, 1),
        scale: (s.head_dim as f32).sqrt().recip(),
        splits: case.splits as i32,
        // Wide rows are there for other kernels; these must work with them.
        family: 80,
        partial_out: address(&mut partial_out),
        partial_lse: address(&mut partial_lse),
        counter: address(&mut counter),
        ..Default::default()
    };
    let build = raw::lacuna_schedule_params {
        shape: params.shape,
        mask: params.mask,
        plan: params.plan,
        schedule,
        ..Default::default()
    };
    // SAFETY: the tensors above have the sizes that the header names and live to the end of this function.
    unsafe { raw::schedule_build(stream, &build) }?;
    // SAFETY: as above.
    unsafe { raw::forward(stream, &params) }?;
    if case.splits > 1 {
        let dims = [case.splits * s.batch, s.q_heads, s.q_len];
        let view = |dim| [dims[0], dims[1], dims[2], dim];
        let parts = Tensor::from_slice(stream, &partial_out.to_vec(stream)?, view(s.head_dim))?;
        let sums = Tensor::from_slice(stream, &partial_lse.to_vec(stream)?, view(1))?;
        let lse = Some(lse.view_mut());
        attention::merge(stream, case.splits, parts.view(), sums.view(), out.view_mut(), lse)?;
    }
    assert_eq!(overflow.to_vec(stream)?, [0]);
    let out = out.to_vec(stream)?.into_iter().map(|x| x.to_f32()).collect();
    Ok(Outcome { out, lse: lse.to_vec(stream)? })
}

#[test]
fn wide_rows_give_the_bits_of_narrow_ones() {
    let window = Mask { window_left: Some(60), ..Mask::CAUSAL };
    for (q, k, tiles) in [
        (16, 16, &[128][..]),
        (16, 64, &[128]),
        (32, 64, &[128, 192, 256]),
        (64, 32, &[128, 256, 512]),
        (128, 128, &[256, 1024]),
    ] {
        for (mask, splits) in [(Mask::CAUSAL, 1), (Mask::FULL, 3), (window, 2)] {
            let case = Case { splits, seed: (q + k) as u64, ..Case::new(shape(2, (2, 1), (290, 300), 64), mask) };
            let lists = Lists::random(&case, BlockSize { q, k });
            for stream in streams((q * k) as u64) {
                let narrow = run(&case, &lists, &stream, q.max(64)).unwrap();
                case.compare::<bf16>(&narrow, &lists.blocks(&case).visibility(&case.shape, &case.mask)).unwrap();
                for &tile_q in tiles {
                    let wide = run(&case, &lists, &stream, tile_q).unwrap();
                    assert!(wide.same_bits(&narrow), "blocks {q} x {k}, rows of {tile_q}, {case:?}");
                }
            }
        }
    }
}

#[test]
fn wide_rows_cost_no_work_for_the_tiles_beside() {
    let case = Case::new(shape(1, (2, 1), (256, 300), 64), Mask::FULL);
    for splits in [1, 4] {
        let case = Case { splits, ..case.clone() };
        let lists = Lists::random(&case, BlockSize { q: 16, k: 16 });
        let stream = simt(1);
        let work = |tile_q| {
            stream.reset_counters();
            run(&case, &lists, &stream, tile_q).unwrap();
            let counters = stream.counters().unwrap();
            (counters.mma_macs, counters.copy_bytes)
        };
        assert_eq!(work(64), work(128));
    }
}

#[test]
fn every_schedule_of_threads_gives_the_same_bits() {
    let case = Case { splits: 2, ..Case::new(shape(1, (2, 1), (150, 200), 64), Mask::CAUSAL) };
    let lists = Lists::random(&case, BlockSize { q: 16, k: 32 });
    let fast = lacuna::Device::simt().unwrap().new_stream().unwrap();
    let expected = run(&case, &lists, &fast, 64).unwrap();
    for seed in 0..16 {
        let device = lacuna::Device::simt_with(SimtConfig::checked(seed)).unwrap();
        let outcome = run(&case, &lists, &device.new_stream().unwrap(), 128).unwrap();
        assert!(outcome.same_bits(&expected), "seed {seed}");
    }
}

#[test]
fn rows_that_no_kernel_can_walk_are_refused() {
    let case = Case::new(shape(1, (1, 1), (300, 300), 64), Mask::CAUSAL);
    let stream = simt(2);
    // More than 8 query blocks, a part of a query block, a part of a tile.
    for (q, tile_q) in [(16, 256), (64, 96), (128, 64), (32, 96)] {
        let lists = Lists::random(&case, BlockSize { q, k: 64 });
        let result = run(&case, &lists, &stream, tile_q);
        assert!(matches!(result, Err(Error::Value { .. })), "{q} {tile_q}: {result:?}");
    }
}

#[test]
fn the_safe_path_builds_what_the_raw_one_does() {
    let case = Case::new(shape(1, (2, 1), (290, 300), 64), Mask::CAUSAL);
    let lists = Lists::random(&case, BlockSize { q: 16, k: 32 });
    let rows = ListRows { block: lists.block, batch: 1, heads: 2, absolute: false };
    for stream in streams(3) {
        let plan = BlockPlan::from_lists(&stream, &case.shape, rows, &lists.offsets, &lists.indices).unwrap();
        let case = Case { family: lacuna::KernelFamily::Portable, ..case.clone() };
        let safe = case.run::<bf16>(&stream, &plan).unwrap();
        assert!(safe.same_bits(&run(&case, &lists, &stream, 128).unwrap()));
    }
}
