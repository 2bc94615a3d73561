//! The library's forward kernel on made-up inputs (kernels/forward_case.h).

use crate::config::{RawStream, Stream};
use crate::kernel::last_error;

/// `simt_forward_case`: one sequence, dense plan.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ForwardCase {
    pub q_heads: i32,
    pub kv_heads: i32,
    pub q_len: i32,
    pub kv_len: i32,
    pub head_dim: i32,
    /// 0: f16, 1: bf16.
    pub dtype: i32,
    pub causal: i32,
    /// Guard pages of the buffers: 0, 1 or 2.
    pub guard: i32,
    /// `lacuna_family`.
    pub family: i32,
}

/// Bits of the output rows and of the LSE.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForwardResult {
    pub out: Vec<u16>,
    pub lse: Vec<u32>,
}

impl ForwardCase {
    pub fn run(&self, stream: &Stream) -> Result<ForwardResult, String> {
        let rows = (self.q_heads * self.q_len) as usize;
        let mut out = vec![0u16; rows * self.head_dim as usize];
        let mut lse = vec![0u32; rows];
        // SAFETY: both vectors have the sizes that the function writes.
        let status = unsafe { simt_forward_run(self, stream.raw, out.as_mut_ptr(), lse.as_mut_ptr().cast()) };
        if status == 0 { Ok(ForwardResult { out, lse }) } else { Err(last_error()) }
    }

    /// Relative error of the output in the Frobenius norm, and the largest error of the LSE, against f64.
    pub fn compare(&self, result: &ForwardResult) -> (f64, f64) {
        let (mut out, mut lse) = (f64::NAN, f64::NAN);
        // SAFETY: the vectors have the sizes of this case.
        unsafe {
            simt_forward_compare(self, result.out.as_ptr(), result.lse.as_ptr().cast(), &mut out, &mut lse);
        }
        (out, lse)
    }

    /// Multiply-adds of a dense call of the portable family without causal mask, in whole 64-row tiles and 16-key
    /// slots.
    pub fn dense_macs(&self) -> u64 {
        let rows = (self.q_len as u64).div_ceil(64) * 64;
        let keys = (self.kv_len as u64).div_ceil(16) * 16;
        2 * self.q_heads as u64 * rows * keys * self.head_dim as u64
    }
}

unsafe extern "C" {
    fn simt_forward_run(problem: *const ForwardCase, stream: *mut RawStream, out: *mut u16, lse: *mut f32) -> i32;
    fn simt_forward_compare(
        problem: *const ForwardCase,
        out: *const u16,
        lse: *const f32,
        out_error: *mut f64,
        lse_error: *mut f64,
    );
}
