//! The shares of keys in samples that are drawn by values, in f64.

use super::super::problem::check_len;
use crate::error::Result;

/// Shares of the rows of `v` `[heads, len, head_dim]`: `1 + floor(4095 n / n_max)` of each row, `n` being its squared
/// norm and `n_max` the largest of its head; 1 where all are zeros. Arithmetic in f32 may be off by one.
///
/// # Errors
/// [`crate::Error::Shape`] for a slice of another size.
pub fn value_shares(v: &[f64], [heads, len, head_dim]: [usize; 3]) -> Result<Vec<u16>> {
    check_len("v", v, &[heads, len, head_dim])?;
    let of_head = |head: &[f64]| {
        let norms: Vec<f64> = head.chunks(head_dim).map(|row| row.iter().map(|x| x * x).sum()).collect();
        let most = norms.iter().copied().fold(0.0, f64::max);
        let share = move |norm: f64| 1 + if most > 0.0 { (4095.0 * norm / most) as u16 } else { 0 };
        norms.into_iter().map(share).collect::<Vec<u16>>()
    };
    Ok(v.chunks(len * head_dim).take(heads).flat_map(of_head).collect())
}

#[cfg(test)]
mod tests {
    use super::value_shares;

    #[test]
    fn by_hand() {
        let v = [3.0, 4.0, 0.0, 0.0, 1.0, 2.0, /* the next head */ 0.0, 0.0, 0.0, 0.0, 0.0, 0.0];
        assert_eq!(value_shares(&v, [2, 3, 2]).unwrap(), [4096, 1, 820, 1, 1, 1]);
        assert!(value_shares(&v, [2, 3, 3]).is_err());
    }
}
