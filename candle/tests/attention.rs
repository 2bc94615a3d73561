//! The operation against candle's own softmax attention, and its gradients against candle's.
#![cfg(feature = "simt")]

mod plain;

use candle_core::{DType, Device, Result, Tensor, Var};
use lacuna_candle::{Attention, Mask, Plan, S2Config};
use plain::{Plain, check, noise};

/// A call: batch, query heads, KV heads, queries, keys, head dim.
type Sizes = (usize, usize, usize, usize, usize, usize);

fn inputs((batch, q_heads, kv_heads, q_len, kv_len, dim): Sizes, dtype: DType) -> Result<[Tensor; 3]> {
    let tensor = |seed, len, heads| noise(seed, (batch, len, heads, dim))?.to_dtype(dtype);
    Ok([tensor(1, q_len, q_heads)?, tensor(2, kv_len, kv_heads)?, tensor(3, kv_len, kv_heads)?])
}

/// Forward and gradients against plain attention over what `plain` lets through.
fn compare(attention: &Attention, plain: &Plain, sizes: Sizes, dtype: DType) -> Result<()> {
    let [q, k, v] = inputs(sizes, dtype)?;
    let what = format!("{attention:?} {sizes:?} {dtype:?}");
    let dout = noise(4, q.shape())?.to_dtype(dtype)?;
    let vars = [Var::from_tensor(&q)?, Var::from_tensor(&k)?, Var::from_tensor(&v)?];
    let out = attention.apply(&vars[0], &vars[1], &vars[2])?;
    assert_eq!(out.dims(), q.dims());
    let grads = (&out * &dout)?.sum_all()?.backward()?;
    let expected = plain.run([&q, &k, &v], &dout, false)?;
    let ideal = plain.run([&q, &k, &v], &dout, true)?;
    check(&what, "out", &out, &expected[0], &ideal[0], dtype)?;
    for (i, name) in ["dq", "dk", "dv"].into_iter().enumerate() {
        check(&what, name, grads.get(&vars[i]).unwrap(), &expected[i + 1], &ideal[i + 1], dtype)?;
    }
    Ok(())
}

#[test]
fn dense_and_causal() -> Result<()> {
    for dtype in [DType::BF16, DType::F16] {
        compare(&Attention::default(), &Plain::default(), (2, 4, 2, 50, 70, 64), dtype)?;
        compare(&Attention::causal(), &Plain::causal(), (1, 3, 1, 80, 80, 32), dtype)?;
    }
    let scaled = Attention { scale: Some(0.3), ..Attention::causal() };
    compare(&scaled, &Plain { scale: Some(0.3), ..Plain::causal() }, (1, 2, 2, 20, 90, 128), DType::BF16)
}

#[test]
fn windows_and_softcap() -> Result<()> {
    let mask = Mask { causal: true, window_left: Some(20), window_right: None };
    let plain = Plain::new(|p, key| key <= p && p - key <= 20);
    compare(&Attention { mask, ..Attention::default() }, &plain, (1, 2, 1, 100, 100, 64), DType::BF16)?;
    let mask = Mask { causal: false, window_left: Some(7), window_right: Some(9) };
    let plain = Plain::new(|p, key| p - key <= 7 && key - p <= 9);
    compare(&Attention { mask, ..Attention::default() }, &plain, (2, 2, 2, 60, 60, 32), DType::F16)?;
    let capped = Attention { softcap: Some(2.0), ..Attention::causal() };
    compare(&capped, &Plain { softcap: Some(2.0), ..Plain::causal() }, (1, 2, 1, 40, 64, 64), DType::BF16)
}

#[test]
fn s2() -> Result<()> {
    let config = S2Config { block_size: 16, local_blocks: 2, vertical_stride: 3, ..S2Config::default() };
    // Of KV head h, block j is a column iff (j + h * max(1, 3 / 4)) mod 3 = 0; here with one KV head.
    let plain = Plain::new(|p, key| key <= p && (p / 16 - key / 16 < 2 || (key / 16) % 3 == 0));
    compare(&Attention::s2(config), &plain, (2, 4, 1, 150, 150, 64), DType::BF16)
}

#[test]
fn blocks() -> Result<()> {
    let (rows, columns) = (4, 7);
    let marks: Vec<u8> = (0..rows * columns).map(|i| u8::from(i % 3 != 1)).collect();
    let mask = Tensor::from_vec(marks.clone(), (1, 1, rows, columns), &Device::Cpu)?;
    let attention = Attention { plan: Plan::Blocks { mask, block_q: 32, block_k: 16 }, ..Attention::default() };
    // Queries count from the first of the call; the last one stands at the last key.
    let (q_len, kv_len) = (100, 100);
    let plain = Plain::new(move |p, key| marks[(p as usize / 32) * 7 + key as usize / 16] != 0);
    compare(&attention, &plain, (1, 4, 2, q_len, kv_len, 64), DType::F16)
}

/// The same memory through views: heads before tokens, parts of a larger tensor, one tensor for all three.
#[test]
fn views() -> Result<()> {
    let (batch, heads, len, dim) = (2, 3, 70, 64);
    let packed = noise(9, (batch, len, 3, heads, dim))?.to_dtype(DType::BF16)?;
    let part = |i: usize| packed.narrow(2, i, 1)?.squeeze(2);
    let (q, k, v) = (part(0)?, part(1)?, part(2)?);
    assert!(!q.is_contiguous());
    let attention = Attention::causal();
    let expected = attention.apply(&q.contiguous()?, &k.contiguous()?, &v.contiguous()?)?;
    let bits = |x: &Tensor| x.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>();
    assert_eq!(bits(&attention.apply(&q, &k, &v)?)?, bits(&expected)?);
    let swapped = |x: &Tensor| x.transpose(1, 2)?.contiguous()?.transpose(1, 2);
    assert_eq!(bits(&attention.apply(&swapped(&q)?, &swapped(&k)?, &swapped(&v)?)?)?, bits(&expected)?);
    let same = attention.apply(&q, &q, &q)?;
    let copies = attention.apply(&q.contiguous()?, &q.contiguous()?, &q.contiguous()?)?;
    assert_eq!(bits(&same)?, bits(&copies)?);
    Ok(())
}

/// A tensor that is query, key and value at once gets the sum of its three gradients.
#[test]
fn one_tensor_three_times() -> Result<()> {
    let x = noise(5, (1, 40, 2, 32))?;
    let plain = Plain::causal();
    let dout = noise(6, x.shape())?.to_dtype(DType::BF16)?;
    let half = Var::from_tensor(&x.to_dtype(DType::BF16)?)?;
    let out = Attention::causal().apply(&half, &half, &half)?;
    let got = (out * &dout)?.sum_all()?.backward()?.get(&half).unwrap().clone();
    let sum = |round| -> Result<Tensor> {
        let [_, dq, dk, dv] = plain.run([&half, &half, &half], &dout, round)?;
        (dq + dk)? + dv
    };
    check("one tensor", "gradient", &got, &sum(false)?, &sum(true)?, DType::BF16)
}

/// Parts of the keys, merged by their LSE, are the whole.
#[test]
fn lse() -> Result<()> {
    let [q, k, v] = inputs((1, 2, 1, 30, 64, 32), DType::F16)?;
    let (whole, lse) = Attention::default().apply_with_lse(&q, &k, &v)?;
    assert_eq!((lse.dims(), lse.dtype()), (&[1, 2, 30][..], DType::F32));
    let mut outs = Vec::new();
    for start in [0, 32] {
        let part = |x: &Tensor| x.narrow(1, start, 32);
        outs.push(Attention::default().apply_with_lse(&q, &part(&k)?, &part(&v)?)?);
    }
    let weight = |part: &Tensor| part.broadcast_sub(&lse)?.exp()?.transpose(1, 2)?.unsqueeze(3);
    let wide = |x: &Tensor| x.to_dtype(DType::F32);
    let merged = (wide(&outs[0].0)?.broadcast_mul(&weight(&outs[0].1)?)?
        + wide(&outs[1].0)?.broadcast_mul(&weight(&outs[1].1)?)?)?;
    let total = (outs[0].1.exp()? + outs[1].1.exp()?)?.log()?;
    let most = |x: Tensor| x.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>();
    assert!(most((total - &lse)?)? < 1e-5);
    // Three roundings to f16 of values below 4.
    assert!(most((merged - wide(&whole)?)?)? < 3.0 * 2f32.powi(-10));
    Ok(())
}

#[test]
fn empty() -> Result<()> {
    let [q, k, v] = inputs((1, 2, 1, 0, 10, 32), DType::F16)?;
    assert_eq!(Attention::default().apply(&q, &k, &v)?.dims(), [1, 0, 2, 32]);
    let [q, k, v] = inputs((1, 2, 1, 5, 0, 32), DType::F16)?;
    let out = Attention::default().apply(&q, &k, &v)?.to_dtype(DType::F32)?;
    assert_eq!(out.sqr()?.sum_all()?.to_scalar::<f32>()?, 0.0);
    Ok(())
}

/// Many threads at once, each on a stream of its own.
#[test]
fn threads() -> Result<()> {
    let [q, k, v] = inputs((1, 4, 2, 64, 64, 32), DType::BF16)?;
    let run = || Attention::causal().apply(&q, &k, &v).unwrap().to_dtype(DType::F32).unwrap().flatten_all().unwrap();
    let expected = run().to_vec1::<f32>()?;
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| run().to_vec1::<f32>().unwrap())).collect();
        threads.into_iter().for_each(|thread| assert_eq!(thread.join().unwrap(), expected));
    });
    Ok(())
}
