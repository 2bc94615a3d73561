//! Cutting a workspace into the arrays that the gate kernels hand to each other.

/// Sizes in elements of 4 bytes, each array from a multiple of 16 bytes on. Sums saturate: no allocation of such a size
/// succeeds.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Scratch {
    elements: usize,
}

impl Scratch {
    /// Takes room for an array of `dims`; gives where it starts, in elements.
    pub(super) fn take(&mut self, dims: &[usize]) -> usize {
        let start = self.elements;
        let size = dims.iter().fold(1usize, |n, &size| n.saturating_mul(size));
        self.elements = start.saturating_add(size).saturating_add(3) / 4 * 4;
        start
    }

    pub(super) fn bytes(self) -> usize {
        self.elements.saturating_mul(4)
    }
}
