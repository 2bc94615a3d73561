//! What the SIMT host must catch, what it must let pass, and what it must compute.

mod barriers;
mod blocks;
mod bulk;
mod collectives;
mod conversions;
mod copies;
mod forward;
mod limits;
mod matrix;
mod mbarriers;
mod memory;
mod named_barriers;
mod proxies;
mod registers;
mod schedules;
mod tensor_box;
mod tensor_loads;
mod tensor_stores;
mod warpgroup_shapes;
mod warpgroups;
