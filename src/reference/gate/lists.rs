//! Lists of blocks from logits.

/// How blocks are picked. P is the softmax over the blocks that a row may see; ties go to the lower block.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rule {
    /// `P > threshold`.
    Threshold(f64),
    /// The `max(1, floor((1 - sqrt(1 - density)) * KV blocks))` best.
    Density(f64),
    /// So many best.
    Blocks(usize),
    /// The fewest best whose P sum up to at least this part of the sum of all (1 where a list serves one member); all
    /// of them from 1 on.
    TopP(f64),
}

/// What is picked and what is added to it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Selection {
    /// The rule.
    pub rule: Rule,
    /// The last so many blocks of queries of a sequence attend all that they see.
    pub last_rows_dense: usize,
    /// Whether a row's own block is added.
    pub force_diagonal: bool,
    /// The first so many blocks are added.
    pub sink_blocks: usize,
    /// Whether the query heads of a KV head have one list, by the largest P of theirs.
    pub share_heads: bool,
}

/// What rounding leaves of a block's selection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// It is in the list.
    In,
    /// It is not.
    Out,
    /// Its score lies so close to another's, or to the cut, that either is right.
    Close,
}

/// The blocks that a rule takes of a list.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Cut {
    /// Those with a larger `ln P`.
    Above(f64),
    /// So many best.
    Best(usize),
    /// Those whose betters have less than this mass, and the best. The mass may itself be a part of the sum of all.
    Mass { mass: f64, of_sum: bool },
}

/// One list of a plan.
#[derive(Debug, Clone, PartialEq)]
pub struct List {
    /// `ln P` of each block; `None`: it does not compete.
    pub scores: Vec<Option<f64>>,
    /// Blocks that are added whatever they score.
    pub forced: Vec<bool>,
    cut: Cut,
}

impl List {
    /// A list that serves some (head, row) members, given each one's logits (`None`: a block that does not compete);
    /// its P are the largest of theirs. `kv_blocks` are those of the sequence.
    pub fn new(members: &[Vec<Option<f64>>], forced: Vec<bool>, rule: Rule, kv_blocks: usize) -> Self {
        let mut scores: Vec<Option<f64>> = vec![None; forced.len()];
        for logits in members {
            let seen: Vec<f64> = logits.iter().flatten().copied().collect();
            let largest = seen.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let lse = largest + seen.iter().map(|logit| (logit - largest).exp()).sum::<f64>().ln();
            for (score, logit) in scores.iter_mut().zip(logits) {
                let own = logit.map(|logit| logit - lse);
                *score = match (*score, own) {
                    (Some(one), Some(two)) => Some(one.max(two)),
                    (one, two) => one.or(two),
                };
            }
        }
        let cut = match rule {
            Rule::Threshold(threshold) => Cut::Above(if threshold < 0.0 { f64::NEG_INFINITY } else { threshold.ln() }),
            Rule::Density(density) => Cut::Best((((1.0 - (1.0 - density).sqrt()) * kv_blocks as f64) as usize).max(1)),
            Rule::Blocks(count) => Cut::Best(count),
            Rule::TopP(mass) if mass >= 1.0 => Cut::Above(f64::NEG_INFINITY),
            Rule::TopP(mass) if members.len() == 1 => Cut::Mass { mass, of_sum: false },
            Rule::TopP(part) => {
                let sum: f64 = scores.iter().flatten().map(|score| score.exp()).sum();
                Cut::Mass { mass: part * sum, of_sum: true }
            }
        };
        Self { scores, forced, cut }
    }

    /// Whether each block is in the list, exactly.
    pub fn blocks(&self) -> Vec<bool> {
        let picks = |(j, score): (usize, &Option<f64>)| {
            let Some(score) = *score else { return false };
            let better = |i: usize, other: f64| other > score || (other == score && i < j);
            let betters = self.scores.iter().enumerate().filter_map(|(i, &other)| other.filter(|&x| better(i, x)));
            match self.cut {
                Cut::Above(cut) => score > cut,
                Cut::Best(count) => betters.count() < count,
                Cut::Mass { mass, .. } => {
                    let betters: Vec<f64> = betters.collect();
                    betters.is_empty() || betters.iter().map(|x| x.exp()).sum::<f64>() < mass
                }
            }
        };
        let picked = self.scores.iter().enumerate().map(picks);
        picked.zip(&self.forced).map(|(picked, &forced)| picked || forced).collect()
    }

    /// What can be said of each block when logits, and the logarithm of their exponentials' sum, are off by at most
    /// `error`.
    pub fn decide(&self, error: f64) -> Vec<Decision> {
        // A score is a difference of two such numbers, and an order that of two scores.
        let (of_score, of_order) = (2.0 * error, 4.0 * error);
        let decide = |(j, score): (usize, &Option<f64>)| {
            if self.forced[j] {
                return Decision::In;
            }
            let Some(score) = *score else { return Decision::Out };
            let others = || self.scores.iter().enumerate().filter(|(i, _)| *i != j).filter_map(|(_, other)| *other);
            let surely = others().filter(|other| *other > score + of_order);
            let perhaps = others().filter(|other| *other >= score - of_order);
            let (is_in, is_out) = match self.cut {
                Cut::Above(cut) => (score - of_score > cut, score + of_score <= cut),
                Cut::Best(count) => (perhaps.count() < count, surely.count() >= count),
                Cut::Mass { mass, of_sum } => {
                    // The sum of all is one of such scores, and its logarithm one more number.
                    let of_score = if of_sum { 2.0 * of_score + error } else { of_score };
                    // A sum of f32 may be off by an ulp a term.
                    let rounding = self.scores.len() as f64 * f64::from(f32::EPSILON) * mass;
                    let best = perhaps.clone().count() == 0;
                    let most = perhaps.map(f64::exp).sum::<f64>() * of_score.exp();
                    let least = surely.map(f64::exp).sum::<f64>() * (-of_score).exp();
                    (best || most < mass - rounding, least >= mass + rounding)
                }
            };
            match (is_in, is_out) {
                (true, _) => Decision::In,
                (_, true) => Decision::Out,
                _ => Decision::Close,
            }
        };
        self.scores.iter().enumerate().map(decide).collect()
    }

    /// Compares a kernel's list, as a flag for each block, whose logits are off by at most `error`. Returns how many
    /// blocks are too close to tell.
    ///
    /// # Errors
    /// The first block that is in the list and must not be, or the other way round.
    pub fn check(&self, got: &[bool], error: f64) -> Result<usize, String> {
        let decisions = self.decide(error);
        if got.len() != decisions.len() {
            return Err(format!("{} blocks, not {}", got.len(), decisions.len()));
        }
        for (j, (&got, decision)) in got.iter().zip(&decisions).enumerate() {
            if (got && *decision == Decision::Out) || (!got && *decision == Decision::In) {
                let (scores, forced) = (&self.scores, self.forced[j]);
                let cut = self.cut;
                return Err(format!("block {j}: {got}, forced {forced}, cut {cut:?} of {scores:?}"));
            }
        }
        Ok(decisions.iter().filter(|&&decision| decision == Decision::Close).count())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A list over logits `ln p` for p with sum 1.
    fn list(p: &[f64], rule: Rule) -> List {
        let logits = p.iter().map(|p| Some(p.ln() + 3.0)).collect();
        List::new(&[logits], vec![false; p.len()], rule, p.len())
    }

    fn picked(p: &[f64], rule: Rule) -> Vec<usize> {
        let blocks = list(p, rule).blocks();
        (0..p.len()).filter(|&j| blocks[j]).collect()
    }

    #[test]
    fn rules() {
        let p = [0.25, 0.125, 0.5, 0.125];
        assert_eq!(picked(&p, Rule::Threshold(0.2)), [0, 2]);
        assert_eq!(picked(&p, Rule::Threshold(0.0)), [0, 1, 2, 3]);
        assert_eq!(picked(&p, Rule::Threshold(0.6)), [0usize; 0]);
        assert_eq!(picked(&p, Rule::Blocks(3)), [0, 1, 2]);
        assert_eq!(picked(&p, Rule::Blocks(9)), [0, 1, 2, 3]);
        // (1 - sqrt(1 - 0.75)) * 4
        assert_eq!(picked(&p, Rule::Density(0.75)), [0, 2]);
        assert_eq!(picked(&p, Rule::Density(0.01)), [2]);
        assert_eq!(picked(&p, Rule::TopP(0.4)), [2]);
        assert_eq!(picked(&p, Rule::TopP(0.7)), [0, 2]);
        assert_eq!(picked(&p, Rule::TopP(0.8)), [0, 1, 2]);
        assert_eq!(picked(&p, Rule::TopP(1.0)), [0, 1, 2, 3]);
    }

    #[test]
    fn members_and_forced_blocks() {
        let ln = |p: f64| Some(p.ln());
        let members = [vec![ln(0.75), ln(0.25), None], vec![ln(0.125), ln(0.125), ln(0.75)]];
        let list = List::new(&members, vec![false, true, false], Rule::Blocks(1), 3);
        assert!((list.scores[1].unwrap() - 0.25f64.ln()).abs() < 1e-12);
        // 0 and 2 tie at 0.75: the lower one, and the forced block beside it.
        assert_eq!(list.blocks(), [true, true, false]);
        assert_eq!(list.decide(1e-9), [Decision::Close, Decision::In, Decision::Close]);
    }

    #[test]
    fn a_mass_of_several_members_is_a_part_of_their_sum() {
        let ln = |p: &[f64]| p.iter().map(|p| Some(p.ln())).collect::<Vec<_>>();
        let members = [ln(&[0.5, 0.25, 0.125, 0.125]), ln(&[0.125, 0.125, 0.25, 0.5])];
        // The largest are 1/2, 1/4, 1/4, 1/2: 3/2 in all, so that one block is a third.
        let blocks = |part| List::new(&members, vec![false; 4], Rule::TopP(part), 4).blocks();
        assert_eq!(blocks(0.3), [true, false, false, false]);
        assert_eq!(blocks(0.6), [true, false, false, true]);
        assert_eq!(blocks(0.7), [true, true, false, true]);
        assert_eq!(blocks(0.9), [true, true, true, true]);
    }

    #[test]
    fn a_list_of_nobody_is_empty() {
        let list = List::new(&[vec![None; 3]], vec![false; 3], Rule::TopP(0.5), 3);
        assert_eq!(list.blocks(), [false; 3]);
        assert_eq!(list.check(&[false; 3], 1e-3), Ok(0));
    }

    proptest! {
        /// Logits that are off by less than the error give lists that pass, and what passes has few ways to differ.
        #[test]
        fn disturbed_logits_pass(
            logits in prop::collection::vec((-2.0f64..2.0, -1.0f64..1.0), 2..24), value in 0.01f64..0.99, rule in 0..4,
            members in 1..3usize,
        ) {
            let rule = match rule {
                0 => Rule::Threshold(value / 8.0),
                1 => Rule::Density(value),
                2 => Rule::Blocks(1 + (value * 10.0) as usize),
                _ => Rule::TopP(value),
            };
            let error = 1e-3;
            let of = |disturbance: f64| {
                let logits: Vec<_> = logits.iter().map(|(logit, noise)| Some(logit + disturbance * noise)).collect();
                let blocks = logits.len() / members;
                let rows: Vec<_> = logits.chunks_exact(blocks).map(<[_]>::to_vec).collect();
                List::new(&rows, vec![false; blocks], rule, 24)
            };
            let (exact, disturbed) = (of(0.0), of(error).blocks());
            prop_assert!(exact.check(&exact.blocks(), 0.0).is_ok());
            prop_assert!(exact.check(&disturbed, error).is_ok());
            // A block too many, one that is surely out, is seen; so is one too few.
            for (j, decision) in exact.decide(error).into_iter().enumerate() {
                let mut wrong = exact.blocks();
                wrong[j] = !wrong[j];
                prop_assert_eq!(exact.check(&wrong, error).is_err(), decision != Decision::Close);
            }
        }
    }
}
