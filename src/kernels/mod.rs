//! The compiled kernels: their C ABI and the function tables of the two machines.

pub(crate) mod bindings;
pub(crate) mod convert;
pub(crate) mod family;
pub(crate) mod table;
