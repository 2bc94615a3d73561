//! What a caller can ask of forward attention.

use super::paged::PagedKv;
use super::ragged::Ragged;
use crate::error::{Error, Result};
use crate::kernels::bindings as abi;
use crate::kernels::family::KernelFamily;
use crate::shape::{AttentionShape, Mask};
use crate::tensor::Tensor;

/// Options of [`forward`](super::forward()). The default is a full mask and `1 / sqrt(head_dim)`.
#[derive(Debug, Clone, Copy)]
pub struct ForwardOptions<'a> {
    /// Which token pairs are visible at all.
    pub mask: Mask,
    /// Multiplies q · k; `None`: `1 / sqrt(head_dim)`.
    pub scale: Option<f32>,
    /// Logits become `softcap * tanh(logit / softcap)`.
    pub softcap: Option<f32>,
    /// A logit for each query head that joins the denominator of its rows: `q_heads` elements. Not scaled or capped.
    pub sink: Option<&'a Tensor<f32>>,
    /// Parts that the keys of a row are cut into, which run at once and are then merged; good when there are fewer
    /// rows than the device has room for. At most 64.
    pub splits: usize,
    /// The kernels that may serve the call. A family that can't is an error; nothing takes its place silently.
    pub family: KernelFamily,
    /// K and V in pages; `None`: a tensor with a row for each key.
    pub paged: Option<PagedKv<'a>>,
    /// Lengths of the sequences where they differ. The default: all have those of the shape.
    pub ragged: Ragged<'a>,
}

impl Default for ForwardOptions<'_> {
    fn default() -> Self {
        let (mask, family) = (Mask::FULL, KernelFamily::Auto);
        Self { mask, scale: None, softcap: None, sink: None, splits: 1, family, paged: None, ragged: Ragged::default() }
    }
}

impl ForwardOptions<'_> {
    /// The default options under a causal mask.
    pub fn causal() -> Self {
        Self { mask: Mask::CAUSAL, ..Self::default() }
    }

    /// The factor of q · k.
    pub fn scale_for(&self, shape: &AttentionShape) -> f32 {
        self.scale.unwrap_or_else(|| (1.0 / (shape.head_dim as f64).sqrt()) as f32)
    }

    /// Checks the options against a shape.
    ///
    /// # Errors
    /// [`Error::Value`] or [`Error::Shape`] names the option that breaks its range.
    pub fn validate(&self, shape: &AttentionShape) -> Result<()> {
        shape.validate()?;
        self.mask.validate(shape)?;
        let value = |what, expected: &str, got: String| Err(Error::Value { what, expected: expected.into(), got });
        let scale = self.scale_for(shape);
        if !scale.is_finite() {
            return value("scale", "finite", scale.to_string());
        }
        if let Some(softcap) = self.softcap
            && !(softcap.is_finite() && softcap > 0.0)
        {
            return value("softcap", "positive and finite", softcap.to_string());
        }
        if !(1..=abi::LACUNA_MAX_SPLITS as usize).contains(&self.splits) {
            return value("splits", &format!("in 1..={}", abi::LACUNA_MAX_SPLITS), self.splits.to_string());
        }
        if let Some(sink) = self.sink
            && (sink.layout().len() != shape.q_heads || !sink.layout().is_contiguous())
        {
            return Err(Error::Shape {
                what: "sink",
                expected: format!("{} packed elements, one for each query head", shape.q_heads),
                got: format!("{:?}", sink.dims()),
            });
        }
        self.ragged.validate(shape)?;
        if self.ragged.cu_seqlens_q.is_some() && self.splits != 1 {
            return value("splits", "1 for packed queries", self.splits.to_string());
        }
        if self.ragged.cu_seqlens_k.is_some() && self.paged.is_some() {
            return value("cu_seqlens_k", "none for K and V in pages, which have kv_lens", "both".into());
        }
        self.paged.map_or(Ok(()), |paged| paged.validate(shape))
    }
}
