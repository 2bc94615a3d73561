//! `cvt.rn`, `ex2`, `lg2`, `rcp`: special values, all 16-bit patterns, rounding ties, accuracy.

use lacuna::{bf16, f16};
use lacuna_simt_tests::{Config, Family, Run};

fn map(name: &'static str, inputs: &[f32]) -> Vec<u32> {
    let run = Run {
        source: inputs.iter().map(|x| x.to_bits()).collect(),
        target_words: inputs.len(),
        count: inputs.len() as i64,
        blocks: (inputs.len() as i64 / 4096).clamp(1, 16),
        ..Run::new(Family::Conversions, name, 64)
    };
    let outcome = run.run(&Config::fast());
    assert_eq!(outcome.failure, None);
    outcome.target
}

fn floats(name: &'static str, inputs: &[f32]) -> Vec<f32> {
    map(name, inputs).into_iter().map(f32::from_bits).collect()
}

/// Every value of the format, the ties between neighbours, and what lies next to all of these in f32.
fn rounding_inputs(widen: impl Fn(u16) -> f32) -> Vec<f32> {
    let mut inputs = Vec::new();
    for pattern in 0..=u16::MAX {
        let value = widen(pattern);
        inputs.push(value);
        let next = widen(pattern.wrapping_add(1));
        if value.is_finite() && next.is_finite() {
            let tie = ((f64::from(value) + f64::from(next)) / 2.0) as f32;
            inputs.extend([tie, f32::from_bits(tie.to_bits() ^ 1), f32::from_bits(tie.to_bits().wrapping_sub(1))]);
        }
        if value.is_finite() && value != 0.0 {
            inputs.extend([f32::from_bits(value.to_bits() - 1), f32::from_bits(value.to_bits() + 1)]);
        }
    }
    inputs.extend([f32::INFINITY, f32::NEG_INFINITY, f32::NAN, -f32::NAN, f32::MAX, f32::MIN, f32::MIN_POSITIVE, 0.0]);
    inputs.extend([-0.0, 1e-45, -1e-45, 65504.0, 65519.996, 65520.0, 65536.0, f32::from_bits(0x7f80_0001)]);
    inputs
}

fn rounds(name: &'static str, widen: impl Fn(u16) -> f32, narrow: impl Fn(f32) -> u16) {
    let inputs = rounding_inputs(widen);
    for (input, got) in inputs.iter().zip(map(name, &inputs)) {
        let wanted = if input.is_nan() { 0x7fff } else { u32::from(narrow(*input)) };
        assert_eq!(got, wanted, "{name} of {input:e} ({:#010x})", input.to_bits());
    }
}

#[test]
fn rounding_to_16_bits() {
    rounds("to_bf16", |p| bf16::from_bits(p).to_f32(), |x| bf16::from_f32(x).to_bits());
    rounds("to_f16", |p| f16::from_bits(p).to_f32(), |x| f16::from_f32(x).to_bits());
}

#[test]
fn first_operand_of_pack_goes_to_the_low_half() {
    let inputs = [1.5, -0.0, 3e38, f32::INFINITY, f32::NAN, 1e-30];
    let expected = |narrow: &dyn Fn(f32) -> u16| -> Vec<u32> {
        let half = |x: f32| if x.is_nan() { 0x7fff } else { u32::from(narrow(x)) };
        inputs.iter().map(|&x| half(x) | half(-x) << 16).collect()
    };
    assert_eq!(map("pack_bf16", &inputs), expected(&|x| bf16::from_f32(x).to_bits()));
    assert_eq!(map("pack_f16", &inputs), expected(&|x| f16::from_f32(x).to_bits()));
}

/// Distance in units of the last place of the exact value.
fn ulps(got: f32, exact: f64) -> f64 {
    let exponent = exact.abs().log2().floor().max(-126.0) as i32;
    (f64::from(got) - exact).abs() / 2f64.powi(exponent - 23)
}

#[test]
fn ex2_special_values() {
    let inputs = [f32::NEG_INFINITY, f32::INFINITY, -126.5, 128.0, -126.0, -1e30, 1e30, 0.0, -0.0, 1.0, -1.0, 127.0];
    let min = f32::MIN_POSITIVE;
    let inf = f32::INFINITY;
    let expected = [0.0, inf, 0.0, inf, min, 0.0, inf, 1.0, 1.0, 2.0, 0.5, 1.7014118e38];
    let got = floats("ex2", &inputs);
    assert_eq!(got, expected);
    assert!(got[0].is_sign_positive());
    assert!(floats("ex2", &[f32::NAN])[0].is_nan());
    // Close to the top, where the power of two alone would overflow.
    for x in [127.5f32, 127.9999, f32::from_bits(128f32.to_bits() - 1)] {
        assert!(ulps(floats("ex2", &[x])[0], f64::from(x).exp2()) <= 2.0, "{x}");
    }
}

#[test]
fn ex2_is_accurate_to_2_ulp() {
    let inputs: Vec<f32> = (0..1_000_000).map(|i| -126.0 + i as f32 * 2.539_99e-4).filter(|&x| x < 128.0).collect();
    let small: Vec<f32> = (0..200_000).map(|i| (i as f32 - 1e5) * 1.3e-5).collect();
    for set in [inputs, small] {
        let worst = set.iter().zip(floats("ex2", &set)).map(|(&x, got)| ulps(got, f64::from(x).exp2()));
        let worst = worst.fold(0.0, f64::max);
        assert!(worst <= 2.0, "{worst} ulp");
    }
}

#[test]
fn lg2() {
    let inputs = [0.0, -0.0, 1e-40, f32::INFINITY, 1.0, 2.0, 0.5, f32::MIN_POSITIVE];
    let low = f32::NEG_INFINITY;
    assert_eq!(floats("lg2", &inputs), [low, low, low, f32::INFINITY, 0.0, 1.0, -1.0, -126.0]);
    assert!(floats("lg2", &[-1.0, f32::NAN, f32::NEG_INFINITY]).iter().all(|x| x.is_nan()));
    // PTX promises 2^-22; the host is better.
    let inputs: Vec<f32> = (0..500_000u32).map(|i| f32::from_bits(0x0080_0000 + i * 4261)).collect();
    for (x, got) in inputs.iter().zip(floats("lg2", &inputs)) {
        let exact = f64::from(*x).log2();
        let error = (f64::from(got) - exact).abs();
        assert!(error <= 2f64.powi(-22) * exact.abs().max(1.0), "lg2({x:e}) = {got}");
        assert!(exact == 0.0 || ulps(got, exact) <= 1.0, "lg2({x:e}) = {got}");
    }
}

#[test]
fn rcp_and_max() {
    let inputs: Vec<f32> = (0..100_000u32).map(|i| f32::from_bits(0x0100_0000 + i * 20_000)).collect();
    for (x, got) in inputs.iter().zip(floats("rcp", &inputs)) {
        if (f32::MIN_POSITIVE..1.0 / f32::MIN_POSITIVE).contains(x) {
            assert!(ulps(got, 1.0 / f64::from(*x)) <= 1.0, "1 / {x:e} = {got:e}");
        }
    }
    let inputs = [2.0, 0.5, f32::NAN, f32::INFINITY, f32::NEG_INFINITY];
    let expected = [2.0, 1.0, 1.0, f32::INFINITY, 1.0]; // a NaN loses
    assert_eq!(floats("max_first", &inputs), expected);
    assert_eq!(floats("max_second", &inputs), expected);
}
