//! Safe functions with arguments that contradict each other: one clear error, never a panic or a kernel.

use crate::harness::{Case, shape, simt, streams};
use lacuna::{
    AttentionShape, BlockPlan, BlockSize, Buffer, Counters, DType, Device, Error, ForwardOptions, KernelFamily,
    ListRows, Mask, Result, Schedule, Stream, Tensor, TensorView, TensorViewMut, attention, bf16, f16,
};

const fn shared_between_threads<T: Send + Sync>() {}
const _: () = {
    shared_between_threads::<Device>();
    shared_between_threads::<Stream>();
    shared_between_threads::<Buffer>();
    shared_between_threads::<Tensor<bf16>>();
    shared_between_threads::<TensorView<'_, bf16>>();
    shared_between_threads::<TensorViewMut<'_, bf16>>();
    shared_between_threads::<BlockPlan>();
    shared_between_threads::<Schedule>();
};

/// A call whose parts can be exchanged one by one.
struct Call {
    shape: AttentionShape,
    q: [usize; 4],
    k: [usize; 4],
    v: [usize; 4],
    out: [usize; 4],
    lse: [usize; 4],
    workspace: usize,
}

const SHAPE: AttentionShape =
    AttentionShape { batch: 1, q_heads: 2, kv_heads: 1, q_len: 8, kv_len: 12, head_dim: 64, dtype: DType::BF16 };

impl Call {
    fn new() -> Self {
        let (q, k) = ([1, 2, 8, 64], [1, 1, 12, 64]);
        Self { shape: SHAPE, q, k, v: k, out: q, lse: [1, 2, 8, 1], workspace: 16 }
    }

    fn run(&self, options: &ForwardOptions<'_>) -> Result<Counters> {
        let stream = simt(1);
        let tensor = |dims| Tensor::<bf16>::zeros(&stream, dims).unwrap();
        let (q, k, v, mut out) = (tensor(self.q), tensor(self.k), tensor(self.v), tensor(self.out));
        let mut lse = Tensor::<f32>::zeros(&stream, self.lse).unwrap();
        let mut workspace = stream.alloc_bytes(self.workspace).unwrap();
        let plan = BlockPlan::dense();
        let schedule = Schedule::build(&stream, &self.shape, options, &plan)?;
        let result = attention::forward(
            &stream,
            &self.shape,
            options,
            &plan,
            &schedule,
            q.view(),
            k.view(),
            v.view(),
            out.view_mut(),
            Some(lse.view_mut()),
            &mut workspace,
        );
        let counters = stream.counters().unwrap();
        assert!(result.is_ok() || counters.launches == 0);
        result.map(|()| counters)
    }

    fn refused(&self, options: &ForwardOptions<'_>) -> &'static str {
        match self.run(options) {
            Err(Error::Shape { what, .. } | Error::Value { what, .. } | Error::Device { what, .. }) => what,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_good_call_runs() {
    assert_eq!(Call::new().run(&ForwardOptions::causal()).unwrap().launches, 1);
}

#[test]
fn shapes() {
    let options = ForwardOptions::causal();
    let refused = |change: &dyn Fn(&mut Call)| {
        let mut call = Call::new();
        change(&mut call);
        call.refused(&options)
    };
    assert_eq!(refused(&|call| call.q[2] = 7), "q");
    assert_eq!(refused(&|call| call.k[2] = 13), "k");
    assert_eq!(refused(&|call| call.v[3] = 32), "v");
    assert_eq!(refused(&|call| call.out[1] = 1), "out");
    assert_eq!(refused(&|call| call.lse = [1, 2, 9, 1]), "lse");
    assert_eq!(refused(&|call| call.shape.q_heads = 3), "q");
    assert_eq!(refused(&|call| (call.shape.q_heads, call.shape.kv_heads) = (3, 2)), "q_heads");
    assert_eq!(refused(&|call| call.shape.kv_heads = 0), "kv_heads");
    assert_eq!(refused(&|call| call.shape.q_len = 13), "q_len");
    assert_eq!(refused(&|call| call.shape.kv_len = usize::MAX), "kv_len");
    assert_eq!(refused(&|call| call.shape.batch = 1 << 31), "batch");
    assert_eq!(refused(&|call| call.shape.dtype = DType::F16), "dtype");
    let mut call = Call::new();
    for dims in [&mut call.q, &mut call.k, &mut call.v, &mut call.out] {
        dims[3] = 80;
    }
    call.shape.head_dim = 80;
    assert!(matches!(call.run(&options), Err(Error::Unsupported { .. })));
}

#[test]
fn options() {
    let refused = |options: ForwardOptions<'_>| Call::new().refused(&options);
    let good = ForwardOptions::causal();
    for scale in [f32::NAN, f32::INFINITY] {
        assert_eq!(refused(ForwardOptions { scale: Some(scale), ..good }), "scale");
    }
    for softcap in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        assert_eq!(refused(ForwardOptions { softcap: Some(softcap), ..good }), "softcap");
    }
    for splits in [0, 65, usize::MAX] {
        assert_eq!(refused(ForwardOptions { splits, ..good }), "splits");
    }
    assert_eq!(refused(ForwardOptions { splits: 2, ..good }), "workspace");
    let short = Call { workspace: 15, ..Call::new() };
    assert_eq!(short.refused(&good), "workspace");
    let stream = simt(2);
    let sink = Tensor::vector(&stream, &[0.0; 3]).unwrap();
    assert_eq!(refused(ForwardOptions { sink: Some(&sink), ..good }), "sink");
    assert_eq!(attention::workspace_bytes(&SHAPE, &good), 16);
    assert_eq!(attention::workspace_bytes(&SHAPE, &ForwardOptions { splits: 3, ..good }), 3 * 2 * 8 * 65 * 4 + 16);
    let odd = AttentionShape { q_len: 1, q_heads: 1, head_dim: 32, ..SHAPE };
    assert_eq!(attention::workspace_bytes(&odd, &ForwardOptions { splits: 3, ..good }), 400 + 16);
    let huge = AttentionShape { q_len: usize::MAX, ..SHAPE };
    assert_eq!(attention::workspace_bytes(&huge, &ForwardOptions { splits: 2, ..good }), usize::MAX);
    assert!(matches!(stream.alloc_bytes(usize::MAX), Err(Error::OutOfMemory { .. })));
}

#[test]
fn kernel_families_serve_or_refuse_by_name() {
    for stream in streams(8) {
        let kernel = |family| {
            let options = ForwardOptions { family, ..ForwardOptions::causal() };
            attention::kernel(stream.device(), &SHAPE, &options, &BlockPlan::dense())
        };
        let (auto, portable) = (kernel(KernelFamily::Auto).unwrap(), kernel(KernelFamily::Portable).unwrap());
        assert_eq!((portable.family, portable.heads), (KernelFamily::Portable, 1));
        assert_eq!(kernel(auto.family).unwrap(), auto);
        match kernel(KernelFamily::Hopper) {
            Ok(kernel) => assert_eq!(kernel.family, KernelFamily::Hopper),
            Err(Error::Unsupported { .. } | Error::NoKernel { .. }) => {
                assert_eq!(auto, portable);
                let case = Case { family: KernelFamily::Hopper, ..Case::new(SHAPE, Mask::CAUSAL) };
                let result = case.run::<bf16>(&stream, &BlockPlan::dense());
                assert!(matches!(result, Err(Error::Unsupported { .. } | Error::NoKernel { .. })), "{result:?}");
            }
            Err(other) => panic!("{other}"),
        }
    }
}

#[test]
fn schedules_belong_to_their_plan_shape_and_mask() {
    let stream = simt(3);
    let case = Case::new(shape(1, (1, 1), (32, 32), 64), Mask::CAUSAL);
    let plan = |mask: &[u8]| BlockPlan::from_mask(&stream, &case.shape, 16, 16, [1, 1, 2, 2], mask).unwrap();
    let (one, two) = (plan(&[1, 0, 1, 1]), plan(&[1, 0, 0, 1]));
    let options = case.options(None);
    let mut schedule = Schedule::build(&stream, &case.shape, &options, &one).unwrap();
    assert!(matches!(schedule.rebuild(&stream, &two), Err(Error::Value { what: "schedule", .. })));
    let q = Tensor::<bf16>::zeros(&stream, case.q_dims()).unwrap();
    let mut workspace = stream.alloc_bytes(attention::workspace_bytes(&case.shape, &options)).unwrap();
    let mut forward = |shape: &AttentionShape, options: &ForwardOptions<'_>, plan: &BlockPlan| {
        let mut out = Tensor::<bf16>::zeros(&stream, case.q_dims()).unwrap();
        let view = q.view();
        attention::forward(
            &stream,
            shape,
            options,
            plan,
            &schedule,
            view,
            view,
            view,
            out.view_mut(),
            None,
            &mut workspace,
        )
    };
    assert_eq!(forward(&case.shape, &options, &one), Ok(()));
    let full = ForwardOptions { mask: Mask::FULL, ..options };
    for result in [
        forward(&case.shape, &options, &two),
        forward(&case.shape, &full, &one),
        forward(&AttentionShape { dtype: DType::F16, ..case.shape }, &options, &one),
        forward(&case.shape, &options, &BlockPlan::dense()),
    ] {
        assert!(matches!(result, Err(Error::Value { what: "schedule", .. })), "{result:?}");
    }
    // A plan for other rows does not fit, whatever its schedule.
    let long = AttentionShape { q_len: 64, kv_len: 64, ..case.shape };
    assert!(matches!(Schedule::build(&stream, &long, &options, &one), Err(Error::Shape { what: "plan", .. })));
}

#[test]
fn absurd_sizes_are_errors() {
    let stream = simt(4);
    let far = AttentionShape { kv_len: 1 << 30, ..SHAPE };
    let rows = ListRows { block: BlockSize::square(16), batch: 1, heads: 1, absolute: false };
    assert!(matches!(BlockPlan::with_capacity(&stream, &far, rows, 1), Err(Error::Value { what: "kv_len", .. })));
    assert!(matches!(
        BlockPlan::with_capacity(&stream, &SHAPE, rows, usize::MAX),
        Err(Error::Value { what: "capacity", .. })
    ));
    let many = AttentionShape { batch: 1 << 30, q_len: 1 << 20, kv_len: 1 << 20, ..SHAPE };
    assert!(matches!(
        BlockPlan::with_capacity(&stream, &many, ListRows { batch: 1 << 30, ..rows }, 1),
        Err(Error::Value { what: "plan rows", .. })
    ));
    assert!(Tensor::<f32>::uninit(&stream, [1 << 30, 1 << 30, 1 << 30, 1]).is_err());
    assert!(matches!(Tensor::<f32>::uninit(&stream, [1 << 24, 1 << 24, 1, 1]), Err(Error::OutOfMemory { .. })));
    assert!(Tensor::<f16>::from_slice(&stream, &[], [1, 1, 1, 1]).is_err());
    // Windows beyond 32 bits are no window.
    let mask = Mask { causal: true, window_left: Some(usize::MAX), window_right: Some(usize::MAX) };
    Call::new().run(&ForwardOptions { mask, ..ForwardOptions::default() }).unwrap();
}

#[test]
fn memory_of_one_simt_host_serves_another() {
    let (here, there) = (simt(5), simt(6));
    let mut tensor = Tensor::<f32>::zeros(&here, [1, 1, 1, 8]).unwrap();
    tensor.copy_from_slice(&there, &[1.0; 8]).unwrap();
    assert_eq!(tensor.to_vec(&here).unwrap(), [1.0; 8]);
    assert_eq!(Tensor::<bf16>::random(&here, [1, 1, 3, 64], 7).unwrap().to_vec(&there).unwrap().len(), 192);
}

#[test]
fn streams_are_shared_between_threads() {
    let stream = simt(7);
    let case = Case::new(shape(1, (1, 1), (40, 40), 64), Mask::CAUSAL);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| case.check::<bf16>(&stream, &BlockPlan::dense()));
        }
    });
}

#[test]
fn devices_by_name() {
    assert_eq!(Device::parse("simt").unwrap().name(), "simt");
    assert!(!Device::parse("auto").unwrap().choice().is_empty());
    for bad in ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "SIMT"] {
        assert!(matches!(Device::parse(bad), Err(Error::Value { what: "device", .. })), "{bad}");
    }
    assert!(matches!(Device::parse("cuda:999"), Err(Error::Unavailable { .. })));
}
