//! NVTX ranges in the domain `lacuna`.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::marker::PhantomData;
use std::sync::OnceLock;

use super::injection::{Functions, attach};

/// Places of functions in the table of domain functions, as the protocol numbers them.
const PUSH: usize = 4;
const POP: usize = 5;
const CREATE: usize = 12;

/// The version of the interface that attributes name, and how they say that their message is a C string.
const VERSION: u16 = 3;
const MESSAGE_ASCII: i32 = 1;

type Create = unsafe extern "C" fn(*const c_char) -> *mut c_void;
type Push = unsafe extern "C" fn(*mut c_void, *const Attributes) -> c_int;
type Pop = unsafe extern "C" fn(*mut c_void) -> c_int;

/// What a range is pushed with: `nvtxEventAttributes_t`.
#[repr(C)]
struct Attributes {
    version: u16,
    size: u16,
    category: u32,
    color_type: i32,
    color: u32,
    payload_type: i32,
    reserved: i32,
    payload: u64,
    message_type: i32,
    message: *const c_char,
}

/// A tool that took the functions it wants to hear of.
struct Tool {
    domain: *mut c_void,
    push: Push,
    pop: Pop,
}

// SAFETY: the interface lets any thread call its functions with any domain.
unsafe impl Send for Tool {}
// SAFETY: as above.
unsafe impl Sync for Tool {}

impl Tool {
    /// The tool of this process, which is looked for once; `None` where there is none or it wants no ranges.
    fn get() -> Option<&'static Self> {
        static TOOL: OnceLock<Option<Tool>> = OnceLock::new();
        TOOL.get_or_init(|| attach().and_then(Self::of)).as_ref()
    }

    fn of(functions: &Functions) -> Option<Self> {
        let (create, push, pop) = (functions.get(CREATE)?, functions.get(PUSH)?, functions.get(POP)?);
        // SAFETY: the protocol gives the functions at these places these types.
        let (create, push, pop) = unsafe {
            (
                std::mem::transmute::<*mut c_void, Create>(create),
                std::mem::transmute::<*mut c_void, Push>(push),
                std::mem::transmute::<*mut c_void, Pop>(pop),
            )
        };
        // SAFETY: a C string that lives as long as the process.
        let domain = unsafe { create(c"lacuna".as_ptr()) };
        Some(Self { domain, push, pop })
    }
}

/// A range on this thread, until it is dropped.
pub(crate) struct Range {
    tool: Option<&'static Tool>,
    /// A thread's ranges are a stack of its own.
    thread: PhantomData<*const ()>,
}

impl Range {
    pub(crate) fn push(name: &'static CStr) -> Self {
        let tool = Tool::get();
        if let Some(tool) = tool {
            let attributes = Attributes {
                version: VERSION,
                size: size_of::<Attributes>() as u16,
                category: 0,
                color_type: 0,
                color: 0,
                payload_type: 0,
                reserved: 0,
                payload: 0,
                message_type: MESSAGE_ASCII,
                message: name.as_ptr(),
            };
            // SAFETY: the domain is the tool's own, the attributes live during the call and the name for ever.
            unsafe { (tool.push)(tool.domain, &attributes) };
        }
        Self { tool, thread: PhantomData }
    }
}

impl Drop for Range {
    fn drop(&mut self) {
        if let Some(tool) = self.tool {
            // SAFETY: closes what `push` opened: a range can't leave its thread.
            unsafe { (tool.pop)(tool.domain) };
        }
    }
}
