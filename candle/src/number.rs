//! Element types that both crates have.

use lacuna::Half;

/// f16 and bf16.
#[cfg(not(feature = "cuda"))]
pub(crate) trait Number: Half + candle_core::WithDType {}
#[cfg(not(feature = "cuda"))]
impl<T: Half + candle_core::WithDType> Number for T {}

#[cfg(feature = "cuda")]
mod device {
    use candle_core::cuda_backend::CudaDType;
    use candle_core::cuda_backend::cudarc::driver::{DeviceRepr, ValidAsZeroBits};

    /// What candle's storage on a GPU asks of a type.
    pub trait OnDevice: CudaDType + DeviceRepr + ValidAsZeroBits {}
    impl<T: CudaDType + DeviceRepr + ValidAsZeroBits> OnDevice for T {}
}

/// f16 and bf16.
#[cfg(feature = "cuda")]
pub(crate) trait Number: Half + candle_core::WithDType + device::OnDevice {}
#[cfg(feature = "cuda")]
impl<T: Half + candle_core::WithDType + device::OnDevice> Number for T {}
