//! What the tests ask the operating system (kernels/process.cpp).

unsafe extern "C" {
    fn simt_test_thread_seconds() -> f64;
    fn simt_test_fault_handler(bus: i32) -> u64;
    fn simt_test_crash();
}

/// CPU time of the calling thread.
pub fn thread_seconds() -> f64 {
    // SAFETY: no arguments, no state.
    unsafe { simt_test_thread_seconds() }
}

/// The installed handlers of SIGSEGV and SIGBUS, as numbers to compare.
pub fn fault_handlers() -> [u64; 2] {
    // SAFETY: reads the process's signal table.
    unsafe { [simt_test_fault_handler(0), simt_test_fault_handler(1)] }
}

/// Ends the process by a write to an address that is not mapped.
pub fn crash() {
    // SAFETY: none; the fault is the point, and only a child process comes here.
    unsafe { simt_test_crash() }
}
