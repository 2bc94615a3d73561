//! What trainings share: the optimizer, learning rates, the order of the data.

mod adamw;
mod course;
mod random;

pub use adamw::Parameter;
pub use course::{Rates, batch_of};
pub use random::Random;
