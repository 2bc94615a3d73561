//! Names of a gate's tensors in files: lacuna's own, and those of the published checkpoints of SeerAttention and
//! SeerAttention-R, which are state dicts of a model's `attn_gate` modules.

use safetensors::SafeTensors;

/// What a gate plans.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Prompts: SeerAttention.
    Prefill,
    /// The newest tokens: SeerAttention-R.
    Decode,
}

impl Kind {
    /// Names in a layer: lacuna's, and the published one.
    fn names(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Prefill => &[("w_k", "mask_linear_k"), ("w_q", "mask_linear_q")],
            Self::Decode => &[
                ("w_k", "attngate_linear_k"),
                ("w_q", "attngate_linear_q"),
                ("k_norm", "attngate_knorm"),
                ("q_norm", "attngate_qnorm"),
            ],
        }
    }

    /// The published name of a tensor of a layer, by lacuna's, without `model.` before it.
    fn published(self, layer: usize, own: &str) -> Option<String> {
        let (_, name) = self.names().iter().find(|(name, _)| *name == own)?;
        Some(format!("layers.{layer}.self_attn.attn_gate.{name}.weight"))
    }

    /// The name that a file has for a tensor of a layer: lacuna's or, if there is none, the published one.
    pub fn find<'a>(self, tensors: &'a SafeTensors<'_>, layer: usize, own: &str) -> Option<&'a str> {
        let exact = format!("layers.{layer}.{own}");
        let published = self.published(layer, own);
        let is_published = |name: &&str| {
            let Some(published) = &published else { return false };
            name.strip_suffix(published.as_str()).is_some_and(|head| head.is_empty() || head.ends_with('.'))
        };
        let names = tensors.names();
        names.iter().copied().find(|&name| name == exact).or_else(|| {
            // Of several, the one with the least before it.
            names.into_iter().filter(is_published).min_by_key(|name| (name.len(), *name))
        })
    }

    /// What to say of a tensor that a file lacks.
    pub fn missing(self, layer: usize, own: &str) -> String {
        let published = self.published(layer, own).map_or(String::new(), |name| format!(", and so is `model.{name}`"));
        format!("tensor `layers.{layer}.{own}` is missing{published}")
    }

    /// The kind of gate that a file holds, by the published names of layer 0; `None`: it has no such names.
    pub fn published_in(tensors: &SafeTensors<'_>) -> Option<Self> {
        [Self::Prefill, Self::Decode].into_iter().find(|kind| {
            let published = kind.published(0, "w_k").unwrap_or_default();
            tensors.names().iter().any(|name| name.ends_with(&published))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use safetensors::{Dtype, serialize, tensor::TensorView};

    fn file(names: &[&str]) -> Vec<u8> {
        let view = || TensorView::new(Dtype::F32, vec![1], &[0; 4]).unwrap();
        serialize(names.iter().map(|&name| (name, view())), None).unwrap()
    }

    #[test]
    fn published_names() {
        let bytes = file(&[
            "model.layers.0.self_attn.attn_gate.attngate_linear_q.weight",
            "model.layers.0.self_attn.attn_gate.attngate_linear_k.weight",
            "model.layers.0.self_attn.attn_gate.attngate_qnorm.weight",
            "model.layers.11.self_attn.attn_gate.attngate_knorm.weight",
            "layers.0.self_attn.attn_gate.attngate_linear_kk.weight",
            "xlayers.2.self_attn.attn_gate.attngate_linear_k.weight",
        ]);
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let find = |layer, own| Kind::Decode.find(&tensors, layer, own);
        assert_eq!(find(0, "w_q"), Some("model.layers.0.self_attn.attn_gate.attngate_linear_q.weight"));
        assert_eq!(find(0, "w_k"), Some("model.layers.0.self_attn.attn_gate.attngate_linear_k.weight"));
        assert_eq!(find(0, "q_norm"), Some("model.layers.0.self_attn.attn_gate.attngate_qnorm.weight"));
        assert_eq!(find(0, "k_norm"), None);
        assert_eq!(find(1, "k_norm"), None);
        assert_eq!(find(11, "k_norm"), Some("model.layers.11.self_attn.attn_gate.attngate_knorm.weight"));
        assert_eq!(find(2, "w_k"), None);
        assert_eq!(Kind::Prefill.find(&tensors, 0, "w_k"), None);
        assert_eq!(Kind::published_in(&tensors), Some(Kind::Decode));
    }

    #[test]
    fn own_names_come_first() {
        let published = "model.layers.3.self_attn.attn_gate.mask_linear_k.weight";
        let bytes = file(&[published, "layers.3.w_k", "base.model.layers.3.self_attn.attn_gate.mask_linear_k.weight"]);
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(Kind::Prefill.find(&tensors, 3, "w_k"), Some("layers.3.w_k"));
        let bytes = file(&["base.model.layers.3.self_attn.attn_gate.mask_linear_k.weight", published]);
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(Kind::Prefill.find(&tensors, 3, "w_k"), Some(published));
        assert_eq!(Kind::published_in(&tensors), None);
        assert_eq!(
            Kind::Prefill.missing(3, "w_q"),
            "tensor `layers.3.w_q` is missing, and so is `model.layers.3.self_attn.attn_gate.mask_linear_q.weight`"
        );
    }
}
