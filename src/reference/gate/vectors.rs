//! From tokens to gate vectors.

/// A statistic of the tokens of a block, element by element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pool {
    /// The largest value.
    Max,
    /// The smallest value.
    Min,
    /// The mean.
    Avg,
}

/// The rotary embedding of gate vectors: elements `i` and `i + gate_dim / 2` turn by `position * frequencies[i]`.
#[derive(Debug, Clone, Copy)]
pub struct Rotation<'a> {
    /// `gate_dim / 2` angles a token.
    pub frequencies: &'a [f64],
    /// Multiplies the turned vector; 1 unless the model's scaling says otherwise.
    pub factor: f64,
}

impl Rotation<'_> {
    fn turn(&self, vector: &mut [f64], position: usize) {
        let half = vector.len() / 2;
        for (i, frequency) in self.frequencies.iter().enumerate() {
            let (sin, cos) = (position as f64 * frequency).sin_cos();
            let (x, y) = (vector[i], vector[half + i]);
            vector[i] = self.factor * (x * cos - y * sin);
            vector[half + i] = self.factor * (y * cos + x * sin);
        }
    }
}

/// The statistics of some tokens `[tokens, dim]`, joined in the order of `pools`.
pub(super) fn pooled(tokens: &[f64], dim: usize, pools: &[Pool]) -> Vec<f64> {
    let count = tokens.len() / dim;
    let statistic = |pool: Pool, element: usize| {
        let values = (0..count).map(|token| tokens[token * dim + element]);
        match pool {
            Pool::Max => values.fold(f64::NEG_INFINITY, f64::max),
            Pool::Min => values.fold(f64::INFINITY, f64::min),
            Pool::Avg => values.sum::<f64>() / count as f64,
        }
    };
    pools.iter().flat_map(|&pool| (0..dim).map(move |element| statistic(pool, element))).collect()
}

/// `input * matrix` for the matrix `[inputs, outputs]` of a head, in a weight `[heads, inputs, outputs]`.
pub(super) fn projected(input: &[f64], weight: &[f64], head: usize, outputs: usize) -> Vec<f64> {
    let matrix = &weight[head * input.len() * outputs..][..input.len() * outputs];
    (0..outputs).map(|column| input.iter().enumerate().map(|(k, x)| x * matrix[k * outputs + column]).sum()).collect()
}

/// The vector over the root of its mean square, times a weight; as it is without one.
pub(super) fn normalised(vector: Vec<f64>, weight: Option<&[f64]>, epsilon: f64) -> Vec<f64> {
    let Some(weight) = weight else { return vector };
    let mean = vector.iter().map(|x| x * x).sum::<f64>() / vector.len() as f64;
    let root = (mean + epsilon).sqrt();
    vector.iter().zip(weight).map(|(x, w)| x / root * w).collect()
}

/// The vector turned to a position; as it is without a rotation.
pub(super) fn rotated(mut vector: Vec<f64>, rotation: Option<&Rotation<'_>>, position: usize) -> Vec<f64> {
    if let Some(rotation) = rotation {
        rotation.turn(&mut vector, position);
    }
    vector
}

/// The logit of two gate vectors.
pub(super) fn logit(q: &[f64], k: &[f64]) -> f64 {
    q.iter().zip(k).map(|(x, y)| x * y).sum::<f64>() / (q.len() as f64).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pools_are_joined_in_the_order_given() {
        let tokens = [1.0, -2.0, 4.0, 0.5, -1.0, 3.0];
        let all = [Pool::Max, Pool::Min, Pool::Avg];
        assert_eq!(pooled(&tokens, 2, &all), [4.0, 3.0, -1.0, -2.0, 4.0 / 3.0, 0.5]);
        assert_eq!(pooled(&tokens[..2], 2, &[Pool::Avg, Pool::Max]), [1.0, -2.0, 1.0, -2.0]);
    }

    #[test]
    fn halves_turn_together() {
        let quarter = std::f64::consts::FRAC_PI_2;
        let rotation = Rotation { frequencies: &[quarter, 2.0 * quarter], factor: 2.0 };
        let turned = rotated(vec![1.0, 2.0, 3.0, 4.0], Some(&rotation), 1);
        let expected = [-6.0, -4.0, 2.0, -8.0];
        assert!(turned.iter().zip(expected).all(|(x, y)| (x - y).abs() < 1e-12), "{turned:?}");
    }

    #[test]
    fn norm_and_projection() {
        assert_eq!(projected(&[1.0, 10.0], &[0.0, 0.0, 0.0, 0.0, 1.0, 2.0, 3.0, 4.0], 1, 2), [31.0, 42.0]);
        let normalised = normalised(vec![3.0, -4.0], Some(&[1.0, 10.0]), 12.5);
        assert_eq!(normalised, [3.0 / 5.0, -8.0]);
    }
}
