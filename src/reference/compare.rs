//! Holding a kernel's output to the reference.
//!
//! Three measures of the error `e = got - exact`, each bound by twice what the ideal low-precision algorithm reaches
//! in the same measure, and by no less than the floor. The floor says that an error vector as long as one ulp (of the
//! input type) of the largest term is always fine; it matters where the ideal is exact by luck. The *largest term* of a
//! row is the largest magnitude among the addends of its sums (such as `p_j * v_j`) and its exact elements.
//!
//! | measure | error | floor |
//! |---|---|---|
//! | relative | norm of `e` / max(norm of exact, largest term of all rows) | ulp(largest term of all rows) / the same |
//! | worst row | norm of the row of `e` / max(norm of the exact row, its largest term) | ulp(the row's largest term) / the same |
//! | largest | the largest element of `abs(e)` | ulp(largest term of all rows) |
//!
//! The largest term joins the denominators so that rows which cancel to (nearly) nothing don't make a small error look
//! large. Where all terms are zero, such as in empty rows, the floor is zero: the output must be exact.

use super::rounding::ulp;
use crate::error::{Error, Result};
use crate::shape::DType;
use std::fmt;

/// A tensor of the reference: the exact values and those of the ideal low-precision algorithm.
#[derive(Debug, Clone, PartialEq)]
pub struct Expected {
    /// The type the ideal rounds to.
    pub dtype: DType,
    /// Elements of a row, the unit of the worst-row error.
    pub row_len: usize,
    /// Rows of `row_len` f64 values.
    pub exact: Vec<f64>,
    /// What the ideal low-precision algorithm gives.
    pub ideal: Vec<f64>,
    /// For each row the largest magnitude of an addend in its sums.
    pub largest_term: Vec<f64>,
}

/// An error and the bound it must not exceed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Measure {
    /// What was measured.
    pub error: f64,
    /// What is allowed.
    pub bound: f64,
}

/// Infinities and NaNs that are not where they should be.
#[derive(Debug, Clone, Copy)]
pub struct NonFinite {
    /// The first such element.
    pub index: usize,
    /// Its value.
    pub got: f32,
    /// The value of the reference.
    pub expected: f64,
    /// How many there are.
    pub count: usize,
}

/// How an output compares with the reference; `Display` says it in one line.
#[derive(Debug, Clone, Copy)]
pub struct Comparison {
    /// Infinities and NaNs in the wrong places. The measures leave out whatever is not finite on either side.
    pub non_finite: Option<NonFinite>,
    /// Frobenius norm of the error relative to the reference.
    pub relative: Measure,
    /// The same for the row that is worst against its bound.
    pub worst_row: Measure,
    /// That row.
    pub worst_row_index: usize,
    /// The largest absolute error.
    pub largest: Measure,
    /// Its element.
    pub largest_index: usize,
}

/// How an LSE compares with the reference.
#[derive(Debug, Clone, Copy)]
pub struct LseComparison {
    /// Infinities and NaNs in the wrong places.
    pub non_finite: Option<NonFinite>,
    /// The largest `abs(got - exact) / max(1, abs(exact))`.
    pub error: Measure,
    /// Its element.
    pub index: usize,
}

impl Measure {
    /// Whether the error is a number within the bound.
    pub fn passed(&self) -> bool {
        self.error <= self.bound
    }

    /// Error against bound; 0 for no error even where none is allowed.
    fn ratio(&self) -> f64 {
        if self.error == 0.0 { 0.0 } else { self.error / self.bound }
    }
}

impl Comparison {
    /// Whether all measures are within their bounds and infinities and NaNs are where they should be.
    pub fn passed(&self) -> bool {
        self.non_finite.is_none() && self.relative.passed() && self.worst_row.passed() && self.largest.passed()
    }
}

impl LseComparison {
    /// Whether the error is within its bound and infinities are where they should be.
    pub fn passed(&self) -> bool {
        self.non_finite.is_none() && self.error.passed()
    }
}

/// Norms of an error, over the elements that are finite on all sides.
#[derive(Default)]
struct Errors {
    squares: f64,
    row_squares: Vec<f64>,
    largest: f64,
    largest_index: usize,
}

impl Errors {
    fn new(exact: &[f64], row_len: usize, value: impl Fn(usize) -> Option<f64>) -> Self {
        let mut errors = Self { row_squares: vec![0.0; exact.len().div_ceil(row_len)], ..Self::default() };
        for (index, exact) in exact.iter().enumerate() {
            let Some(error) = value(index).map(|value| (value - exact).abs()) else { continue };
            errors.squares += error * error;
            errors.row_squares[index / row_len] += error * error;
            if error > errors.largest {
                (errors.largest, errors.largest_index) = (error, index);
            }
        }
        errors
    }
}

/// One ulp of a largest term; nothing for nothing.
fn floor(dtype: DType, term: f64) -> f64 {
    if term == 0.0 { 0.0 } else { ulp(dtype, term) }
}

/// `error / size`, where no error is 0 even relative to nothing.
fn relative_to(error: f64, size: f64) -> f64 {
    if error == 0.0 { 0.0 } else { error / size }
}

impl Expected {
    /// Compares an output of the same layout; see the module's text for the measures and bounds.
    ///
    /// # Errors
    /// [`Error::Shape`] when `got` has another size.
    pub fn compare(&self, got: &[f32]) -> Result<Comparison> {
        let (exact, ideal) = (&self.exact, &self.ideal);
        check_sizes(got.len(), exact.len())?;
        // Rounding may overflow where the exact value doesn't: both are right.
        let stray = |i: usize| !same_kind(f64::from(got[i]), exact[i]) && !same_kind(f64::from(got[i]), ideal[i]);
        let finite = |i: usize| got[i].is_finite() && exact[i].is_finite() && ideal[i].is_finite();
        let errors = Errors::new(exact, self.row_len, |i| finite(i).then(|| f64::from(got[i])));
        let allowed = Errors::new(exact, self.row_len, |i| finite(i).then(|| ideal[i]));
        let sizes = Errors::new(&vec![0.0; exact.len()], self.row_len, |i| finite(i).then(|| exact[i]));
        let row_maximum = |row: usize| {
            let values = exact[row * self.row_len..].iter().take(self.row_len).filter(|x| x.is_finite());
            values.fold(self.largest_term[row], |max, x| max.max(x.abs()))
        };
        let terms: Vec<f64> = (0..self.largest_term.len()).map(row_maximum).collect();
        let term = terms.iter().fold(0.0, |max: f64, &term| max.max(term));

        let size = sizes.squares.sqrt().max(term);
        let relative = Measure {
            error: relative_to(errors.squares.sqrt(), size),
            bound: relative_to((2.0 * allowed.squares.sqrt()).max(floor(self.dtype, term)), size),
        };
        let row_size = |row: usize| sizes.row_squares[row].sqrt().max(terms[row]);
        let row_error = |errors: &Errors, row: usize| relative_to(errors.row_squares[row].sqrt(), row_size(row));
        let allowed_row = (0..terms.len()).map(|row| row_error(&allowed, row)).fold(0.0, f64::max);
        let row_measure = |row: usize| Measure {
            error: row_error(&errors, row),
            bound: match terms[row] {
                // A row of zeros has no rounding to excuse an error.
                0.0 => 0.0,
                term => (2.0 * allowed_row).max(floor(self.dtype, term) / row_size(row)),
            },
        };
        // In reverse, so that the first of equals wins.
        let rows = (0..terms.len()).rev().map(|row| (row, row_measure(row)));
        let worst = rows.max_by(|(_, a), (_, b)| a.ratio().total_cmp(&b.ratio()));
        let (worst_row_index, worst_row) = worst.unwrap_or((0, Measure { error: 0.0, bound: 0.0 }));
        Ok(Comparison {
            non_finite: first_stray(got, exact, stray),
            relative,
            worst_row,
            worst_row_index,
            largest: Measure { error: errors.largest, bound: (2.0 * allowed.largest).max(floor(self.dtype, term)) },
            largest_index: errors.largest_index,
        })
    }
}

/// Compares LSEs: `abs(got - exact) <= 1e-4 * max(1, abs(exact))`, infinities in the same places.
///
/// # Errors
/// [`Error::Shape`] when the sizes differ.
pub fn compare_lse(got: &[f32], exact: &[f64]) -> Result<LseComparison> {
    check_sizes(got.len(), exact.len())?;
    let finite = |i: usize| got[i].is_finite() && exact[i].is_finite();
    let scaled = |i: usize| (f64::from(got[i]) - exact[i]).abs() / exact[i].abs().max(1.0);
    let errors = Errors::new(&vec![0.0; exact.len()], 1, |i| finite(i).then(|| scaled(i)));
    Ok(LseComparison {
        non_finite: first_stray(got, exact, |i| !same_kind(f64::from(got[i]), exact[i])),
        error: Measure { error: errors.largest, bound: 1e-4 },
        index: errors.largest_index,
    })
}

/// Both finite, both NaN, or the same infinity.
fn same_kind(a: f64, b: f64) -> bool {
    a.is_finite() && b.is_finite() || a.is_nan() && b.is_nan() || a == b
}

fn first_stray(got: &[f32], exact: &[f64], stray: impl Fn(usize) -> bool) -> Option<NonFinite> {
    let mut strays = (0..got.len()).filter(|&i| stray(i));
    let index = strays.next()?;
    Some(NonFinite { index, got: got[index], expected: exact[index], count: 1 + strays.count() })
}

fn check_sizes(got: usize, expected: usize) -> Result<()> {
    if got == expected {
        return Ok(());
    }
    Err(Error::Shape { what: "output", expected: format!("{expected} elements"), got: got.to_string() })
}

impl fmt::Display for Measure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.passed() { "" } else { ", exceeded" };
        write!(f, "{:.1e} (bound {:.1e}{verdict})", self.error, self.bound)
    }
}

impl fmt::Display for NonFinite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "element {} is {}, expected {}", self.index, self.got, self.expected)?;
        match self.count {
            1 => Ok(()),
            count => write!(f, " (first of {count} wrong infinities or NaNs)"),
        }
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(stray) = &self.non_finite {
            write!(f, "{stray}; ")?;
        }
        write!(f, "relative error {}, worst row {}: {}", self.relative, self.worst_row_index, self.worst_row)?;
        write!(f, ", largest error {} at element {}", self.largest, self.largest_index)
    }
}

impl fmt::Display for LseComparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(stray) = &self.non_finite {
            write!(f, "{stray}; ")?;
        }
        write!(f, "LSE error {} at element {}", self.error, self.index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two rows of two, the ideal one bf16 ulp (2^-7) off in one place.
    fn expected() -> Expected {
        Expected {
            dtype: DType::BF16,
            row_len: 2,
            exact: vec![1.0, 0.5, 0.0, 0.0],
            ideal: vec![1.0 - 2f64.powi(-7), 0.5, 0.0, 0.0],
            largest_term: vec![0.75, 0.0],
        }
    }

    #[test]
    fn twice_the_ideal_is_the_bound() {
        let edge = 1.0 - 2f32.powi(-6);
        let got = expected().compare(&[edge, 0.5, 0.0, 0.0]).unwrap();
        assert!(got.passed(), "{got}");
        assert!((got.relative.error - got.relative.bound).abs() < 1e-15);
        assert_eq!((got.largest.error, got.largest.bound, got.worst_row_index), (2f64.powi(-6), 2f64.powi(-6), 0));
        let got = expected().compare(&[edge - 2f32.powi(-20), 0.5, 0.0, 0.0]).unwrap();
        assert!(!got.passed() && !got.relative.passed() && !got.worst_row.passed() && !got.largest.passed());
    }

    #[test]
    fn the_floor_is_an_ulp_of_the_largest_term() {
        let lucky = Expected { ideal: expected().exact, ..expected() };
        let got = lucky.compare(&[1.0 + 2f32.powi(-7), 0.5, 0.0, 0.0]).unwrap();
        assert!(got.passed(), "{got}");
        assert!(!lucky.compare(&[1.0 + 2f32.powi(-7), 0.501, 0.0, 0.0]).unwrap().passed());
        // Terms of 4 that cancel: an ulp of 4.
        let cancelled = Expected { largest_term: vec![4.0, 0.0], ..lucky };
        assert!(cancelled.compare(&[1.0 + 2f32.powi(-5), 0.5, 0.0, 0.0]).unwrap().passed());
    }

    #[test]
    fn empty_rows_must_be_exact() {
        let got = expected().compare(&[1.0, 0.5, 0.0, 1e-30]).unwrap();
        assert!(!got.passed() && got.worst_row_index == 1, "{got}");
        let empty = Expected { exact: vec![], ideal: vec![], largest_term: vec![], ..expected() };
        assert!(empty.compare(&[]).unwrap().passed());
    }

    #[test]
    fn non_finite_values_are_found_first() {
        let got = expected().compare(&[1.0, f32::NAN, 0.0, f32::INFINITY]).unwrap();
        let stray = got.non_finite.unwrap();
        assert!(!got.passed() && stray.index == 1 && stray.count == 2);
        assert_eq!(
            got.to_string(),
            "element 1 is NaN, expected 0.5 (first of 2 wrong infinities or NaNs); relative error 0.0e0 (bound \
             1.6e-2), worst row 0: 0.0e0 (bound 1.6e-2), largest error 0.0e0 (bound 1.6e-2) at element 0"
        );
        let overflow = Expected { exact: vec![3.4e38, f64::NAN], ideal: vec![f64::INFINITY, f64::NAN], ..expected() };
        let overflow = Expected { largest_term: vec![3.4e38], ..overflow };
        assert!(overflow.compare(&[f32::INFINITY, f32::NAN]).unwrap().passed());
        assert!(overflow.compare(&[3.4e38, f32::NAN]).unwrap().passed());
        assert!(!overflow.compare(&[f32::NEG_INFINITY, f32::NAN]).unwrap().passed());
        assert!(overflow.compare(&[0.0]).is_err());
    }

    #[test]
    fn lse_is_relative_above_one() {
        let exact = [f64::NEG_INFINITY, 0.5, 80.0];
        assert!(compare_lse(&[f32::NEG_INFINITY, 0.50009, 80.007], &exact).unwrap().passed());
        assert!(!compare_lse(&[f32::NEG_INFINITY, 0.50011, 80.0], &exact).unwrap().passed());
        assert!(!compare_lse(&[f32::NEG_INFINITY, 0.5, 80.009], &exact).unwrap().passed());
        let got = compare_lse(&[0.0, 0.5, 80.0], &exact).unwrap();
        assert_eq!(got.to_string(), "element 0 is 0, expected -inf; LSE error 0.0e0 (bound 1.0e-4) at element 0");
    }
}
