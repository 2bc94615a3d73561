//! Starting a test kernel by name, with buffers of words.

use std::ffi::{CStr, CString, c_char, c_void};

use crate::config::{Config, Counters, RawStream, Stream};

/// A file of `kernels/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    Barriers,
    Copies,
    Memory,
    Collectives,
    Matrix,
    Conversions,
    Limits,
    Proxies,
    Mbarriers,
    NamedBarriers,
    Registers,
    Warpgroups,
    WarpgroupShapes,
    TensorLoads,
    TensorStores,
    Bulk,
}

/// Where buffers meet a page that faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum Guard {
    None = 0,
    End = 1,
    Start = 2,
}

/// `lacuna_status` of a failed launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    InvalidArgument,
    SimtError,
    Other(i32),
}

/// What a launch left.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The status and the message of a failed launch.
    pub failure: Option<(Status, String)>,
    /// The target buffer, whether the launch failed or not; words that nobody wrote are `POISON`.
    pub target: Vec<u32>,
    pub counters: Counters,
}

impl Outcome {
    /// The message, "" after a success.
    pub fn message(&self) -> &str {
        self.failure.as_ref().map_or("", |(_, message)| message)
    }
}

/// A launch of a test kernel.
#[derive(Debug, Clone)]
pub struct Run {
    pub family: Family,
    pub name: &'static str,
    /// The buggy twin.
    pub planted: bool,
    pub source: Vec<u32>,
    /// Words of the target buffer.
    pub target_words: usize,
    pub target_start: Option<u32>,
    pub count: i64,
    pub variant: i64,
    pub blocks: i64,
    pub threads: i64,
    pub smem_bytes: i64,
    pub guard: Guard,
}

impl Run {
    /// One block of `threads` threads; a source of distinct words, four a thread and tile, and a target of a word each.
    pub fn new(family: Family, name: &'static str, threads: i64) -> Run {
        Run {
            family,
            name,
            planted: false,
            source: (0..threads as u32 * 4).map(|i| i * 3 + 1).collect(),
            target_words: threads as usize,
            target_start: None,
            count: threads,
            variant: 0,
            blocks: 1,
            threads,
            smem_bytes: 0,
            guard: Guard::End,
        }
    }

    /// The buggy twin of the same launch.
    pub fn planted(&self) -> Run {
        Run { planted: true, ..self.clone() }
    }

    pub fn run(&self, config: &Config) -> Outcome {
        let stream = Stream::new(config).expect("a valid configuration");
        self.run_on(&stream)
    }

    pub fn run_on(&self, stream: &Stream) -> Outcome {
        let source = Buffer::from_words(&self.source, self.guard);
        let mut target = Buffer::uninit(self.target_words, self.guard);
        if let Some(word) = self.target_start {
            target.words_mut()[0] = word;
        }
        let params = RawParams {
            source: source.pointer.cast(),
            target: target.pointer.cast(),
            count: self.count,
            variant: self.variant,
            blocks: self.blocks,
            threads: self.threads,
            smem_bytes: self.smem_bytes,
        };
        let start = match self.family {
            Family::Barriers => simt_test_barriers,
            Family::Copies => simt_test_copies,
            Family::Memory => simt_test_memory,
            Family::Collectives => simt_test_collectives,
            Family::Matrix => simt_test_matrix,
            Family::Conversions => simt_test_conversions,
            Family::Limits => simt_test_limits,
            Family::Proxies => simt_test_proxies,
            Family::Mbarriers => simt_test_mbarriers,
            Family::NamedBarriers => simt_test_named_barriers,
            Family::Registers => simt_test_registers,
            Family::Warpgroups => simt_test_warpgroups,
            Family::WarpgroupShapes => simt_test_warpgroup_shapes,
            Family::TensorLoads => simt_test_tensor_loads,
            Family::TensorStores => simt_test_tensor_stores,
            Family::Bulk => simt_test_bulk,
        };
        let name = CString::new(self.name).expect("a name");
        // SAFETY: buffers and stream outlive the launch, which is synchronous; what a planted bug touches outside of
        // the buffers is a guard page or slack, which is what is being tested.
        let status = unsafe { start(name.as_ptr(), i32::from(self.planted), &params, stream.raw) };
        assert!(status >= 0, "no {} test kernel {} (planted: {})", self.family_name(), self.name, self.planted);
        let failure = (status != 0).then(|| {
            let status = match status {
                1 => Status::InvalidArgument,
                5 => Status::SimtError,
                other => Status::Other(other),
            };
            (status, last_error())
        });
        Outcome { failure, target: target.words().to_vec(), counters: stream.counters() }
    }

    fn family_name(&self) -> String {
        format!("{:?}", self.family).to_lowercase()
    }
}

/// The text of this thread's last failed launch.
pub(crate) fn last_error() -> String {
    // SAFETY: the function returns this thread's buffer, a C string.
    unsafe { CStr::from_ptr(simt_test_last_error()) }.to_string_lossy().into_owned()
}

/// Memory of the SIMT host, in words.
pub struct Buffer {
    pointer: *mut u32,
    words: usize,
}

impl Buffer {
    /// Every word is `POISON`.
    pub fn uninit(words: usize, guard: Guard) -> Buffer {
        // SAFETY: any size and these guards are allowed.
        let pointer = unsafe { lacuna_simt_alloc(words as u64 * 4, guard as i32) }.cast::<u32>();
        assert!(!pointer.is_null(), "out of memory");
        Buffer { pointer, words }
    }

    pub fn from_words(words: &[u32], guard: Guard) -> Buffer {
        let mut buffer = Buffer::uninit(words.len(), guard);
        buffer.words_mut().copy_from_slice(words);
        buffer
    }

    pub fn words(&self) -> &[u32] {
        // SAFETY: the allocation has this many initialised words, aligned to 16 bytes; no kernel runs now.
        unsafe { std::slice::from_raw_parts(self.pointer, self.words) }
    }

    pub fn words_mut(&mut self) -> &mut [u32] {
        // SAFETY: as in `words`, and `self` is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.pointer, self.words) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: from `lacuna_simt_alloc`, freed once.
        unsafe { lacuna_simt_free(self.pointer.cast()) };
    }
}

/// `simt_test_params` of kernels/harness.h.
#[repr(C)]
struct RawParams {
    source: *const c_void,
    target: *mut c_void,
    count: i64,
    variant: i64,
    blocks: i64,
    threads: i64,
    smem_bytes: i64,
}

type Start = unsafe extern "C" fn(*const c_char, i32, *const RawParams, *mut RawStream) -> i32;

macro_rules! families {
    ($($name:ident),*) => {
        unsafe extern "C" {
            $(fn $name(name: *const c_char, planted: i32, params: *const RawParams, stream: *mut RawStream) -> i32;)*
        }
        const _: &[Start] = &[$($name),*];
    };
}

families!(
    simt_test_barriers,
    simt_test_copies,
    simt_test_memory,
    simt_test_collectives,
    simt_test_matrix,
    simt_test_conversions,
    simt_test_limits,
    simt_test_proxies,
    simt_test_mbarriers,
    simt_test_named_barriers,
    simt_test_registers,
    simt_test_warpgroups,
    simt_test_warpgroup_shapes,
    simt_test_tensor_loads,
    simt_test_tensor_stores,
    simt_test_bulk
);

unsafe extern "C" {
    fn simt_test_last_error() -> *const c_char;
    fn lacuna_simt_alloc(bytes: u64, guard: i32) -> *mut c_void;
    fn lacuna_simt_free(pointer: *mut c_void);
}
