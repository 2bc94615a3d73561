//! What the SIMT host must catch, what it must let pass, and what it must compute.

mod barriers;
mod blocks;
mod collectives;
mod conversions;
mod copies;
mod forward;
mod limits;
mod matrix;
mod mbarriers;
mod memory;
mod named_barriers;
mod registers;
mod schedules;
mod warpgroup_shapes;
mod warpgroups;
