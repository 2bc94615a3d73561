//! What a method says about which keys are read: once for the kernels, once for the reference.

use super::method_options;
use crate::config::{Columns, PatternKeys, S2Keys, Variant};
use crate::failure::{Failure, Result};
use crate::files::TensorFile;
use lacuna::{AttentionShape, BlockMask, BlockPlan, Mask, S2Columns, S2Config, S2Variant, Stream};

/// The pattern of a request.
pub enum Pattern {
    /// Whatever the token mask lets through.
    Tokens,
    /// Blocks of S2-Attention.
    S2(S2Config, BlockMask),
    /// Blocks from the input file, with the file's dims.
    Given([usize; 4], BlockMask),
}

impl Pattern {
    /// The pattern, checked; needs no device.
    pub fn read(file: &TensorFile, keys: &PatternKeys, shape: &AttentionShape) -> Result<Self> {
        let mask = method_options(keys.options()).mask;
        match keys {
            PatternKeys::S2(keys) => {
                let config = s2_config(keys);
                let blocks = s2_blocks(&config, shape, &mask)?;
                Ok(Self::S2(config, blocks))
            }
            PatternKeys::Blocks(keys) => {
                let (dims, data) = file.block_mask(shape, keys.block_q, keys.block_k)?;
                let blocks = BlockMask::from_data(shape, keys.block_q, keys.block_k, dims[0], dims[1], false, data)?;
                Ok(Self::Given(dims, blocks))
            }
            PatternKeys::Dense(_) => Ok(Self::Tokens),
        }
    }

    /// The same for the kernels.
    pub fn plan(&self, stream: &Stream, shape: &AttentionShape) -> Result<BlockPlan> {
        Ok(match self {
            Self::Tokens => BlockPlan::dense(),
            Self::S2(config, _) => config.plan(shape)?,
            Self::Given(dims, blocks) => {
                BlockPlan::from_mask(stream, shape, blocks.block_q, blocks.block_k, *dims, &blocks.data)?
            }
        })
    }

    /// Kernels that make the plan.
    pub fn kernels(&self) -> &'static [&'static str] {
        match self {
            Self::Tokens | Self::S2(..) => &[],
            Self::Given(..) => &["mask_to_lists"],
        }
    }

    /// The blocks as the request has them; `None` where it is about tokens.
    pub fn blocks(&self) -> Option<&BlockMask> {
        match self {
            Self::Tokens => None,
            Self::S2(_, blocks) | Self::Given(_, blocks) => Some(blocks),
        }
    }
}

/// The blocks of S2-Attention from its formula on the host.
pub fn s2_blocks(config: &S2Config, shape: &AttentionShape, mask: &Mask) -> Result<BlockMask> {
    let named = |e: lacuna::Error| match Failure::from(e) {
        Failure::Request(text) => Failure::Request(format!("config: {text}")),
        other => other,
    };
    config.validate(shape, mask).map_err(named)?;
    config.block_mask(shape).map_err(named)
}

/// The library's settings from the config's keys.
pub fn s2_config(keys: &S2Keys) -> S2Config {
    S2Config {
        block_size: keys.block_size,
        local_blocks: keys.local_blocks,
        vertical_stride: keys.vertical_stride,
        head_sliding_step: keys.head_sliding_step,
        head_sliding_offset: keys.head_sliding_offset,
        num_dense_kv_heads: keys.num_dense_kv_heads,
        homogeneous: keys.homogeneous,
        sink_blocks: keys.sink_blocks,
        variant: match keys.variant {
            Variant::Dkernel => S2Variant::Dkernel,
            Variant::Phi3 => S2Variant::Phi3,
        },
        local_right: keys.local_right,
        columns: keys.columns.map(|columns| match columns {
            Columns::Absolute => S2Columns::Absolute,
            Columns::Relative => S2Columns::Relative,
        }),
        causal: keys.options().causal,
    }
}
