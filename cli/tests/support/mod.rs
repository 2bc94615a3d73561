//! Runs the binary on files in a folder of its own.
#![allow(dead_code, reason = "each test file uses a part")]

pub mod gate;

use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use std::collections::HashMap;
use std::path::PathBuf;
use std::process::{Command, Output};

/// Name, type, sizes, bytes.
pub type TensorBytes = (&'static str, Dtype, Vec<usize>, Vec<u8>);

/// A folder that goes away with the test.
pub struct Folder(tempfile::TempDir);

impl Folder {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), bytes).unwrap();
    }

    pub fn write_tensors(&self, name: &str, tensors: &[TensorBytes]) {
        self.write(name, safetensors_bytes(tensors));
    }

    /// Runs `lacuna` with the folder as working directory.
    pub fn lacuna(&self, args: &[&str]) -> Run {
        let output = Command::new(env!("CARGO_BIN_EXE_lacuna")).args(args).current_dir(self.0.path()).output().unwrap();
        Run::new(output)
    }

    /// `lacuna attend` from in.safetensors to out.safetensors, with a config text.
    pub fn attend(&self, method: &str, config: &str, more: &[&str]) -> Run {
        let device: &[&str] = if more.contains(&"--device") { &[] } else { &["--device", "simt"] };
        self.write("config.json", config);
        let args = ["attend", "--method", method, "--input", "in.safetensors", "--output", "out.safetensors"];
        self.lacuna(&[&args[..], &["--config", "config.json"], device, more].concat())
    }

    pub fn outputs(&self) -> Outputs {
        Outputs::read(&std::fs::read(self.path("out.safetensors")).unwrap())
    }

    /// Names of the files, sorted.
    pub fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.0.path()).unwrap();
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

/// How a run ended.
#[derive(Debug)]
pub struct Run {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Run {
    fn new(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self { code: output.status.code().unwrap(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    #[track_caller]
    pub fn succeeded(self) -> Self {
        assert_eq!((self.code, self.stderr.as_str()), (0, ""), "{self:?}");
        self
    }

    /// Exit code and one line on stderr that starts with `lacuna: ` and holds `words`; nothing on stdout.
    #[track_caller]
    pub fn failed(self, code: i32, words: &str) {
        assert_eq!(self.code, code, "{self:?}");
        assert!(self.stderr.starts_with("lacuna: ") && self.stderr.contains(words), "{words}: {self:?}");
        assert_eq!(self.stderr.matches('\n').count(), 1, "{self:?}");
        assert_eq!(self.stdout, "");
    }
}

/// What `attend` wrote.
pub struct Outputs {
    pub tensors: HashMap<String, (Dtype, Vec<usize>, Vec<u8>)>,
    pub metadata: HashMap<String, String>,
}

impl Outputs {
    fn read(bytes: &[u8]) -> Self {
        let (_, metadata) = SafeTensors::read_metadata(bytes).unwrap();
        let tensors = SafeTensors::deserialize(bytes).unwrap().tensors();
        let owned = |view: TensorView<'_>| (view.dtype(), view.shape().to_vec(), view.data().to_vec());
        Self {
            tensors: tensors.into_iter().map(|(name, view)| (name, owned(view))).collect(),
            metadata: metadata.metadata().clone().unwrap(),
        }
    }

    pub fn names(&self) -> Vec<&str> {
        let mut names: Vec<_> = self.tensors.keys().map(String::as_str).collect();
        names.sort_unstable();
        names
    }

    #[track_caller]
    pub fn f32(&self, name: &str, dims: &[usize]) -> Vec<f32> {
        let (dtype, shape, bytes) = &self.tensors[name];
        assert_eq!((*dtype, shape.as_slice()), (Dtype::F32, dims));
        bytes.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect()
    }

    #[track_caller]
    pub fn bytes(&self, name: &str, dims: &[usize]) -> &[u8] {
        let (dtype, shape, bytes) = &self.tensors[name];
        assert_eq!((*dtype, shape.as_slice()), (Dtype::U8, dims));
        bytes
    }

    pub fn count(&self, key: &str) -> u64 {
        self.metadata[key].parse().unwrap()
    }
}

pub fn safetensors_bytes(tensors: &[TensorBytes]) -> Vec<u8> {
    noted_bytes(tensors, &[])
}

/// With metadata.
pub fn noted_bytes(tensors: &[TensorBytes], notes: &[(&str, &str)]) -> Vec<u8> {
    let views = tensors
        .iter()
        .map(|(name, dtype, dims, bytes)| (name.to_string(), TensorView::new(*dtype, dims.clone(), bytes).unwrap()));
    let notes = notes.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect::<HashMap<_, _>>();
    safetensors::serialize(views, (!notes.is_empty()).then_some(notes)).unwrap()
}

/// Numbers of about -2 to 2, the same for the same seed.
pub fn numbers(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 22) as f32 - 2.0
    };
    (0..len).map(|_| next()).collect()
}

pub fn f32_tensor(name: &'static str, dims: &[usize], values: &[f32]) -> TensorBytes {
    (name, Dtype::F32, dims.to_vec(), values.iter().flat_map(|x| x.to_le_bytes()).collect())
}

/// q, k and v for these sizes: batch, heads, lengths, head dim.
pub fn qkv(batch: usize, heads: (usize, usize), lens: (usize, usize), dim: usize) -> Vec<TensorBytes> {
    [("q", heads.0, lens.0), ("k", heads.1, lens.1), ("v", heads.1, lens.1)]
        .iter()
        .zip(1..)
        .map(|(&(name, heads, len), seed)| {
            f32_tensor(name, &[batch, heads, len, dim], &numbers(batch * heads * len * dim, seed))
        })
        .collect()
}
