//! What the integration tests share: devices, attention cases, and their comparison with the f64 reference.

use std::ops::Range;
use std::sync::Once;

use crate::pages::Pages;
use lacuna::reference::{self, Problem, TokenMask, Visibility, compare_lse};
use lacuna::{
    AttentionShape, BlockPlan, DType, Device, ForwardOptions, Half, KernelFamily, Layout, Mask, Result, Schedule,
    SimtConfig, Stream, Tensor, attention,
};

/// The SIMT host with every check on and a schedule drawn from the seed.
pub fn simt(seed: u64) -> Stream {
    Device::simt_with(SimtConfig::checked(seed)).unwrap().new_stream().unwrap()
}

/// Every device of this machine: the checking SIMT host, and the GPU if there is one. The summary says if there is
/// none. `LACUNA_TEST_DEVICES=cuda`: the GPU alone, for tools that watch it and slow everything else down.
pub fn streams(seed: u64) -> Vec<Stream> {
    static SAID: Once = Once::new();
    let cuda_only = std::env::var("LACUNA_TEST_DEVICES").is_ok_and(|devices| devices == "cuda");
    if cuda_only {
        return vec![Device::cuda(0).unwrap().new_stream().unwrap()];
    }
    let mut streams = vec![simt(seed)];
    match Device::cuda(0) {
        Ok(device) => streams.push(device.new_stream().unwrap()),
        Err(error) => SAID.call_once(|| eprintln!("on the SIMT host only: {error}")),
    }
    streams
}

/// How a tensor lies in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Storage {
    /// `[batch, heads, seq, dim]`
    Packed,
    /// `[batch, seq, heads, dim]`
    SeqFirst,
    /// `[batch, heads, seq, dim]` with gaps after each row, head and sequence; rows stay aligned to 16 bytes.
    Gaps,
    /// Rows that start at odd elements.
    Odd,
}

impl Storage {
    pub const ALL: [Self; 4] = [Self::Packed, Self::SeqFirst, Self::Gaps, Self::Odd];

    pub fn layout(self, dims: [usize; 4]) -> Layout {
        let [_, heads, seq, dim] = dims.map(|d| d as i64);
        match self {
            Self::Packed => Layout::contiguous(dims),
            Self::SeqFirst => Layout::strided(dims, [seq * heads * dim, dim, heads * dim]),
            Self::Gaps => {
                let (row, head) = (dim + 8, seq * (dim + 8) + 24);
                Layout::strided(dims, [heads * head + 40, head, row])
            }
            Self::Odd => {
                let (row, head) = (dim + 1, seq * (dim + 1) + 3);
                Layout::strided(dims, [heads * head + 5, head, row])
            }
        }
        .unwrap()
    }
}

/// One attention call on random inputs.
#[derive(Debug, Clone)]
pub struct Case {
    pub shape: AttentionShape,
    pub mask: Mask,
    pub scale: Option<f32>,
    pub softcap: Option<f32>,
    pub sink: Option<Vec<f32>>,
    pub splits: usize,
    pub family: KernelFamily,
    /// K and V in pages of a pool.
    pub pages: Option<Pages>,
    /// Of q, k, v and out.
    pub storage: [Storage; 4],
    pub seed: u64,
    /// Runs the decode kernels.
    pub decode: bool,
}

/// A shape by its numbers: heads and lengths as (queries, keys).
pub fn shape(batch: usize, heads: (usize, usize), lens: (usize, usize), head_dim: usize) -> AttentionShape {
    let (q_heads, kv_heads) = heads;
    let (q_len, kv_len) = lens;
    AttentionShape { batch, q_heads, kv_heads, q_len, kv_len, head_dim, dtype: DType::BF16 }
}

/// What a call gave, in index order.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    pub out: Vec<f32>,
    pub lse: Vec<f32>,
}

impl Outcome {
    /// Equality of bits, NaN included.
    pub fn same_bits(&self, other: &Self) -> bool {
        let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        bits(&self.out) == bits(&other.out) && bits(&self.lse) == bits(&other.lse)
    }
}

impl Case {
    pub fn new(shape: AttentionShape, mask: Mask) -> Self {
        let storage = [Storage::Packed; 4];
        Self {
            shape,
            mask,
            scale: None,
            softcap: None,
            sink: None,
            splits: 1,
            family: KernelFamily::Auto,
            pages: None,
            storage,
            seed: 1,
            decode: false,
        }
    }

    pub fn q_dims(&self) -> [usize; 4] {
        let s = &self.shape;
        [s.batch, s.q_heads, s.q_len, s.head_dim]
    }

    /// Of k and v as they are stored: sequences, or pages.
    pub fn kv_dims(&self) -> [usize; 4] {
        let s = &self.shape;
        match &self.pages {
            Some(pages) => [pages.count, s.kv_heads, pages.size, s.head_dim],
            None => [s.batch, s.kv_heads, s.kv_len, s.head_dim],
        }
    }

    /// q, k and v as they are stored; of a pool all rows, used or not.
    pub fn inputs<T: Half>(&self) -> [Vec<T>; 3] {
        [self.q_dims(), self.kv_dims(), self.kv_dims()].map(|dims| dims.iter().product()).map({
            let mut state = self.seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
            move |len| (0..len).map(|_| T::from_f32(normal(&mut state))).collect()
        })
    }

    /// Without pages, whose table lives on a device.
    pub fn options<'a>(&self, sink: Option<&'a Tensor<f32>>) -> ForwardOptions<'a> {
        ForwardOptions {
            mask: self.mask,
            scale: self.scale,
            softcap: self.softcap,
            sink,
            splits: self.splits,
            family: self.family,
            paged: None,
            ragged: lacuna::Ragged::default(),
        }
    }

    /// This case for each kernel that serves it: as `auto` chooses, and with portable kernels where that is another
    /// one.
    pub fn for_kernels<T: Half>(&self, stream: &Stream, plan: &BlockPlan) -> Vec<Self> {
        if self.decode {
            return vec![self.clone()];
        }
        let shape = AttentionShape { dtype: T::DTYPE, ..self.shape };
        let name = |case: &Self| {
            let table = case.pages.as_ref().map(|pages| pages.table(stream, &shape));
            let paged = table.as_ref().zip(case.pages.as_ref()).map(|(table, pages)| pages.of(table));
            let options = ForwardOptions { paged, ..case.options(None) };
            attention::kernel(stream.device(), &shape, &options, plan).map(|kernel| kernel.name)
        };
        let portable = Self { family: KernelFamily::Portable, ..self.clone() };
        let mut cases = vec![self.clone()];
        if self.family == KernelFamily::Auto && name(self) != name(&portable) {
            cases.push(portable);
        }
        cases
    }

    /// Runs the kernels. Outputs are poisoned before, and gaps must stay so.
    pub fn run<T: Half>(&self, stream: &Stream, plan: &BlockPlan) -> Result<Outcome> {
        let shape = AttentionShape { dtype: T::DTYPE, ..self.shape };
        let [q, mut k, mut v] = self.inputs::<T>();
        if let Some(pages) = &self.pages {
            pages.poison_unused(&shape, &mut k);
            pages.poison_unused(&shape, &mut v);
        }
        let tensor = |values: &[T], storage: Storage, dims| -> Result<Tensor<T>> {
            let mut tensor = Tensor::with_layout(stream, storage.layout(dims))?;
            tensor.copy_from_slice(stream, values)?;
            Ok(tensor)
        };
        let q = tensor(&q, self.storage[0], self.q_dims())?;
        let k = tensor(&k, self.storage[1], self.kv_dims())?;
        let v = tensor(&v, self.storage[2], self.kv_dims())?;
        let mut out = Tensor::<T>::with_layout(stream, self.storage[3].layout(self.q_dims()))?;
        let mut lse = Tensor::<f32>::uninit(stream, [shape.batch, shape.q_heads, shape.q_len, 1])?;
        out.fill_bytes(stream, 0xFF)?;
        lse.fill_bytes(stream, 0xFF)?;
        let sink = self.sink.as_ref().map(|sink| Tensor::vector(stream, sink)).transpose()?;
        let table = self.pages.as_ref().map(|pages| pages.table(stream, &shape));
        let paged = table.as_ref().zip(self.pages.as_ref()).map(|(table, pages)| pages.of(table));
        let options = ForwardOptions { paged, ..self.options(sink.as_ref()) };

        let (written, rows) = (out.view_mut(), Some(lse.view_mut()));
        let (q, k, v) = (q.view(), k.view(), v.view());
        if self.decode {
            let mut workspace = stream.alloc_bytes(attention::decode_workspace_bytes(&shape, plan))?;
            workspace.fill(stream, 0xFF)?;
            attention::decode(stream, &shape, &options, plan, None, q, k, v, written, rows, &mut workspace)?;
        } else {
            let schedule = Schedule::build(stream, &shape, &options, plan)?;
            let mut workspace = stream.alloc_bytes(attention::workspace_bytes(&shape, &options))?;
            workspace.fill(stream, 0xFF)?;
            attention::forward(stream, &shape, &options, plan, &schedule, q, k, v, written, rows, &mut workspace)?;
        }
        let values: Vec<f32> = out.to_vec(stream)?.into_iter().map(T::to_f32).collect();
        let written = out.layout().len();
        let storage = out.storage_to_vec(stream)?;
        let poisoned = storage.iter().filter(|x| x.to_f32().is_nan()).count();
        let nan = values.iter().filter(|x| x.is_nan()).count();
        assert_eq!(poisoned - nan, storage.len() - written, "gaps of out were written: {self:?}");
        Ok(Outcome { out: values, lse: lse.to_vec(stream)? })
    }

    /// Compares an outcome of `run::<T>` with the reference over the keys that `visible` names.
    pub fn compare<T: Half>(&self, outcome: &Outcome, visible: &impl Visibility) -> std::result::Result<(), String> {
        self.compare_inputs(&self.inputs::<T>(), outcome, visible)
    }

    /// The same for inputs of one's own.
    pub fn compare_inputs<T: Half>(
        &self,
        inputs: &[Vec<T>; 3],
        outcome: &Outcome,
        visible: &impl Visibility,
    ) -> std::result::Result<(), String> {
        self.judge::<T>(outcome, &self.expect(inputs, visible))
    }

    /// Compares an outcome that was merged from results over parts of the keys, each as (first key, keys). They are of
    /// type T, so the ideal low-precision algorithm rounds them too.
    pub fn compare_merged<T: Half>(
        &self,
        outcome: &Outcome,
        visible: &impl Visibility,
        parts: &[(usize, usize)],
    ) -> std::result::Result<(), String> {
        let inputs = self.inputs::<T>();
        let ideal_of = |&(first, len): &(usize, usize)| {
            let expected = self.expect(&inputs, &Within { visible, keys: first..first + len });
            reference::Output { out: expected.out.ideal, lse: expected.lse }
        };
        let merged = reference::merge(&parts.iter().map(ideal_of).collect::<Vec<_>>(), self.shape.head_dim).unwrap();
        let mut expected = self.expect(&inputs, visible);
        expected.out.ideal = merged.out.into_iter().map(|x| reference::round_to(T::DTYPE, x)).collect();
        self.judge::<T>(outcome, &expected)
    }

    /// What the reference expects over the keys that `visible` names.
    fn expect<T: Half>(&self, inputs: &[Vec<T>; 3], visible: &impl Visibility) -> reference::ExpectedOutput {
        let wide = |values: &[T]| values.iter().map(|x| f64::from(x.to_f32())).collect::<Vec<_>>();
        let [q, mut k, mut v] = inputs.each_ref().map(|values| wide(values));
        if let Some(pages) = &self.pages {
            (k, v) = (pages.gather(&self.shape, &k), pages.gather(&self.shape, &v));
        }
        let sink = self.sink.as_ref().map(|sink| sink.iter().map(|&x| f64::from(x)).collect::<Vec<_>>());
        let problem = Problem {
            scale: self.scale.map(f64::from),
            softcap: self.softcap.map(f64::from),
            sink: sink.as_deref(),
            ..Problem::new(AttentionShape { dtype: T::DTYPE, ..self.shape }, &q, &k, &v)
        };
        match &self.pages {
            Some(pages) => problem.expect(&pages.mapped(&self.shape, visible)),
            None => problem.expect(visible),
        }
        .unwrap()
    }

    fn judge<T: Half>(
        &self,
        outcome: &Outcome,
        expected: &reference::ExpectedOutput,
    ) -> std::result::Result<(), String> {
        let out = expected.out.compare(&outcome.out).map_err(|error| error.to_string())?;
        let lse = compare_lse(&outcome.lse, &expected.lse).map_err(|error| error.to_string())?;
        if out.passed() && lse.passed() {
            return Ok(());
        }
        Err(format!("out: {out}\nlse: {lse}\n{self:?} as {}", T::DTYPE))
    }

    /// Runs a plan on a stream, with every kernel that serves it, and compares with the reference over its blocks, as
    /// the kernel `plan_to_mask` draws them.
    pub fn check<T: Half>(&self, stream: &Stream, plan: &BlockPlan) {
        let shape = AttentionShape { dtype: T::DTYPE, ..self.shape };
        let blocks = plan.block_mask(stream, &shape, &self.mask).unwrap();
        self.check_visible::<T>(stream, plan, &blocks.visibility(&shape, &self.mask));
    }

    /// Runs a plan on a stream, with every kernel that serves it, and compares with the reference over the keys that
    /// `visible` names.
    pub fn check_visible<T: Half>(&self, stream: &Stream, plan: &BlockPlan, visible: &impl Visibility) {
        for case in self.for_kernels::<T>(stream, plan) {
            let outcome = case.run::<T>(stream, plan).unwrap_or_else(|error| panic!("{error}\n{case:?}"));
            case.compare::<T>(&outcome, visible).unwrap_or_else(|text| panic!("{}: {text}", stream.device().name()));
        }
    }
}

/// What `visible` names within a range of keys.
struct Within<'a, V> {
    visible: &'a V,
    keys: Range<usize>,
}

impl<V: Visibility> Visibility for Within<'_, V> {
    fn runs(&self, b: usize, h: usize, t: usize, visit: &mut dyn FnMut(Range<usize>, f64)) {
        let clamp = |key: usize| key.clamp(self.keys.start, self.keys.end);
        self.visible.runs(b, h, t, &mut |keys, weight| visit(clamp(keys.start)..clamp(keys.end), weight));
    }
}

/// Sum of uniform numbers, nearly normal.
fn normal(state: &mut u64) -> f32 {
    (0..4).map(|_| uniform(state)).sum::<f32>() * 1.7
}

/// In -0.5..0.5.
pub fn uniform(state: &mut u64) -> f32 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    (*state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
}

/// Dense attention on every device, against the token mask itself rather than what the device says the plan is.
pub fn check_dense<T: Half>(case: &Case) {
    for stream in streams(case.seed) {
        let visible = TokenMask { shape: &case.shape, mask: &case.mask };
        case.check_visible::<T>(&stream, &BlockPlan::dense(), &visible);
    }
}
