//! Structs that grow: what an older or a newer caller says by `struct_size`.

use std::mem::MaybeUninit;

use crate::abi;
use crate::failure::{Failure, Result};
use crate::guard::guard;

/// Larger sizes are garbage, not a newer version.
const LARGEST: usize = 4096;

/// A struct of the header whose first field is `uint32_t struct_size`.
///
/// # Safety
/// `repr(C)`, starts with `struct_size`, and all of its bit patterns are valid.
pub unsafe trait Versioned: Copy {
    const NAME: &'static str;

    /// The value of the fields that a caller does not have, with a `struct_size` of this version.
    fn defaults() -> Self;
}

fn check_size<T: Versioned>(size: usize) -> Result<()> {
    // Multiples of 8 never cut a field in two: structs with fields of 8 bytes have such sizes, in every version.
    if (8..=LARGEST).contains(&size) && size.is_multiple_of(8) {
        return Ok(());
    }
    let text = format!("{}: expected a struct_size of {}, got {size}", T::NAME, size_of::<T>());
    Err(Failure::new(abi::LACUNA_ERROR_STRUCT, text))
}

/// The size that the caller's struct says it has.
///
/// # Safety
/// `pointer` is null or points to a struct whose first field is its size.
unsafe fn size_of_callers<T: Versioned>(pointer: *const T) -> Result<usize> {
    if pointer.is_null() {
        return Err(Failure::new(abi::LACUNA_ERROR_NULL, format!("{}: expected an address, got null", T::NAME)));
    }
    // SAFETY: the first field; nothing is assumed of the address.
    let size = unsafe { pointer.cast::<u32>().read_unaligned() } as usize;
    check_size::<T>(size)?;
    Ok(size)
}

/// Reads a struct of whatever version.
///
/// # Safety
/// `pointer` is null or holds as many bytes as its first field says.
pub unsafe fn read<T: Versioned>(pointer: *const T) -> Result<T> {
    // SAFETY: passed on to the caller.
    let size = unsafe { size_of_callers(pointer)? };
    let mut value = T::defaults();
    let known = size.min(size_of::<T>());
    // SAFETY: both hold `known` bytes, and any bytes make a valid struct.
    unsafe { std::ptr::copy_nonoverlapping(pointer.cast::<u8>(), (&raw mut value).cast(), known) };
    // SAFETY: the caller's struct has `size` bytes. They may be padding: bytes without a type.
    let tail = unsafe { std::slice::from_raw_parts(pointer.cast::<u8>().add(known), size - known) };
    if tail.iter().any(|&byte| byte != 0) {
        let text = format!(
            "{}: this library knows {known} of its {size} bytes, and a field behind them is set; it needs a newer \
             version",
            T::NAME
        );
        return Err(Failure::new(abi::LACUNA_ERROR_STRUCT, text));
    }
    Ok(value)
}

/// As [`read`]; null stands for the defaults.
///
/// # Safety
/// As [`read`].
pub unsafe fn read_optional<T: Versioned>(pointer: *const T) -> Result<T> {
    if pointer.is_null() {
        return Ok(T::defaults());
    }
    // SAFETY: passed on to the caller.
    unsafe { read(pointer) }
}

/// A struct of the caller that gets a result: as much of it as it has room for.
pub struct Place<T> {
    pointer: *mut T,
    size: usize,
}

impl<T: Versioned> Place<T> {
    /// # Safety
    /// `pointer` is null or may be written over as many bytes as its first field says, until the call returns.
    pub unsafe fn new(pointer: *mut T) -> Result<Self> {
        // SAFETY: passed on to the caller.
        let size = unsafe { size_of_callers(pointer)? };
        Ok(Self { pointer, size })
    }

    /// Writes every field but `struct_size`; bytes behind those that this version knows become zero.
    pub fn set(self, value: T) {
        write(self.pointer, self.size, value);
    }
}

/// Fills the caller's `size` bytes, of at least 8.
fn write<T: Versioned>(pointer: *mut T, size: usize, value: T) {
    let value = MaybeUninit::new(value);
    let known = size.min(size_of::<T>());
    let bytes = pointer.cast::<u8>();
    // SAFETY: the caller's struct has `size` bytes, of which the first 4 are replaced by it.
    unsafe {
        std::ptr::copy_nonoverlapping(value.as_ptr().cast::<u8>(), bytes, known);
        std::ptr::write_bytes(bytes.add(known), 0, size - known);
        bytes.cast::<u32>().write_unaligned(size as u32);
    }
}

/// # Safety
/// `pointer` is null or may be written over `size` bytes.
unsafe fn init<T: Versioned>(pointer: *mut T, size: usize) -> abi::lacuna_status {
    guard(|| {
        if pointer.is_null() {
            return Err(Failure::new(abi::LACUNA_ERROR_NULL, format!("{}: expected an address, got null", T::NAME)));
        }
        check_size::<T>(size)?;
        write(pointer, size, T::defaults());
        Ok(())
    })
}

/// `versioned! { type, init function: { defaults that are not zero } }`
macro_rules! versioned {
    ($($type:ident, $init:ident: { $($field:ident: $value:expr),* })*) => {$(
        // SAFETY: structs of integers, floats, raw pointers and arrays of them, as bindgen writes them.
        unsafe impl Versioned for abi::$type {
            const NAME: &'static str = stringify!($type);

            fn defaults() -> Self {
                // SAFETY: any bytes make a valid struct; zeros also in the padding.
                let mut value: Self = unsafe { std::mem::zeroed() };
                value.struct_size = size_of::<Self>() as u32;
                $(value.$field = $value;)*
                value
            }
        }

        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $init(pointer: *mut abi::$type, size: usize) -> abi::lacuna_status {
            // SAFETY: passed on to the caller.
            unsafe { init(pointer, size) }
        }
    )*};
}

versioned! {
    lacuna_device_info, lacuna_device_info_init: {}
    lacuna_counters, lacuna_counters_init: {}
    lacuna_tensor, lacuna_tensor_init: {}
    lacuna_shape, lacuna_shape_init: {}
    lacuna_options, lacuna_options_init: {}
    lacuna_s2_config, lacuna_s2_config_init: { block_size: 64, local_blocks: 16, vertical_stride: 8 }
    lacuna_rows, lacuna_rows_init: { block_q: 64, block_k: 64, batch: 1, heads: 1 }
    lacuna_kernel_info, lacuna_kernel_info_init: {}
    lacuna_gradients, lacuna_gradients_init: {}
    lacuna_gate_config, lacuna_gate_config_init: {
        block_size: 64,
        q_pool: abi::LACUNA_POOL_AVG,
        k_pool: abi::LACUNA_POOL_MAX | abi::LACUNA_POOL_MIN | abi::LACUNA_POOL_AVG,
        rope_theta: 10000.0,
        rope_factor: 1.0,
        norm_eps: 1e-6
    }
    lacuna_select, lacuna_select_init: { last_rows_dense: 2, force_diagonal: 1 }
    lacuna_hyper_config, lacuna_hyper_config_init: {
        center: 1,
        num_projections: 7,
        block_size: 256,
        sample_size: 256,
        min_seq_len: 4096,
        rounds: 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use abi::lacuna_s2_config as Config;
    use kernels::{HyperConfig, S2Config, seer::SelectOptions};

    /// A config as a header of another version has it: so many bytes, the last of them `last`.
    fn of_version(size: usize, last: u8) -> Result<Config> {
        let config = Config { struct_size: size as u32, block_size: 32, vertical_stride: 5, ..Config::defaults() };
        let mut bytes = [0u64; 64];
        let start = bytes.as_mut_ptr().cast::<u8>();
        // SAFETY: 512 bytes, more than any size below.
        unsafe {
            start.cast::<Config>().write(config);
            if size > size_of::<Config>() {
                start.add(size - 1).write(last);
            }
            read(start.cast_const().cast())
        }
    }

    #[test]
    fn structs_of_older_versions_get_defaults() {
        // Up to and with block_size.
        let old = of_version(16, 0).unwrap();
        assert_eq!((old.block_size, old.vertical_stride, old.local_blocks), (32, 8, 16));
        assert_eq!(of_version(8, 0).unwrap().block_size, 64);
        assert_eq!(of_version(size_of::<Config>(), 0).unwrap().vertical_stride, 5);
    }

    #[test]
    fn structs_of_newer_versions_are_read_while_their_fields_are_zero() {
        let newer = size_of::<Config>() + 16;
        assert_eq!(of_version(newer, 0).unwrap().vertical_stride, 5);
        let failure = of_version(newer, 1).unwrap_err();
        assert_eq!(failure.status, abi::LACUNA_ERROR_STRUCT);
        assert!(failure.text.contains("newer version"), "{}", failure.text);
    }

    #[test]
    fn other_sizes_are_refused() {
        assert_eq!(of_version(0, 0).unwrap_err().status, abi::LACUNA_ERROR_STRUCT);
        for size in [0, 4, 12, 17, 4104, u32::MAX as usize] {
            assert_eq!(check_size::<Config>(size).unwrap_err().status, abi::LACUNA_ERROR_STRUCT, "{size}");
        }
    }

    #[test]
    fn results_fill_what_the_caller_has_room_for() {
        let mut info = [u64::MAX; 4];
        // SAFETY: 32 bytes, of which the struct says 24.
        unsafe {
            let pointer = info.as_mut_ptr().cast::<abi::lacuna_counters>();
            pointer.cast::<u32>().write(24);
            let counters = abi::lacuna_counters { launches: 7, mma_macs: 8, ..Versioned::defaults() };
            Place::new(pointer).unwrap().set(counters);
        }
        assert_eq!(info, [24, 7, 8, u64::MAX]);
    }

    #[test]
    fn defaults_are_those_of_the_library() {
        let (ours, theirs) = (Config::defaults(), S2Config::default());
        assert_eq!(
            [ours.block_size, ours.local_blocks, ours.vertical_stride],
            [theirs.block_size, theirs.local_blocks, theirs.vertical_stride].map(|n| n as i64)
        );
        let (ours, theirs) = (abi::lacuna_hyper_config::defaults(), HyperConfig::default());
        assert_eq!(
            [ours.num_projections, ours.block_size, ours.sample_size, ours.min_seq_len],
            [theirs.num_projections, theirs.block_size, theirs.sample_size, theirs.min_seq_len].map(|n| n as i64)
        );
        assert_eq!((ours.center == 1, ours.seed), (theirs.center, theirs.seed));
        assert_eq!((ours.sampling, ours.sinks), (theirs.sampling as i32, theirs.sinks as i64));
        assert_eq!((ours.local_window, ours.align_windows == 1), (theirs.local_window as i64, theirs.align_windows));
        let (ours, theirs) = (abi::lacuna_select::defaults(), SelectOptions::new(kernels::seer::Select::Blocks(1)));
        assert_eq!(
            (ours.last_rows_dense, ours.sink_blocks),
            (theirs.last_rows_dense as i64, theirs.sink_blocks as i64)
        );
        assert_eq!((ours.force_diagonal == 1, ours.share_heads == 1), (theirs.force_diagonal, theirs.share_heads));
    }
}
