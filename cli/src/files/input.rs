//! Reading tensors out of a safetensors file, with one clear line for whatever is wrong with it.

use crate::failure::{Failure, Result};
use lacuna::AttentionShape;
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use std::io::Read;
use std::path::{Path, PathBuf};

/// Tensors of a file that an error names.
const NAMED: usize = 8;

/// The bytes of a safetensors file.
pub struct TensorFile {
    path: PathBuf,
    bytes: Vec<u8>,
}

impl TensorFile {
    /// Reads a file and checks that it is safetensors.
    pub fn open(path: &Path) -> Result<Self> {
        let bad = |message: String| Failure::Request(format!("{}: {message}", path.display()));
        let bytes = read_with_header(path).map_err(|e| bad(e.to_string()))?;
        let file = Self { path: path.to_owned(), bytes };
        SafeTensors::deserialize(&file.bytes).map_err(|e| bad(format!("not a complete safetensors file: {e}")))?;
        Ok(file)
    }

    /// The same for bytes that are in memory already; `name` stands in messages.
    pub fn from_bytes(name: &Path, bytes: Vec<u8>) -> Result<Self> {
        let file = Self { path: name.to_owned(), bytes };
        file.tensors()?;
        Ok(file)
    }

    /// The name of the file.
    pub fn name(&self) -> String {
        self.path.display().to_string()
    }

    /// A failure that names the file.
    pub fn error(&self, message: impl std::fmt::Display) -> Failure {
        Failure::Request(format!("{}: {message}", self.path.display()))
    }

    /// All tensors; [`open`](Self::open) has checked the file.
    pub fn tensors(&self) -> Result<SafeTensors<'_>> {
        SafeTensors::deserialize(&self.bytes).map_err(|e| self.error(e))
    }

    /// An entry of `__metadata__`.
    pub fn note(&self, key: &str) -> Result<Option<String>> {
        let (_, header) = SafeTensors::read_metadata(&self.bytes).map_err(|e| self.error(e))?;
        Ok(header.metadata().as_ref().and_then(|metadata| metadata.get(key).cloned()))
    }

    /// The bytes of the whole file.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// A tensor by its name; a failure lists what the file holds.
    fn tensor<'a>(&self, tensors: &SafeTensors<'a>, name: &str) -> Result<TensorView<'a>> {
        tensors.tensor(name).map_err(|_| {
            let mut names = tensors.names();
            names.sort_unstable();
            let more = names.len().saturating_sub(NAMED);
            let mut held = names[..names.len() - more].join(", ");
            if names.is_empty() {
                held = "nothing".to_owned();
            } else if more > 0 {
                held += &format!(" and {more} more");
            }
            self.error(format_args!("tensor `{name}` is missing; the file holds {held}"))
        })
    }

    /// The sizes of a tensor that must have `N` of them.
    fn dims<const N: usize>(&self, view: &TensorView<'_>, name: &str) -> Result<[usize; N]> {
        <[usize; N]>::try_from(view.shape())
            .map_err(|_| self.error(format_args!("tensor `{name}` must have {N} dimensions, got {:?}", view.shape())))
    }

    /// A tensor of one of the float types of the contract with its `N` sizes.
    pub fn float_tensor<'a, const N: usize>(
        &self,
        tensors: &SafeTensors<'a>,
        name: &str,
    ) -> Result<(TensorView<'a>, [usize; N])> {
        let view = self.tensor(tensors, name)?;
        let dims = self.dims(&view, name)?;
        match view.dtype() {
            Dtype::F16 | Dtype::BF16 | Dtype::F32 => Ok((view, dims)),
            other => Err(self.error(format_args!("tensor `{name}` must be F16, BF16 or F32, got {other:?}"))),
        }
    }

    /// A float tensor that must have these sizes; `meaning` says what they are.
    pub fn float_tensor_of<'a, const N: usize>(
        &self,
        tensors: &SafeTensors<'a>,
        name: &str,
        expected: [usize; N],
        meaning: &str,
    ) -> Result<TensorView<'a>> {
        let (view, dims) = self.float_tensor(tensors, name)?;
        if dims != expected {
            return Err(self.error(format_args!("tensor `{name}` must be {expected:?} ({meaning}), got {dims:?}")));
        }
        Ok(view)
    }

    /// The tensor `block_mask` as 0s and 1s with its sizes, which must fit the shape.
    pub fn block_mask(&self, shape: &AttentionShape, block_q: usize, block_k: usize) -> Result<([usize; 4], Vec<u8>)> {
        let tensors = self.tensors()?;
        let view = self.tensor(&tensors, "block_mask")?;
        let dims: [usize; 4] = self.dims(&view, "block_mask")?;
        if view.dtype() != Dtype::U8 {
            let got = view.dtype();
            return Err(self.error(format_args!("tensor `block_mask` must be U8, 0 or 1 for each block, got {got:?}")));
        }
        let blocks = [shape.q_len.div_ceil(block_q), shape.kv_len.div_ceil(block_k)];
        let [batch, heads, ..] = dims;
        let heads_fit = [1, shape.kv_heads, shape.q_heads].contains(&heads);
        if !(batch == 1 || batch == shape.batch) || !heads_fit || dims[2..] != blocks {
            return Err(self.error(format_args!(
                "tensor `block_mask` must be [{}, {}, {}, {}] (sequences, heads, blocks of {block_q} queries, blocks of \
                 {block_k} keys), got {dims:?}",
                choices(&[1, shape.batch]),
                choices(&[1, shape.kv_heads, shape.q_heads]),
                blocks[0],
                blocks[1]
            )));
        }
        Ok((dims, view.data().iter().map(|&byte| byte.min(1)).collect()))
    }
}

/// `1 or 2 or 4`, each once.
fn choices(sizes: &[usize]) -> String {
    let mut names: Vec<String> = sizes.iter().map(usize::to_string).collect();
    names.dedup();
    names.join(" or ")
}

/// The bytes of a file whose first 8, the length of the header, fit it: a large file of another kind is not read.
fn read_with_header(path: &Path) -> std::io::Result<Vec<u8>> {
    let bad = |text| Err(std::io::Error::new(std::io::ErrorKind::InvalidData, text));
    let (mut file, bytes) = super::open_regular(path)?;
    let mut length = [0; 8];
    if file.read_exact(&mut length).is_err() {
        return bad("not a complete safetensors file: shorter than 8 bytes");
    }
    let header = u64::from_le_bytes(length);
    if header < 2 || header > bytes.saturating_sub(8) {
        return bad("not a complete safetensors file: the header's length does not fit");
    }
    let mut contents = length.to_vec();
    file.read_to_end(&mut contents)?;
    Ok(contents)
}
