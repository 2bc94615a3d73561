//! `LACUNA_CUDA_ARCHS`: which GPUs the archive serves.

use std::env;

/// Ampere and newer through one SASS and its PTX, Hopper through its own instructions.
const DEFAULT: &str = "80;90a";

/// Architectures of one build, as written ("80", "90a"), and those that also get PTX.
#[derive(Debug, PartialEq)]
pub struct Architectures {
    pub sass: Vec<String>,
    pub ptx: Vec<String>,
}

impl Architectures {
    pub fn from_environment() -> Result<Architectures, String> {
        match env::var("LACUNA_CUDA_ARCHS") {
            Ok(list) if !list.trim().is_empty() => Self::parse(&list),
            _ => Self::parse(DEFAULT),
        }
    }

    /// `80;90a` or `80,90a`: SASS of each. `80+PTX` also embeds PTX; without any such entry the newest portable
    /// architecture of the list gets it, so that GPUs to come can run (the PTX of "90a" runs nowhere else).
    fn parse(list: &str) -> Result<Architectures, String> {
        let (mut sass, mut ptx) = (Vec::<String>::new(), Vec::new());
        for entry in list.split([';', ',', ' ']).filter(|entry| !entry.is_empty()) {
            let (name, wants_ptx) = match entry.strip_suffix("+PTX") {
                Some(name) => (name, true),
                None => (entry, false),
            };
            let number = name.trim_end_matches(['a', 'f']);
            let valid = name.len() - number.len() <= 1 && number.parse::<u32>().is_ok_and(|n| (80..1000).contains(&n));
            if !valid {
                return Err(format!(
                    "LACUNA_CUDA_ARCHS has the entry `{entry}`; expected entries such as 80, 89+PTX or 90a, separated \
                     by `;`, none below 80"
                ));
            }
            if !sass.iter().any(|seen| seen == name) {
                sass.push(name.to_owned());
            }
            if wants_ptx {
                ptx.push(name.to_owned());
            }
        }
        if sass.is_empty() {
            return Err("LACUNA_CUDA_ARCHS names no architecture; the default is 80;90a".into());
        }
        if ptx.is_empty() {
            let portable = sass.iter().filter_map(|name| name.parse::<u32>().ok());
            ptx.extend(portable.max().map(|newest| newest.to_string()));
        }
        Ok(Architectures { sass, ptx })
    }

    /// What the library reports as built, e.g. `80;90a;80+PTX`.
    pub fn describe(&self) -> String {
        let ptx = self.ptx.iter().map(|name| format!("{name}+PTX"));
        self.sass.iter().cloned().chain(ptx).collect::<Vec<_>>().join(";")
    }

    /// nvcc's `-gencode` arguments for the architectures that `keep` accepts.
    pub fn gencode(&self, keep: impl Fn(&str) -> bool) -> Vec<String> {
        let sass = self.sass.iter().filter(|name| keep(name));
        let sass = sass.map(|name| format!("-gencode=arch=compute_{name},code=sm_{name}"));
        let ptx = self.ptx.iter().filter(|name| keep(name));
        let ptx = ptx.map(|name| format!("-gencode=arch=compute_{name},code=compute_{name}"));
        sass.chain(ptx).collect()
    }

    pub fn has_hopper(&self) -> bool {
        self.sass.iter().any(|name| name == "90a")
    }
}
