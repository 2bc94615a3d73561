//! The config of `decode`: the method's keys, and those that say how tokens are decoded.

use super::method::{Method, PatternKeys};
use super::seer::SeerDecodeKeys;
use super::strict::{config_error, strict_json};
use crate::failure::{Failure, Result, request};
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// What happens to keys and values that no later token reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cache {
    /// They stay.
    Full,
    /// Their memory is used again.
    Evict,
}

/// How tokens are decoded.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DecodeKeys {
    /// Tokens of each sequence that are prefilled in one call; `None`: all but the last one.
    #[serde(alias = "prompt_len", alias = "prompt_length")]
    pub prompt: Option<usize>,
    /// What happens to keys that no later token reads.
    pub cache: Cache,
    /// Keys of a page; 0: K and V are contiguous.
    pub page_size: usize,
    /// Tokens of a sequence that a decode step takes at most.
    pub tokens_per_step: usize,
}

impl Default for DecodeKeys {
    fn default() -> Self {
        Self { prompt: None, cache: Cache::Full, page_size: 0, tokens_per_step: 1 }
    }
}

/// Names of [`DecodeKeys`] in a config.
const NAMES: [&str; 6] = ["prompt", "prompt_len", "prompt_length", "cache", "page_size", "tokens_per_step"];

/// A method with its checked keys. A gate for decoding is another one than a gate for prefill.
pub enum DecodeMethod {
    /// Dense, blocks or S2: as in `attend`.
    Pattern(PatternKeys),
    /// SeerAttention-R.
    Seer(SeerDecodeKeys),
}

impl DecodeMethod {
    /// The keys that every method has.
    pub fn options(&self) -> super::Options {
        match self {
            Self::Pattern(keys) => keys.options(),
            Self::Seer(keys) => keys.options(),
        }
    }
}

/// Parses and range-checks the config text of a method.
pub fn parse_decode(method: Method, text: &str) -> Result<(DecodeKeys, DecodeMethod)> {
    let Entries(entries) = strict_json(text)?;
    let keys: DecodeKeys = strict_json(&part(text, &entries, |name| NAMES.contains(&name)))?;
    let rest = part(text, &entries, |name| !NAMES.contains(&name));
    let method = match method {
        Method::Seer => DecodeMethod::Seer(SeerDecodeKeys::parse(&rest).map_err(with_own_keys)?),
        Method::Hyper => return request!("method hyper is for whole prompts; decode has dense, blocks, s2 and seer"),
        other => DecodeMethod::Pattern(PatternKeys::parse(other, &rest).map_err(with_own_keys)?),
    };
    if keys.cache == Cache::Evict {
        let DecodeMethod::Pattern(PatternKeys::S2(s2)) = &method else {
            return Err(config_error("cache \"evict\" is for method s2, whose pattern says what is never read again"));
        };
        if keys.page_size != 0 && keys.page_size != s2.block_size {
            return Err(config_error(format_args!(
                "page_size must be 0 or the block_size, {}, with cache \"evict\", got {}",
                s2.block_size, keys.page_size
            )));
        }
    }
    if !(1..=16).contains(&keys.tokens_per_step) {
        return Err(config_error(format_args!("tokens_per_step must be in 1..=16, got {}", keys.tokens_per_step)));
    }
    if !keys.page_size.is_multiple_of(16) {
        return Err(config_error(format_args!(
            "page_size must be 0 (contiguous) or a multiple of 16, got {}",
            keys.page_size
        )));
    }
    if !method.options().causal {
        return Err(config_error("causal must be true: a decoded token sees no later one"));
    }
    Ok((keys, method))
}

/// The list of known keys in an error is that of the method.
fn with_own_keys(failure: Failure) -> Failure {
    match failure {
        Failure::Request(text) if text.starts_with("config: unknown field") => {
            Failure::Request(format!("{text}; decode also has prompt, cache, page_size and tokens_per_step"))
        }
        other => other,
    }
}

/// The entries of an object in the order of the text.
struct Entries<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Entries<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Vec<(String, &'de RawValue)>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                std::iter::from_fn(|| map.next_entry().transpose()).collect()
            }
        }
        deserializer.deserialize_map(Collect).map(Entries)
    }
}

/// The object `text` with the entries that are wanted. They stay at their line and column, which errors name.
fn part(text: &str, entries: &[(String, &RawValue)], wanted: impl Fn(&str) -> bool) -> String {
    let brace = text.find('{').unwrap_or(0);
    let mut part = blank(&text[..brace]) + "{";
    let (mut at, mut first) = (brace + 1, true);
    for (name, value) in entries {
        // From the comma after the entry before.
        let end = value.get().as_ptr() as usize - text.as_ptr() as usize + value.get().len();
        let entry = &text[at..end];
        part += &match (wanted(name), first) {
            (false, _) => blank(entry),
            (true, true) => entry.replacen(',', " ", usize::from(entry.trim_start().starts_with(','))),
            (true, false) => entry.to_owned(),
        };
        first &= !wanted(name);
        at = end;
    }
    part + &text[at..]
}

/// As many spaces, on as many lines.
fn blank(text: &str) -> String {
    text.bytes().map(|byte| if byte == b'\n' { '\n' } else { ' ' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_go_to_their_owners() {
        let text = r#"{"prompt_len": 7, "page_size": 32, "local_blocks": 3, "dtype": "f16"}"#;
        let (keys, method) = parse_decode(Method::S2, text).unwrap();
        assert_eq!((keys.prompt, keys.page_size, keys.tokens_per_step), (Some(7), 32, 1));
        let DecodeMethod::Pattern(PatternKeys::S2(s2)) = method else { panic!("another method") };
        assert_eq!(s2.local_blocks, 3);
    }

    #[test]
    fn errors_name_the_place_in_the_file() {
        let text = "{\n \"prompt\": 3, \"causal\": 1,\n \"page_size\": \"a\"}";
        let line = parse_decode(Method::Dense, text).map(|_| ()).expect_err(text).line();
        assert!(line.contains("page_size") && line.contains("line 3 column 17"), "{line}");
        let text = "{\n \"prompt\": 3, \"causal\": 1,\n \"page_size\": 16}";
        let line = parse_decode(Method::Dense, text).map(|_| ()).expect_err(text).line();
        assert!(line.contains("causal") && line.contains("line 2 column 25"), "{line}");
    }

    #[test]
    fn errors_name_the_key() {
        for (method, text, words) in [
            (Method::Dense, r#"{"prompt": 1, "prompt_len": 1}"#, "duplicate field `prompt`"),
            (Method::Dense, r#"{"prompt": 1, "prompt": 1}"#, "duplicate field `prompt`"),
            (Method::S2, r#"{"local_blocks": 1, "local_blocks": 1}"#, "duplicate field `local_blocks`"),
            (Method::Seer, r#"{"select": {"blocks": 1, "blocks": 2}}"#, "duplicate field `blocks`"),
            (Method::Dense, r#"{"prompt": -1}"#, "prompt"),
            (Method::Dense, r#"{"cache": "evict"}"#, "is for method s2"),
            (Method::S2, r#"{"cache": "evict", "page_size": 32}"#, "page_size must be 0 or the block_size, 64"),
            (Method::Dense, r#"{"cache": "half"}"#, "cache"),
            (Method::Dense, r#"{"page_size": 24}"#, "page_size must be 0"),
            (Method::Dense, r#"{"tokens_per_step": 0}"#, "tokens_per_step must be in 1..=16, got 0"),
            (Method::Dense, r#"{"tokens_per_step": 17}"#, "tokens_per_step must be in"),
            (Method::Dense, r#"{"causal": false}"#, "causal must be true"),
            (Method::Dense, r#"{"block_size": 64}"#, "unknown field `block_size`, expected one of"),
            (Method::Dense, r#"{"step": 64}"#, "decode also has prompt"),
            (Method::Seer, r#"{"q_pool": ["avg"]}"#, "unknown field `q_pool`"),
            (Method::Seer, r#"{"norm_eps": -1}"#, "norm_eps must be"),
            (Method::Seer, r#"{"select": {"token_budget": 0}}"#, "token_budget must be at least 1"),
            (Method::Seer, r#"{"select": [0.1]}"#, "select: invalid type: sequence, expected an object with one rule"),
            (Method::Seer, r#"{"select": {"block": 1}}"#, "select.block: unknown field `block`"),
            (Method::Dense, "[]", "expected an object"),
            (Method::Dense, "{} {}", "trailing"),
            (Method::Dense, r#"{"prompt": 1,}"#, "trailing comma"),
            (Method::Hyper, "{}", "method hyper is for whole prompts"),
        ] {
            let line = parse_decode(method, text).map(|_| ()).expect_err(text).line();
            assert!(line.contains(words), "{text}: {line}");
        }
    }
}
