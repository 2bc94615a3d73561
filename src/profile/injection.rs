//! How a tool attaches to a program with NVTX ranges: the program loads the library that the tool names in the
//! environment, and the library writes the functions it wants called into tables of the program. So neither CUDA nor a
//! C header is needed.

use std::ffi::{c_int, c_uint, c_void};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, Ordering};

use libloading::Library;

/// The environment variable in which tools put the path of their library.
const PATH: &str = if cfg!(target_pointer_width = "64") { "NVTX_INJECTION64_PATH" } else { "NVTX_INJECTION32_PATH" };

/// The modules of the interface, by number, and how many places each has (the first is not used). This crate calls
/// functions of the last but one only, yet tools expect all of them.
const PLACES: [usize; 7] = [0, 16, 9, 16, 7, 16, 7];
const DOMAINS: usize = 5;

/// What tools ask for by number: the tables of functions, and the version of the interface.
const CALLBACKS: u32 = 1;
const VERSION_INFO: u32 = 3;

/// The functions of a module that a tool has set; null where it has not.
pub(super) struct Functions {
    places: Vec<AtomicPtr<c_void>>,
    /// The address of each place, null for the first and after the last.
    table: Vec<AtomicPtr<c_void>>,
}

impl Functions {
    fn new(count: usize) -> Self {
        let places: Vec<_> = (0..count).map(|_| AtomicPtr::default()).collect();
        let address = |place: &AtomicPtr<c_void>| AtomicPtr::new(place.as_ptr().cast());
        let table = places.iter().skip(1).map(address);
        let table = std::iter::once(AtomicPtr::default()).chain(table).chain([AtomicPtr::default()]).collect();
        Self { places, table }
    }

    /// The function at a place.
    pub(super) fn get(&self, place: usize) -> Option<*mut c_void> {
        let function = self.places.get(place)?.load(Ordering::Acquire);
        (!function.is_null()).then_some(function)
    }
}

/// The tables of this process. Tools may write into them at any time after they attached.
fn modules() -> &'static [Functions] {
    static MODULES: OnceLock<Vec<Functions>> = OnceLock::new();
    MODULES.get_or_init(|| PLACES.map(Functions::new).into())
}

#[repr(C)]
struct Callbacks {
    bytes: usize,
    table: unsafe extern "C" fn(c_int, *mut *mut c_void, *mut c_uint) -> c_int,
}

#[repr(C)]
struct VersionInfo {
    bytes: usize,
    version: u32,
    reserved: u32,
    set_version: extern "C" fn(u32),
}

/// Gives a tool the table of a module; 0 for a module that is not there.
///
/// # Safety
/// Both pointers are null or may be written.
unsafe extern "C" fn table(module: c_int, table: *mut *mut c_void, size: *mut c_uint) -> c_int {
    let module = usize::try_from(module).ok().filter(|&module| module > 0).and_then(|module| modules().get(module));
    let Some(module) = module else { return 0 };
    // SAFETY: passed on to the caller. The table is of pointers to places, all atomic, and lives as long as the
    // process.
    unsafe {
        if !size.is_null() {
            *size = module.places.len() as c_uint;
        }
        if !table.is_null() {
            *table = module.table.as_ptr().cast_mut().cast();
        }
    }
    1
}

/// A tool tells the version that it speaks; this crate uses what all versions have.
extern "C" fn set_version(_: u32) {}

extern "C" fn export(id: u32) -> *const c_void {
    static CALLBACKS_TABLE: Callbacks = Callbacks { bytes: size_of::<Callbacks>(), table };
    static VERSION_TABLE: VersionInfo =
        VersionInfo { bytes: size_of::<VersionInfo>(), version: 3, reserved: 0, set_version };
    match id {
        CALLBACKS => (&raw const CALLBACKS_TABLE).cast(),
        VERSION_INFO => (&raw const VERSION_TABLE).cast(),
        _ => std::ptr::null(),
    }
}

/// Loads the tool that the environment names and lets it attach; the functions of domains, or `None` where there is no
/// tool or it declines. To be called once.
pub(super) fn attach() -> Option<&'static Functions> {
    type Initialize = unsafe extern "C" fn(extern "C" fn(u32) -> *const c_void) -> c_int;
    let path = std::env::var_os(PATH)?;
    // SAFETY: whoever starts the process names the library, as for every program with NVTX ranges.
    let library = unsafe { Library::new(path) }.ok()?;
    // SAFETY: the protocol gives the function this type.
    let attached = unsafe {
        let initialize = library.get::<Initialize>(b"InitializeInjectionNvtx2\0").ok()?;
        initialize(export) != 0
    };
    if !attached {
        return None;
    }
    // The functions in the tables are its own: it stays loaded.
    std::mem::forget(library);
    modules().get(DOMAINS)
}
