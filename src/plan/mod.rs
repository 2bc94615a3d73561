//! Plans: which key blocks each query block attends, independent of any kernel.

pub mod block_mask;
mod block_plan;
mod block_size;
mod column_return;
pub mod formula;
mod geometry;
mod lists;

pub use block_mask::{BlockMask, token_pairs};
pub use block_plan::BlockPlan;
pub use block_size::BlockSize;
pub use column_return::ColumnReturn;
pub use formula::BlockFormula;
pub use lists::ListRows;
