//! The C ABI of lacuna. `include/lacuna.h` is the contract and the only documentation of the functions; `abi.rs` is
//! made from it, and what is defined here is compared with it when this crate compiles.
#![warn(unsafe_op_in_unsafe_fn, clippy::undocumented_unsafe_blocks)]

mod abi;
mod argument;
mod attention;
mod cache;
mod device;
mod failure;
mod gate;
mod gate_cache;
mod gate_select;
mod gradient;
mod guard;
mod handle;
mod hyper;
mod kernel;
mod library;
mod plan;
mod request;
mod schedule;
mod sized;
mod stream;
mod tensor;

/// Two functions fit into one array when their types are the same.
macro_rules! as_declared {
    ($($module:ident: $($name:ident)+;)+) => {
        const _: () = {
            $($(let _ = [abi::$name, $module::$name];)+)+
        };
    };
}

as_declared! {
    library: lacuna_version lacuna_build lacuna_status_name lacuna_last_error;
    sized: lacuna_device_info_init lacuna_counters_init lacuna_tensor_init lacuna_shape_init lacuna_options_init
        lacuna_s2_config_init lacuna_rows_init lacuna_kernel_info_init lacuna_gradients_init lacuna_gate_config_init lacuna_select_init
        lacuna_hyper_config_init;
    device: lacuna_device_open lacuna_device_describe lacuna_device_destroy;
    stream: lacuna_stream_create lacuna_stream_wrap lacuna_stream_synchronize lacuna_stream_counters
        lacuna_stream_destroy;
    plan: lacuna_plan_dense lacuna_plan_window lacuna_plan_s2 lacuna_plan_from_mask lacuna_plan_from_lists
        lacuna_plan_from_device_lists lacuna_plan_create lacuna_plan_set_mask lacuna_plan_overflow
        lacuna_plan_block_mask lacuna_plan_visited_pairs lacuna_plan_destroy;
    schedule: lacuna_schedule_create lacuna_schedule_rebuild lacuna_schedule_destroy;
    attention: lacuna_forward_workspace lacuna_forward lacuna_decode_workspace lacuna_decode lacuna_merge;
    gradient: lacuna_columns_create lacuna_columns_rebuild lacuna_columns_destroy lacuna_backward_workspace
        lacuna_backward lacuna_hyper_backward_workspace lacuna_hyper_backward;
    kernel: lacuna_forward_kernel lacuna_decode_kernel;
    gate: lacuna_gate_create lacuna_decode_gate_create lacuna_gate_destroy;
    gate_select: lacuna_gate_plan_create lacuna_gate_workspace lacuna_gate_select;
    gate_cache: lacuna_gate_cache_create lacuna_gate_cache_workspace lacuna_gate_cache_append
        lacuna_gate_cache_destroy;
    cache: lacuna_page_lists lacuna_s2_cache_bytes lacuna_s2_cache_create lacuna_s2_cache_append lacuna_s2_cache_views
        lacuna_s2_cache_destroy;
    hyper: lacuna_hyper_create lacuna_hyper_set_projections lacuna_hyper_set_samples lacuna_hyper_update
        lacuna_hyper_update_with_values lacuna_hyper_is_exact lacuna_hyper_workspace lacuna_hyper_forward lacuna_hyper_destroy;
}
