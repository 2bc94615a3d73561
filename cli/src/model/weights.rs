//! The model's two files: sizes and weights.

use crate::failure::{Failure, Result};
use candle_core::{DType, Device, Tensor};
use std::collections::HashMap;
use std::path::Path;

/// `config.json`: sizes, named as in the Hugging Face format.
#[derive(Debug, Clone, serde::Deserialize)]
pub struct Config {
    /// Token ids; 256, since tokens are bytes.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Blocks.
    pub num_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// KV heads; each serves `num_attention_heads / num_key_value_heads` query heads.
    pub num_key_value_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Added to the mean square.
    pub rms_norm_eps: f64,
    /// Longest window the model was trained on, in bytes.
    pub max_position_embeddings: usize,
}

impl Config {
    /// Parses `config.json` and checks what the code relies on.
    pub fn parse(json: &[u8]) -> Result<Self> {
        let bad = |message: String| Failure::Request(format!("model: config.json: {message}"));
        let config: Self = serde_json::from_slice(json).map_err(|e| bad(e.to_string()))?;
        if config.vocab_size != 256 {
            return Err(bad(format!("vocab_size must be 256 (tokens are bytes), got {}", config.vocab_size)));
        }
        if config.num_layers == 0 || config.hidden_size == 0 {
            return Err(bad("num_layers and hidden_size must be at least 1".into()));
        }
        if config.num_key_value_heads == 0 || !config.num_attention_heads.is_multiple_of(config.num_key_value_heads) {
            return Err(bad("num_attention_heads must be a multiple of num_key_value_heads".into()));
        }
        if config.head_dim == 0 || !config.head_dim.is_multiple_of(2) {
            return Err(bad(format!("head_dim must be even and positive, got {}", config.head_dim)));
        }
        Ok(config)
    }
}

/// The bytes of a model, built in or from a directory.
pub struct Files {
    /// `config.json`.
    pub config: Vec<u8>,
    /// `model.safetensors`.
    pub weights: Vec<u8>,
    /// `valid.txt`: text the model has not seen.
    pub text: Vec<u8>,
}

impl Files {
    /// The reference model, compiled into the tool.
    pub fn built_in() -> Self {
        Self {
            config: include_bytes!("../../../data/reference-model/config.json").to_vec(),
            weights: include_bytes!("../../../data/reference-model/model.safetensors").to_vec(),
            text: include_bytes!("../../../data/reference-model/valid.txt").to_vec(),
        }
    }

    /// A model of the same architecture from a directory with the same three file names.
    pub fn open(directory: &Path) -> Result<Self> {
        let read = |name: &str| {
            let path = directory.join(name);
            crate::files::read_regular(&path).map_err(|e| Failure::Request(format!("model: {}: {e}", path.display())))
        };
        Ok(Self { config: read("config.json")?, weights: read("model.safetensors")?, text: read("valid.txt")? })
    }
}

/// Weights as f32 tensors, matrices `[out, in]`.
pub struct Weights {
    pub embedding: Tensor,
    pub blocks: Vec<Block>,
    pub norm: Tensor,
    pub head: Tensor,
}

/// One block's weights.
pub struct Block {
    pub norm1: Tensor,
    pub q: Tensor,
    pub k: Tensor,
    pub v: Tensor,
    pub o: Tensor,
    pub norm2: Tensor,
    pub gate: Tensor,
    pub up: Tensor,
    pub down: Tensor,
}

impl Weights {
    /// Reads `model.safetensors`; every tensor must be there with the shape that `config` implies.
    pub fn load(bytes: &[u8], config: &Config) -> Result<Self> {
        let tensors = candle_core::safetensors::load_buffer(bytes, &Device::Cpu)
            .map_err(|e| Failure::Request(format!("model: model.safetensors: {e}")))?;
        let (hidden, dim) = (config.hidden_size, config.head_dim);
        let (q_width, kv_width) = (config.num_attention_heads * dim, config.num_key_value_heads * dim);
        // The MLP's width is in no key of config.json that the code needs: it follows from the first gate.
        let mlp = tensors.get("blocks.0.g.weight").map_or(0, |t| t.dims()[0]);
        let blocks = (0..config.num_layers)
            .map(|i| {
                let get = |name: &str, dims: &[usize]| take(&tensors, &format!("blocks.{i}.{name}.weight"), dims);
                Ok(Block {
                    norm1: get("n1", &[hidden])?,
                    q: get("q", &[q_width, hidden])?,
                    k: get("k", &[kv_width, hidden])?,
                    v: get("v", &[kv_width, hidden])?,
                    o: get("o", &[hidden, q_width])?,
                    norm2: get("n2", &[hidden])?,
                    gate: get("g", &[mlp, hidden])?,
                    up: get("u", &[mlp, hidden])?,
                    down: get("d", &[hidden, mlp])?,
                })
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            embedding: take(&tensors, "emb.weight", &[config.vocab_size, hidden])?,
            blocks,
            norm: take(&tensors, "norm.weight", &[hidden])?,
            head: take(&tensors, "head.weight", &[config.vocab_size, hidden])?,
        })
    }
}

impl Weights {
    /// All tensors by their names in the file.
    pub fn named(&mut self) -> Vec<(String, &mut Tensor)> {
        let mut all = vec![("emb.weight".to_owned(), &mut self.embedding)];
        for (i, block) in self.blocks.iter_mut().enumerate() {
            let Block { norm1, q, k, v, o, norm2, gate, up, down } = block;
            let tensors = [norm1, q, k, v, o, norm2, gate, up, down];
            let names = ["n1", "q", "k", "v", "o", "n2", "g", "u", "d"].into_iter();
            all.extend(names.zip(tensors).map(|(name, tensor)| (format!("blocks.{i}.{name}.weight"), tensor)));
        }
        all.extend([("norm.weight".to_owned(), &mut self.norm), ("head.weight".to_owned(), &mut self.head)]);
        all
    }
}

fn take(tensors: &HashMap<String, Tensor>, name: &str, dims: &[usize]) -> Result<Tensor> {
    let Some(tensor) = tensors.get(name) else {
        return Err(Failure::Request(format!("model: model.safetensors: tensor `{name}` is missing")));
    };
    if tensor.dims() != dims {
        return Err(Failure::Request(format!(
            "model: model.safetensors: tensor `{name}` must be {dims:?}, got {:?}",
            tensor.dims()
        )));
    }
    Ok(tensor.to_dtype(DType::F32)?)
}
