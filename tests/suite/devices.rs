//! Which device a program gets, on machines with and without a driver.

use lacuna::{Device, Error};

#[test]
fn auto_says_what_it_chose_with_or_without_a_driver() {
    let device = Device::auto().unwrap();
    match Device::cuda(0) {
        Ok(cuda) => {
            assert_eq!(device.name(), cuda.name());
            assert!(device.choice().contains("was found"), "{}", device.choice());
        }
        Err(error) => {
            assert!(device.is_simt());
            assert!(device.choice().contains(&error.to_string()), "{}", device.choice());
        }
    }
}

#[test]
fn cuda_without_a_driver_or_a_device_is_an_error() {
    // No machine has this many.
    match Device::cuda(4096) {
        Err(Error::Unavailable { device, reason }) => {
            assert_eq!(device, "cuda:4096");
            assert!(!reason.is_empty());
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn device_names_are_parsed_with_or_without_a_driver() {
    assert!(Device::parse("simt").unwrap().is_simt());
    for text in ["", "gpu", "cuda:", "cuda:-1", "cuda:x", "SIMT", "cuda:99999999999999999999"] {
        let error = Device::parse(text).unwrap_err();
        assert!(matches!(error, Error::Value { .. } | Error::Unavailable { .. }), "{text}: {error}");
    }
}
