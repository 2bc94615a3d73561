//! Devices.

use std::ffi::c_char;

use kernels::Device;

use crate::abi;
use crate::argument::{Out, put_text, text};
use crate::failure::Result;
use crate::guard::guard;
use crate::handle::{destroy, give, object, take};
use crate::sized::{Place, Versioned};

/// A device, and its number where it is a GPU.
pub struct Machine {
    pub device: Device,
    pub ordinal: Option<i32>,
}

object!(Machine, abi::lacuna_device, 1, "device");

fn open(name: &str) -> Result<Machine> {
    let device = Device::parse(name)?;
    // Every GPU that was not asked for by number is number 0.
    let number = name.strip_prefix("cuda:").and_then(|number| number.parse().ok()).unwrap_or(0);
    let ordinal = (!device.is_simt()).then_some(number);
    Ok(Machine { device, ordinal })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_device_open(
    name: *const c_char,
    device: *mut *mut abi::lacuna_device,
) -> abi::lacuna_status {
    guard(|| {
        // SAFETY: the header asks for a C string and a place for a handle.
        let (name, out) = unsafe { (text("name", name)?, Out::new("device", device)?) };
        give(open(name)?, out)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_device_describe(
    device: *mut abi::lacuna_device,
    info: *mut abi::lacuna_device_info,
) -> abi::lacuna_status {
    guard(|| {
        // SAFETY: the header asks for a struct as large as it says.
        let place = unsafe { Place::new(info)? };
        let machine = take::<Machine>(device)?;
        let device = &machine.device;
        let mut value = abi::lacuna_device_info::defaults();
        value.is_simt = device.is_simt().into();
        value.ordinal = machine.ordinal.unwrap_or(-1);
        put_text(&mut value.name, &device.name());
        put_text(&mut value.choice, device.choice());
        put_text(&mut value.architectures, &device.architectures());
        place.set(value);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_device_destroy(device: *mut abi::lacuna_device) -> abi::lacuna_status {
    guard(|| destroy::<Machine>(device))
}
