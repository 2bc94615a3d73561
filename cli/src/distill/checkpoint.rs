//! Files of training: the checkpoint that a run goes on from, and the trained gates.

use super::gate::{LayerGate, NAMES};
use super::recipe::{Kind, Pool, Recipe};
use crate::failure::Result;
use crate::files::{Contents, OutputFile, TensorFile};
use crate::gates::threshold_note;
use crate::training::Parameter;
use candle_core::{Device, Tensor, Var};
use std::path::{Path, PathBuf};

/// Beside the output.
pub fn checkpoint_path(output: &Path) -> PathBuf {
    let mut name = output.as_os_str().to_owned();
    name.push(".checkpoint");
    PathBuf::from(name)
}

/// The weights and what continues their training.
pub struct State {
    /// Steps done.
    pub step: usize,
    /// One a layer.
    pub gates: Vec<LayerGate>,
}

impl State {
    /// Before the first step.
    pub fn new(recipe: &Recipe) -> Result<Self> {
        let gates = (0..recipe.layers).map(|layer| LayerGate::new(recipe, layer)).collect::<Result<_>>()?;
        Ok(Self { step: 0, gates })
    }

    /// Writes everything that the following steps depend on.
    pub fn save(&self, recipe: &Recipe, file: &OutputFile) -> Result<()> {
        let mut contents = Contents::default();
        for (name, parameter) in self.parameters() {
            for (part, tensor) in
                [("", parameter.value.as_tensor()), (".m", &parameter.first), (".v", &parameter.second)]
            {
                contents.add_f32(format!("{name}{part}"), tensor.dims(), &tensor.flatten_all()?.to_vec1::<f32>()?);
            }
        }
        contents.note("recipe", recipe.to_json()?);
        contents.note("step", self.step);
        file.write(&contents)
    }

    /// Reads what [`State::save`] wrote, for the same recipe.
    pub fn load(recipe: &Recipe, path: &Path) -> Result<Self> {
        let file = TensorFile::open(path)?;
        let (Some(saved), Some(step)) = (file.note("recipe")?, file.note("step")?) else {
            return Err(file.error("not a checkpoint of lacuna distill: recipe or step is missing"));
        };
        let saved: Recipe = serde_json::from_str(&saved).map_err(|e| file.error(format_args!("recipe: {e}")))?;
        if let Some(difference) = recipe.difference(&saved) {
            return Err(file.error(format_args!("a checkpoint of another run (this one against it): {difference}")));
        }
        let step = step.parse().ok().filter(|&step| step <= recipe.steps);
        let step = step.ok_or_else(|| file.error(format_args!("step must be at most {}", recipe.steps)))?;
        let tensors = file.tensors()?;
        let mut state = Self::new(recipe)?;
        for (layer, gate) in state.gates.iter_mut().enumerate() {
            for (name, slot) in NAMES.iter().zip(&mut gate.parameters) {
                let Some(parameter) = slot else { continue };
                let read = |part: &str| -> Result<Tensor> {
                    let name = format!("layers.{layer}.{name}{part}");
                    let dims = parameter.value.dims();
                    let view = tensors.tensor(&name).ok().filter(|view| view.shape() == dims);
                    let view = view.filter(|view| view.dtype() == safetensors::Dtype::F32);
                    let view = view.ok_or_else(|| file.error(format_args!("tensor `{name}` must be F32 {dims:?}")))?;
                    Ok(Tensor::from_raw_buffer(view.data(), candle_core::DType::F32, dims, &Device::Cpu)?)
                };
                *slot =
                    Some(Parameter { value: Var::from_tensor(&read("")?)?, first: read(".m")?, second: read(".v")? });
            }
        }
        state.step = step;
        Ok(state)
    }

    fn parameters(&self) -> impl Iterator<Item = (String, &Parameter)> {
        self.gates.iter().enumerate().flat_map(|(layer, gate)| {
            let named = NAMES.iter().zip(&gate.parameters);
            named.filter_map(move |(name, slot)| Some((format!("layers.{layer}.{name}"), slot.as_ref()?)))
        })
    }

    /// The gates as they are stored: weights as bf16, norms as f32.
    pub fn rounded(&self) -> Result<Self> {
        let mut gates = self.gates.clone();
        for [w_k, w_q, ..] in gates.iter_mut().map(|gate| &mut gate.parameters) {
            for weight in [w_k, w_q].into_iter().flatten() {
                let value = weight.value.to_dtype(candle_core::DType::BF16)?.to_dtype(candle_core::DType::F32)?;
                weight.value = Var::from_tensor(&value)?;
            }
        }
        Ok(Self { step: self.step, gates })
    }

    /// The trained gates, with what they are and how they came about.
    pub fn gates(&self, recipe: &Recipe, text: &str, thresholds: &[(f64, f64)]) -> Result<Contents> {
        let mut contents = Contents::default();
        for (name, parameter) in self.parameters() {
            let values = parameter.value.flatten_all()?.to_vec1::<f32>()?;
            let dims = parameter.value.dims();
            if name.ends_with("norm") {
                contents.add_f32(name, dims, &values);
            } else {
                contents.add_bf16(name, dims, &values);
            }
        }
        let names = |pools: &[Pool]| {
            let name = |pool: &Pool| match pool {
                Pool::Max => "max",
                Pool::Min => "min",
                Pool::Avg => "avg",
            };
            pools.iter().map(name).collect::<Vec<_>>().join(",")
        };
        contents.note("lacuna", env!("CARGO_PKG_VERSION"));
        contents.note("block_size", recipe.block_size);
        if recipe.kind == Kind::Prefill {
            contents.note("q_pool", names(&recipe.q_pool));
        }
        contents.note("k_pool", names(&recipe.k_pool));
        contents.note("rope_theta", recipe.rope_theta);
        contents.note("kind", if recipe.kind == Kind::Prefill { "prefill" } else { "decode" });
        contents.note("thresholds", threshold_note(thresholds));
        contents.note("text", text);
        contents.note("recipe", recipe.to_json()?);
        Ok(contents)
    }
}
