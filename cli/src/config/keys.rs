//! The config keys of each method with their defaults.

use super::strict::config_error;
use crate::failure::Result;
use serde::Deserialize;

/// Block sizes that the kernels serve.
const BLOCK_SIZES: [usize; 4] = [16, 32, 64, 128];

/// Type that q, k, v are rounded to and that the kernels compute in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum ComputeType {
    /// bfloat16.
    #[serde(rename = "bf16")]
    Bf16,
    /// IEEE half.
    #[serde(rename = "f16")]
    F16,
}

/// The keys that every method has.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// No key after the query's position.
    pub causal: bool,
    /// Factor of q·k; `None`: 1/√D.
    pub scale: Option<f32>,
    /// Compute type.
    pub dtype: ComputeType,
}

/// A strict config struct: the common keys and its own, each with its default; other keys are refused.
macro_rules! keys {
    ($(#[$doc:meta])* $name:ident { $($(#[$key_doc:meta])* $key:ident: $type:ty = $default:expr,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct $name {
            causal: bool,
            scale: Option<f64>,
            dtype: super::ComputeType,
            $($(#[$key_doc])* pub $key: $type,)*
        }

        impl Default for $name {
            fn default() -> Self {
                Self { causal: true, scale: None, dtype: super::ComputeType::Bf16, $($key: $default,)* }
            }
        }

        impl $name {
            /// Parses and range-checks a config text.
            pub fn parse(text: &str) -> $crate::failure::Result<Self> {
                let keys: Self = super::strict::strict_json(text)?;
                super::keys::check_scale(keys.scale)?;
                keys.check()?;
                Ok(keys)
            }

            /// The keys that every method has.
            pub fn options(&self) -> super::Options {
                super::Options { causal: self.causal, scale: self.scale.map(|s| s as f32), dtype: self.dtype }
            }
        }
    };
}
pub(super) use keys;

keys! {
    /// `dense`: every key that the mask lets through.
    DenseKeys {}
}

impl DenseKeys {
    fn check(&self) -> Result<()> {
        Ok(())
    }
}

keys! {
    /// `blocks`: the blocks that the tensor `block_mask` marks.
    BlocksKeys {
        /// Query rows of a block.
        block_q: usize = 64,
        /// Keys of a block.
        block_k: usize = 64,
    }
}

impl BlocksKeys {
    fn check(&self) -> Result<()> {
        check_block_size("block_q", self.block_q)?;
        check_block_size("block_k", self.block_k)
    }
}

/// Which published S2 formula.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Variant {
    /// DKernel: the shift follows the KV head.
    Dkernel,
    /// Phi-3-small: the shift follows the query head.
    Phi3,
}

/// Where S2's columns count from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Columns {
    /// The first key.
    Absolute,
    /// The edges of each query's window.
    Relative,
}

keys! {
    /// `s2`: local and strided blocks, the stride shifted from head to head.
    S2Keys {
        /// Query rows and keys of a block.
        block_size: usize = 64,
        /// Newest blocks of a row, the diagonal counted.
        local_blocks: usize = 16,
        /// Blocks of the window from the query's own on, which counts; not for causal calls. `None`: as local_blocks.
        local_right: Option<usize> = None,
        /// Where columns count from; `None`: absolute in causal calls, relative in others.
        columns: Option<Columns> = None,
        /// Every so many blocks one is kept for good.
        vertical_stride: usize = 8,
        /// Shift from head to head; `None`: max(1, ⌊stride/Hq⌋).
        head_sliding_step: Option<i64> = None,
        /// Shift of all heads.
        head_sliding_offset: i64 = 0,
        /// The last so many KV heads attend to everything.
        num_dense_kv_heads: usize = 0,
        /// One pattern for all heads.
        homogeneous: bool = false,
        /// First blocks of the sequence that every row keeps.
        sink_blocks: usize = 0,
        /// Which published formula.
        variant: Variant = Variant::Dkernel,
    }
}

impl S2Keys {
    fn check(&self) -> Result<()> {
        check_block_size("block_size", self.block_size)?;
        if self.vertical_stride == 0 {
            return Err(config_error("vertical_stride must be at least 1, got 0"));
        }
        Ok(())
    }
}

/// Where hash buckets stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BucketOrder {
    /// Neighbours differ in one bit.
    Gray,
    /// As the published code has it.
    Compat,
}

/// How samples are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sampling {
    /// With replacement.
    Uniform,
    /// Without.
    Distinct,
    /// One in each of equal parts of the sorted keys.
    Stratified,
    /// By the norms of the values.
    Values,
}

impl Sampling {
    /// As the key has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Uniform => "uniform",
            Self::Distinct => "distinct",
            Self::Stratified => "stratified",
            Self::Values => "values",
        }
    }
}

impl From<Sampling> for lacuna::Sampling {
    fn from(sampling: Sampling) -> Self {
        match sampling {
            Sampling::Uniform => Self::Uniform,
            Sampling::Distinct => Self::Distinct,
            Sampling::Stratified => Self::Stratified,
            Sampling::Values => Self::Values,
        }
    }
}

keys! {
    /// `hyper`: hash blocks and samples.
    HyperKeys {
        /// Hyperplanes of the hash; `None`: as many as the tensor `projections` has, or 7.
        num_projections: Option<usize> = None,
        /// Hashes with projections of their own.
        rounds: usize = 1,
        /// Keys of a block of the sorted order.
        block_size: usize = 256,
        /// Keys drawn for each KV head; `None`: as many as the tensor `samples` has, or 256.
        sample_size: Option<usize> = None,
        /// How they are drawn.
        sampling: Sampling = Sampling::Uniform,
        /// The first keys, so many, are attended exactly.
        sinks: usize = 0,
        /// Causal: at least so many of the newest keys are attended exactly.
        local_window: usize = 0,
        /// The keys of a query block are those around the buckets of its queries.
        align_windows: bool = false,
        /// Shorter calls are exact.
        min_seq_len: usize = 4096,
        /// Order of the buckets.
        bucket_order: BucketOrder = BucketOrder::Gray,
        /// Hash differences to the mean.
        center: bool = true,
        /// Where projections and samples come from that the file does not hold.
        seed: u64 = 0,
    }
}

impl HyperKeys {
    fn check(&self) -> Result<()> {
        let most = lacuna::HyperConfig::MAX_PROJECTIONS;
        if let Some(r) = self.num_projections.filter(|r| !(1..=most).contains(r)) {
            return Err(config_error(format_args!("num_projections must be in 1..={most}, got {r}")));
        }
        if self.block_size == 0 {
            return Err(config_error("block_size must be at least 1, got 0"));
        }
        let most = lacuna::HyperConfig::MAX_ROUNDS;
        if !(1..=most).contains(&self.rounds) {
            return Err(config_error(format_args!("rounds must be in 1..={most}, got {}", self.rounds)));
        }
        let most = lacuna::HyperConfig::MAX_SINKS;
        if self.sinks > most {
            return Err(config_error(format_args!("sinks must be in 0..={most}, got {}", self.sinks)));
        }
        if self.local_window > self.min_seq_len {
            let (most, got) = (self.min_seq_len, self.local_window);
            return Err(config_error(format_args!("local_window must be in 0..=min_seq_len ({most}), got {got}")));
        }
        Ok(())
    }
}

pub(super) fn check_block_size(key: &str, size: usize) -> Result<()> {
    if BLOCK_SIZES.contains(&size) {
        return Ok(());
    }
    Err(config_error(format_args!("{key} must be one of {BLOCK_SIZES:?}, got {size}")))
}

pub(super) fn check_scale(scale: Option<f64>) -> Result<()> {
    match scale {
        Some(s) if !(s as f32).is_finite() => Err(config_error(format_args!("scale must be a finite f32, got {s}"))),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        S2Keys::parse(text).expect_err(text).line()
    }

    #[test]
    fn defaults_are_the_published_ones() {
        let keys = S2Keys::parse("{}").unwrap();
        assert_eq!((keys.block_size, keys.local_blocks, keys.vertical_stride), (64, 16, 8));
        assert!(keys.options().causal && keys.options().scale.is_none());
        assert_eq!(keys.options().dtype, ComputeType::Bf16);
    }

    #[test]
    fn hyper_keys() {
        let keys = HyperKeys::parse("{}").unwrap();
        assert_eq!((keys.num_projections, keys.block_size, keys.sample_size), (None, 256, None));
        assert_eq!((keys.min_seq_len, keys.bucket_order, keys.center), (4096, BucketOrder::Gray, true));
        assert_eq!((keys.sampling, keys.sinks, keys.local_window), (Sampling::Uniform, 0, 0));
        assert_eq!((keys.align_windows, keys.rounds), (false, 1));
        for (text, words) in [
            (r#"{"num_projections": 0}"#, "num_projections must be in 1..=16, got 0"),
            (r#"{"num_projections": 17}"#, "num_projections must be in 1..=16, got 17"),
            (r#"{"rounds": 9}"#, "rounds must be in 1..=8, got 9"),
            (r#"{"rounds": 0}"#, "rounds must be in 1..=8, got 0"),
            (r#"{"block_size": 0}"#, "block_size must be at least 1"),
            (r#"{"sinks": 65537}"#, "sinks must be in 0..=65536, got 65537"),
            (r#"{"sinks": -1}"#, "sinks"),
            (r#"{"local_window": 9, "min_seq_len": 8}"#, "local_window must be in 0..=min_seq_len (8), got 9"),
            (r#"{"seed": -1}"#, "seed: invalid value: integer `-1`, expected a whole number of at least 0"),
            (r#"{"bucket_order": "binary"}"#, "bucket_order"),
            (
                r#"{"sampling": "value"}"#,
                "unknown variant `value`, expected one of `uniform`, `distinct`, `stratified`, `values`",
            ),
            (r#"{"samples": 8}"#, "unknown field `samples`"),
        ] {
            let line = HyperKeys::parse(text).expect_err(text).line();
            assert!(line.contains(words), "{text}: {line}");
        }
    }

    #[test]
    fn errors_name_the_key() {
        for (text, words) in [
            (r#"{"block_size": "64"}"#, "block_size: invalid type: string"),
            (r#"{"block_size": 48}"#, "block_size must be one of [16, 32, 64, 128], got 48"),
            (r#"{"block_size": 64.5}"#, "block_size: invalid type: floating point"),
            (r#"{"local_blocks": -1}"#, "local_blocks: invalid value: integer `-1`"),
            (r#"{"vertical_stride": 0}"#, "vertical_stride must be at least 1"),
            (r#"{"variant": "phi4"}"#, "variant"),
            (r#"{"dtype": "f32"}"#, "dtype"),
            (r#"{"causal": 1}"#, "causal: invalid type: integer `1`, expected true or false"),
            (r#"{"scale": 1e60}"#, "scale must be a finite f32"),
            (r#"{"scale": NaN}"#, "scale"),
            (r#"{"causal": true, "causal": false}"#, "duplicate field `causal`"),
            (r#"{"stride": 8}"#, "unknown field `stride`"),
            (r#"{} x"#, "trailing characters"),
            (r#"[]"#, "expected an object"),
            (r#"{"causal": true"#, "EOF"),
            (r#"null"#, "expected an object"),
            (r#""#, "expected an object"),
        ] {
            let line = refused(text);
            assert!(line.contains(words), "{text}: {line}");
        }
    }
}
