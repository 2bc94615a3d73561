//! What gates are trained on: the pooled features against plain f64 code.

use crate::harness::{Storage, streams};
use crate::seer_case::{ALL, AVG, values, wide};
use lacuna::seer::{Pools, pooled_features};
use lacuna::{Error, Half, Stream, Tensor, bf16, f16};

/// Of dims `[batch, heads, tokens, dim]`, the features of a block, and by how much an average may be off.
fn features(x: &[f64], dims: [usize; 4], (row, block, size): (usize, usize, usize), pools: Pools) -> Vec<(f64, f64)> {
    let [_, _, len, dim] = dims;
    let tokens: Vec<&[f64]> =
        (block * size..((block + 1) * size).min(len)).map(|token| &x[(row * len + token) * dim..][..dim]).collect();
    let column = |d: usize| tokens.iter().map(move |token| token[d]);
    let count = tokens.len() as f64;
    let mut all = Vec::new();
    if pools.max {
        all.extend((0..dim).map(|d| (column(d).fold(f64::NEG_INFINITY, f64::max), 0.0)));
    }
    if pools.min {
        all.extend((0..dim).map(|d| (column(d).fold(f64::INFINITY, f64::min), 0.0)));
    }
    if pools.avg {
        // A rounding for each addition and one for the division.
        let error = |d: usize| f64::from(f32::EPSILON) * column(d).map(f64::abs).sum::<f64>();
        all.extend((0..dim).map(|d| (column(d).sum::<f64>() / count, error(d))));
    }
    all
}

fn check<T: Half>(stream: &Stream, dims: [usize; 4], size: usize, pools: Pools, storage: Storage) {
    let x: Vec<T> = values(dims.iter().product(), 6.0, size as u64);
    let mut tensor = Tensor::with_layout(stream, storage.layout(dims)).unwrap();
    tensor.copy_from_slice(stream, &x).unwrap();
    let got = pooled_features(stream, size, pools, tensor.view()).unwrap();
    let [batch, heads, len, dim] = dims;
    let blocks = len.div_ceil(size);
    assert_eq!(got.dims(), [batch, heads, blocks, pools.count() * dim]);
    let (x, got) = (wide(&x), got.to_vec(stream).unwrap());
    let width = pools.count() * dim;
    for (at, row) in got.chunks(width).enumerate() {
        let expected = features(&x, dims, (at / blocks, at % blocks, size), pools);
        assert_eq!(expected.len(), width);
        for (got, (want, bound)) in row.iter().zip(expected) {
            assert!((f64::from(*got) - want).abs() <= bound, "{got} for {want}: {dims:?}, blocks of {size}, {pools:?}");
        }
    }
}

#[test]
fn features_are_the_pools_of_each_block() {
    let (max, min) = (Pools { max: true, min: false, avg: false }, Pools { avg: false, ..ALL });
    for stream in streams(1) {
        for (size, storage) in [16, 32, 64, 128].into_iter().zip(Storage::ALL) {
            for pools in [ALL, AVG, max, min] {
                check::<bf16>(&stream, [2, 3, 200, 32], size, pools, storage);
                check::<f16>(&stream, [1, 2, size, 64], size, pools, storage);
                check::<bf16>(&stream, [1, 1, size - 1, 8], size, pools, storage);
            }
        }
        // Less than one block, and nothing.
        check::<bf16>(&stream, [1, 2, 1, 256], 64, ALL, Storage::Packed);
        check::<bf16>(&stream, [1, 2, 0, 64], 64, ALL, Storage::Packed);
    }
}

#[test]
fn features_of_what_does_not_fit() {
    for stream in streams(2) {
        let run = |dims: [usize; 4], size, pools| {
            let x = Tensor::<bf16>::zeros(&stream, dims).unwrap();
            match pooled_features(&stream, size, pools, x.view()) {
                Err(Error::Value { what, .. }) => what,
                other => panic!("{other:?}"),
            }
        };
        let none = Pools { max: false, min: false, avg: false };
        assert_eq!(run([1, 1, 40, 32], 48, ALL), "block_size");
        assert_eq!(run([1, 1, 40, 32], 0, ALL), "block_size");
        assert_eq!(run([1, 1, 40, 32], 16, none), "pools");
        assert_eq!(run([1, 1, 40, 30], 16, ALL), "sizes of x");
        assert_eq!(run([1, 1, 40, 264], 16, ALL), "sizes of x");
    }
}
