//! The rule by which a gate's scores become blocks.

use super::strict::config_error;
use crate::failure::Result;
use lacuna::methods::seer::Select;
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, MapAccess, Visitor};

/// `select` of a config: an object with one key.
#[derive(Debug, Clone, Default)]
pub struct SelectKeys(Rules);

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Rules {
    /// Blocks with more than this part of the softmax.
    threshold: Option<f64>,
    /// Part of the causal blocks that are kept when each row keeps the same number.
    density: Option<f64>,
    /// Blocks a row.
    blocks: Option<usize>,
    /// The fewest blocks that hold this part of the softmax.
    top_p: Option<f64>,
    /// Tokens in the blocks of a row.
    token_budget: Option<usize>,
}

impl<'de> Deserialize<'de> for SelectKeys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        /// A derived struct would also take an array of its fields.
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Rules;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object with one rule")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Rules, A::Error> {
                Rules::deserialize(MapAccessDeserializer::new(map))
            }
        }
        deserializer.deserialize_map(Object).map(SelectKeys)
    }
}

impl SelectKeys {
    /// The rule, which must be one of `names`.
    pub fn rule(&self, names: &[&str]) -> Result<Select> {
        let given = [
            ("threshold", self.0.threshold.map(Select::Threshold)),
            ("density", self.0.density.map(Select::Density)),
            ("blocks", self.0.blocks.map(Select::Blocks)),
            ("top_p", self.0.top_p.map(Select::TopP)),
            ("token_budget", self.0.token_budget.map(Select::TokenBudget)),
        ];
        let mut given = given.into_iter().filter_map(|(name, rule)| Some((name, rule?)));
        let (Some((name, rule)), None) = (given.next(), given.next()) else {
            return Err(config_error(format_args!("select must have exactly one of the keys {}", names.join(", "))));
        };
        if !names.contains(&name) {
            return Err(config_error(format_args!("select: {name} is not a rule here, but {}", names.join(", "))));
        }
        let part = |value: f64| (!(value > 0.0 && value <= 1.0)).then(|| ("above 0 and at most 1", value.to_string()));
        let count = |value: usize| (value == 0).then(|| ("at least 1", value.to_string()));
        let wrong = match rule {
            Select::Threshold(value) => (!(0.0..=1.0).contains(&value)).then(|| ("in 0..=1", value.to_string())),
            Select::Density(value) | Select::TopP(value) => part(value),
            Select::Blocks(value) | Select::TokenBudget(value) => count(value),
        };
        match wrong {
            Some((expected, got)) => Err(config_error(format_args!("select: {name} must be {expected}, got {got}"))),
            None => Ok(rule),
        }
    }
}
