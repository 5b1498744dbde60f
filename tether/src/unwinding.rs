//! What std would walk a stack with, as something that finds no stack.
//!
//! A panic ends tether by its hook ([`off_on_panic`](crate::power::off_on_panic)) and nothing unwinds. But std's own hook, which
//! never runs here, can print a backtrace, and libunwind and all that reads DWARF for it were a quarter of tether. A linker takes of
//! libunwind only what is not defined yet: here it all is; and since a backtrace then has no frame, the compiler sees that none is
//! ever given a name.

use std::ffi::{c_int, c_void};

/// `_URC_END_OF_STACK`.
const END_OF_STACK: c_int = 5;

// The name and the types are those of the Itanium C++ ABI's "Exception Handling", by which a backtrace may end at once.
#[unsafe(no_mangle)]
extern "C" fn _Unwind_Backtrace(_each_frame: *const c_void, _argument: *mut c_void) -> c_int {
    END_OF_STACK
}

/// What only unwinding calls.
macro_rules! never_called {
    ($($name:ident)*) => {$(
        #[unsafe(no_mangle)]
        extern "C" fn $name() -> ! {
            std::process::abort()
        }
    )*};
}

never_called! {
    _Unwind_GetDataRelBase _Unwind_GetIP _Unwind_GetIPInfo _Unwind_GetLanguageSpecificData _Unwind_GetRegionStart
    _Unwind_GetTextRelBase _Unwind_Resume _Unwind_SetGR _Unwind_SetIP
}
