//! The functions of candle-flash-attn, and what is refused.
#![cfg(feature = "simt")]

mod plain;

use candle_core::{DType, Device, Result, Tensor};
use lacuna_candle::*;
use plain::{Plain, check, noise};

fn tensor(seed: u64, shape: &[usize]) -> Tensor {
    noise(seed, shape).unwrap().to_dtype(DType::BF16).unwrap()
}

#[test]
fn by_their_names() -> Result<()> {
    let (q, k, v) = (tensor(1, &[1, 40, 4, 64]), tensor(2, &[1, 60, 2, 64]), tensor(3, &[1, 60, 2, 64]));
    let check = |what: &str, got: Tensor, plain: Plain| -> Result<()> {
        let (expected, ideal) = (plain.run([&q, &k, &v], &q, false)?, plain.run([&q, &k, &v], &q, true)?);
        check(what, "out", &got, &expected[0], &ideal[0], DType::BF16)
    };
    let scaled = |plain: Plain| Plain { scale: Some(0.2), ..plain };
    check("flash_attn", flash_attn(&q, &k, &v, 0.2, false)?, scaled(Plain::default()))?;
    check("causal", flash_attn(&q, &k, &v, 0.2, true)?, scaled(Plain::causal()))?;
    let window = scaled(Plain::new(|p, key| p - key <= 5 && key <= p));
    check("windowed", flash_attn_windowed(&q, &k, &v, 0.2, Some(5), Some(0))?, window)?;
    let left = scaled(Plain::new(|p, key| p - key <= 5));
    check("left window", flash_attn_windowed(&q, &k, &v, 0.2, Some(5), None)?, left)?;
    let capped = Plain { softcap: Some(3.0), ..scaled(Plain::causal()) };
    let got = flash_attn_alibi_windowed_softcap(&q, &k, &v, None, 0.2, None, Some(0), 3.0)?;
    check("softcap", got, capped)
}

/// Packed sequences give the bits of calls of their own.
#[test]
fn varlen() -> Result<()> {
    let (q_lens, k_lens) = ([5usize, 0, 33, 1], [9usize, 4, 33, 70]);
    let starts = |lens: &[usize]| -> Vec<u32> {
        lens.iter()
            .scan(0, |sum, &len| {
                *sum += len;
                Some(*sum as u32)
            })
            .fold(vec![0], |mut all, x| {
                all.push(x);
                all
            })
    };
    let (q_starts, k_starts) = (starts(&q_lens), starts(&k_lens));
    let (rows, keys) = (q_starts[4] as usize, k_starts[4] as usize);
    let (q, k, v) = (tensor(1, &[rows + 2, 4, 64]), tensor(2, &[keys, 2, 64]), tensor(3, &[keys, 2, 64]));
    let vector = |values: &[u32]| Tensor::new(values, &Device::Cpu);
    let (sq, sk) = (vector(&q_starts)?, vector(&k_starts)?);
    let bits = |x: &Tensor| x.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>();
    let run = |causal| flash_attn_varlen(&q, &k, &v, &sq, &sk, 33, 70, 0.2, causal);
    for causal in [false, true] {
        let out = run(causal)?;
        assert_eq!(out.dims(), q.dims());
        for b in (0..4).filter(|&b| q_lens[b] > 0) {
            let part =
                |x: &Tensor, starts: &[u32]| x.narrow(0, starts[b] as usize, (starts[b + 1] - starts[b]) as usize);
            let ends = |len: usize| vector(&[0, len as u32]);
            let (own_q, own_k, own_v) = (part(&q, &q_starts)?, part(&k, &k_starts)?, part(&v, &k_starts)?);
            let alone = flash_attn_varlen(
                &own_q,
                &own_k,
                &own_v,
                &ends(q_lens[b])?,
                &ends(k_lens[b])?,
                q_lens[b],
                k_lens[b],
                0.2,
                causal,
            )?;
            assert_eq!(bits(&part(&out, &q_starts)?)?, bits(&alone)?, "sequence {b}, causal {causal}");
            let plain = if causal { Plain::causal() } else { Plain::default() };
            let (plain, single) = (Plain { scale: Some(0.2), ..plain }, |x: &Tensor| x.unsqueeze(0));
            let given = [&single(&own_q)?, &single(&own_k)?, &single(&own_v)?];
            let (expected, ideal) = (plain.run(given, given[0], false)?, plain.run(given, given[0], true)?);
            check("a sequence", "out", &single(&alone)?, &expected[0], &ideal[0], DType::BF16)?;
        }
        assert_eq!(bits(&out.narrow(0, rows, 2)?)?, vec![0.0; 2 * 4 * 64], "rows of no sequence");
    }
    let windowed = flash_attn_varlen_windowed(&q, &k, &v, &sq, &sk, 33, 70, 0.2, None, Some(0))?;
    assert_eq!(bits(&windowed)?, bits(&run(true)?)?);
    let capped = flash_attn_varlen_alibi_windowed_softcap(&q, &k, &v, None, &sq, &sk, 33, 70, 0.2, None, Some(0), 0.0)?;
    assert_eq!(bits(&capped)?, bits(&run(true)?)?);
    Ok(())
}

/// Every refusal says what was expected and what was given.
#[test]
fn refusals() -> Result<()> {
    let (q, k) = (tensor(1, &[1, 40, 4, 64]), tensor(2, &[1, 60, 2, 64]));
    let says = |result: Result<Tensor>, parts: &[&str]| {
        let text = match result {
            Err(error) => error.to_string(),
            Ok(out) => panic!("{out:?} instead of an error with {parts:?}"),
        };
        parts.iter().for_each(|part| assert!(text.contains(part), "{text:?} lacks {part:?}"));
    };
    let wide = q.to_dtype(DType::F32)?;
    says(flash_attn(&wide, &wide, &wide, 1.0, false), &["f16 or bf16", "F32"]);
    says(flash_attn(&q, &k.to_dtype(DType::F16)?, &k, 1.0, false), &["k must be BF16", "F16"]);
    says(flash_attn(&q.squeeze(0)?, &k, &k, 1.0, false), &["q must be [batch, len, heads, head_dim]", "[40, 4, 64]"]);
    says(flash_attn(&q.transpose(2, 3)?, &k, &k, 1.0, false), &["each head of q must be contiguous", "64"]);
    says(flash_attn(&q, &k, &k.narrow(1, 0, 59)?, 1.0, false), &["v", "60", "59"]);
    says(flash_attn(&k, &q, &q, 1.0, false), &["q_heads", "multiple of kv_heads (4)", "2"]);
    says(flash_attn(&tensor(1, &[1, 70, 4, 64]), &k, &k, 1.0, true), &["q_len", "60", "70"]);
    says(flash_attn(&q.narrow(3, 0, 48)?, &k.narrow(3, 0, 48)?, &k.narrow(3, 0, 48)?, 1.0, true), &["48"]);
    says(flash_attn(&q, &k, &k, f32::NAN, false), &["scale", "finite", "NaN"]);
    let slopes = Tensor::zeros(4, DType::F32, &Device::Cpu)?;
    says(flash_attn_alibi_windowed_softcap(&q, &k, &k, Some(&slopes), 1.0, None, None, 0.0), &["ALiBi"]);
    says(flash_attn_alibi_windowed_softcap(&q, &k, &k, None, 1.0, None, None, -1.0), &["softcap", "-1"]);
    let s2 = Attention { mask: Mask::FULL, ..Attention::s2(S2Config::default()) };
    says(s2.apply(&q, &k, &k), &["causal"]);
    let blocks =
        |mask: Tensor, block_q| Attention { plan: Plan::Blocks { mask, block_q, block_k: 16 }, ..Attention::default() };
    let mask = |dims: &[usize]| Tensor::ones(dims, DType::U8, &Device::Cpu);
    says(blocks(mask(&[1, 1, 3, 4])?, 17).apply(&q, &k, &k), &["block", "17"]);
    says(blocks(mask(&[1, 1, 3, 3])?, 16).apply(&q, &k, &k), &["block mask", "[1, 1, 3, 4]", "[1, 1, 3, 3]"]);
    says(blocks(mask(&[3, 4])?, 16).apply(&q, &k, &k), &["[batch, heads, q_blocks, kv_blocks]", "[3, 4]"]);
    says(blocks(mask(&[1, 1, 3, 4])?.to_dtype(DType::U32)?, 16).apply(&q, &k, &k), &["U8", "U32"]);
    let packed = (tensor(1, &[40, 4, 64]), tensor(2, &[60, 2, 64]));
    let starts = |values: &[u32]| Tensor::new(values, &Device::Cpu);
    let varlen =
        |sq: &Tensor, sk: &Tensor| flash_attn_varlen(&packed.0, &packed.1, &packed.1, sq, sk, 40, 60, 1.0, true);
    says(varlen(&starts(&[0, 40])?, &starts(&[0, 30, 60])?), &["cu_seqlens_q and cu_seqlens_k", "2 and 3"]);
    says(varlen(&starts(&[0, 40])?.to_dtype(DType::I64)?, &starts(&[0, 60])?), &["cu_seqlens_q", "u32", "I64"]);
    let tracked = candle_core::Var::from_tensor(&packed.0)?;
    let (sq, sk) = (starts(&[0, 40])?, starts(&[0, 60])?);
    says(flash_attn_varlen(&tracked, &packed.1, &packed.1, &sq, &sk, 40, 60, 1.0, true), &["no gradient yet"]);
    // What stands in cu_seqlens is data: nothing is read or written out of bounds, whatever it is.
    varlen(&starts(&[0, u32::MAX])?, &starts(&[7, 1 << 31])?)?;
    Ok(())
}
