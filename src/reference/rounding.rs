//! Rounding f64 values to the kernels' element types, without a detour over f32.

use crate::shape::DType;

/// Significant bits, exponent of the smallest normal value, exponent of the largest value.
fn format(dtype: DType) -> (i32, i32, i32) {
    match dtype {
        DType::F16 => (11, -14, 15),
        DType::BF16 => (8, -126, 127),
    }
}

/// `2^exponent` for a normal f64.
fn power_of_two(exponent: i32) -> f64 {
    f64::from_bits(((exponent + 1023) as u64) << 52)
}

/// `floor(log2(|x|))` of a normal f64; some number below -1000 for zero and subnormals.
fn exponent(x: f64) -> i32 {
    ((x.to_bits() >> 52) & 0x7ff) as i32 - 1023
}

/// The distance between neighbouring values of `dtype` at the magnitude of `x` (which is finite), subnormals included.
pub fn ulp(dtype: DType, x: f64) -> f64 {
    let (bits, lowest, _) = format(dtype);
    power_of_two(exponent(x).max(lowest) - (bits - 1))
}

/// `x` rounded to the nearest value of `dtype`, ties to even; overflow gives infinity.
pub fn round_to(dtype: DType, x: f64) -> f64 {
    let (_, _, highest) = format(dtype);
    if !x.is_finite() {
        return x;
    }
    if exponent(x) > highest {
        return f64::INFINITY.copysign(x);
    }
    // At this magnitude one f64 ulp is one `dtype` ulp, so the addition rounds; the subtraction is exact.
    let magnitude = ulp(dtype, x) * (1.5 * power_of_two(52));
    let rounded = (x + magnitude) - magnitude;
    if exponent(rounded) > highest { f64::INFINITY.copysign(x) } else { rounded.copysign(x) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::{bf16, f16};
    use proptest::prelude::*;

    #[test]
    fn every_value_is_its_own_rounding_and_ties_go_to_even() {
        for bits in 0..=u16::MAX {
            for dtype in [DType::F16, DType::BF16] {
                let value = |bits| match dtype {
                    DType::F16 => f16::from_bits(bits).to_f64(),
                    DType::BF16 => bf16::from_bits(bits).to_f64(),
                };
                let x = value(bits);
                if !x.is_finite() {
                    assert!(round_to(dtype, x).is_nan() == x.is_nan() && (x.is_nan() || round_to(dtype, x) == x));
                    continue;
                }
                assert_eq!(round_to(dtype, x).to_bits(), x.to_bits());
                let above = value(bits.wrapping_add(1));
                if above.is_finite() {
                    assert_eq!((above - x).abs(), ulp(dtype, x), "{dtype} {bits:#x}");
                    let even = if bits & 1 == 0 { x } else { above };
                    assert_eq!(round_to(dtype, (x + above) / 2.0), even);
                }
            }
        }
    }

    #[test]
    fn overflow_is_infinite() {
        assert_eq!(round_to(DType::F16, 65519.9), 65504.0);
        assert_eq!(round_to(DType::F16, -65520.0), f64::NEG_INFINITY);
        assert_eq!(round_to(DType::BF16, 3.4e38), f64::INFINITY);
        assert_eq!(round_to(DType::BF16, 1e300), f64::INFINITY);
        assert_eq!(round_to(DType::F16, 1e-300).to_bits(), 0);
    }

    proptest! {
        #[test]
        fn f32_values_round_as_half_does(x: f32) {
            let (narrow, wide) = (f16::from_f32(x).to_f64(), bf16::from_f32(x).to_f64());
            let x = f64::from(x);
            prop_assert!(round_to(DType::F16, x) == narrow || x.is_nan());
            prop_assert!(round_to(DType::BF16, x) == wide || x.is_nan());
        }
    }
}
