//! The tensors of `kernels/tensor_params.h`, and where a box of one lies in shared memory: by rows and a table of each
//! swizzle, not by address bits.

use lacuna_simt_tests::{Family, Run};

/// `Swizzle` of ptx/tensor_map.h.
pub const NONE: i64 = 0;
pub const SWIZZLE_32: i64 = 1;
pub const SWIZZLE_64: i64 = 2;
pub const SWIZZLE_128: i64 = 3;

/// Elements of the tensor, innermost first.
pub const SIZES: [i64; 4] = [40, 10, 3, 2];
pub const TENSOR_WORDS: usize = 40 * 10 * 3 * 2 / 2;
/// Boxes reach over every edge, from both sides, and lie outside.
pub const PLACES: [[i8; 4]; 11] = [
    [0, 0, 0, 0],
    [-8, 1, 1, 1],
    [-3, 0, 0, 0],
    [35, 0, 1, 0],
    [0, -5, 0, 1],
    [8, 7, 1, 0],
    [0, 0, -1, 0],
    [0, 2, 2, 1],
    [0, 0, 0, -1],
    [1, 1, 1, 2],
    [-7, -2, -1, 0],
];

const ROWS: i64 = 8;
const HEADS: i64 = 2;
/// By how much the chunks of 16 bytes of a row, counted from 0, change places in each swizzle.
const TURNS: [[usize; 8]; 4] = [[0; 8], [0, 0, 0, 0, 1, 1, 1, 1], [0, 0, 1, 1, 2, 2, 3, 3], [0, 1, 2, 3, 4, 5, 6, 7]];

pub fn columns(swizzle: i64) -> i64 {
    [64, 16, 32, 64][swizzle as usize]
}

pub fn bytes(swizzle: i64) -> i64 {
    columns(swizzle) * ROWS * HEADS * 2
}

/// Calls `visit(element of the box as it lies in shared memory, element of the tensor if the box has one there)`.
pub fn for_each_element(swizzle: i64, at: [i8; 4], mut visit: impl FnMut(usize, Option<usize>)) {
    let width = columns(swizzle);
    for head in 0..HEADS {
        for row in 0..ROWS {
            for column in 0..width {
                let line = (head * ROWS + row) as usize;
                let chunk = (column as usize / 8) ^ TURNS[swizzle as usize][line % 8];
                let place = [column, row, head, 0];
                let position: Vec<i64> =
                    place.iter().zip(at).map(|(&inside, start)| inside + i64::from(start)).collect();
                let inside = position.iter().zip(SIZES).all(|(&p, size)| (0..size).contains(&p));
                let element = position.iter().zip(SIZES).rev().fold(0, |sum, (&p, size)| sum * size + p);
                visit(line * width as usize + chunk * 8 + column as usize % 8, inside.then_some(element as usize));
            }
        }
    }
}

pub fn element(words: &[u32], index: usize) -> u32 {
    words[index / 2] >> (16 * (index % 2)) & 0xffff
}

pub fn set_element(words: &mut [u32], index: usize, value: u32) {
    let shift = 16 * (index % 2);
    words[index / 2] = words[index / 2] & !(0xffff << shift) | value << shift;
}

/// A launch with the box at `at`; the source is a tensor of distinct elements.
pub fn run(family: Family, name: &'static str, swizzle: i64, at: [i8; 4]) -> Run {
    let mut source = vec![0; TENSOR_WORDS];
    for i in 0..2 * TENSOR_WORDS {
        set_element(&mut source, i, (i * 7 + 3) as u32);
    }
    Run {
        source,
        count: at.iter().rev().fold(0, |word, &c| word << 8 | i64::from(c as u8)),
        variant: swizzle,
        // The box and two mbarriers.
        smem_bytes: bytes(NONE) + 16,
        ..Run::new(family, name, 64)
    }
}

/// The planted twin's number `bug`.
pub fn with_bug(run: &Run, bug: usize) -> Run {
    Run { variant: run.variant & 3 | (bug as i64) << 2, ..run.clone() }
}
