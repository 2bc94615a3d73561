//! Names for what a call does, for the tools that watch it: NVTX ranges (feature `nvtx`) and `tracing` spans (feature
//! `tracing`). Without these features nothing of this is compiled in.

#[cfg(feature = "nvtx")]
mod injection;
#[cfg(feature = "nvtx")]
pub(crate) mod nvtx;

/// A range that lasts until it is dropped: `let _range = range!("seer.select", q_len = shape.q_len);`. The name is a
/// literal; fields are of spans only. Costs a load where no tool is attached and nobody subscribes.
macro_rules! range {
    ($name:expr $(, $field:ident = $value:expr)*) => {
        ($crate::profile::nvtx_range!($name), $crate::profile::span_range!($name $(, $field = $value)*))
    };
}

#[cfg(feature = "nvtx")]
macro_rules! nvtx_range {
    ($name:expr) => {
        $crate::profile::nvtx::Range::push(
            const {
                match std::ffi::CStr::from_bytes_with_nul(concat!($name, "\0").as_bytes()) {
                    Ok(name) => name,
                    Err(_) => panic!("a name holds no null byte"),
                }
            },
        )
    };
}

#[cfg(not(feature = "nvtx"))]
macro_rules! nvtx_range {
    ($name:expr) => {
        ()
    };
}

#[cfg(feature = "tracing")]
macro_rules! span_range {
    ($name:expr $(, $field:ident = $value:expr)*) => {
        tracing::debug_span!(target: "lacuna", $name $(, $field = $value)*).entered()
    };
}

#[cfg(not(feature = "tracing"))]
macro_rules! span_range {
    ($name:expr $(, $field:ident = $value:expr)*) => {
        ()
    };
}

pub(crate) use {nvtx_range, range, span_range};
