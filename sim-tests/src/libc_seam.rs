//! Stands in for two functions of libc, so that a simulation is not told the real time nor real randomness.
//!
//! The linker prefers a program's own definition to the C library's, for everything in the program. On threads that
//! are not simulations the system is asked, as always.
#![expect(
    unsafe_code,
    reason = "defines symbols of libc; nothing else in the project does"
)]

use std::ptr;
use std::slice;

use sim_tests::seams;

/// See getrandom(2).
///
/// # Safety
/// As libc's: `buffer` is valid for writes of `len` bytes.
#[unsafe(no_mangle)]
unsafe extern "C" fn getrandom(
    buffer: *mut libc::c_void,
    len: libc::size_t,
    flags: libc::c_uint,
) -> libc::ssize_t {
    if !buffer.is_null() && len > 0 {
        // SAFETY: the caller gives `len` bytes at `buffer`; they may be uninitialised, so they are zeroed first.
        let bytes = unsafe {
            ptr::write_bytes(buffer.cast::<u8>(), 0, len);
            slice::from_raw_parts_mut(buffer.cast::<u8>(), len)
        };
        if seams::fill_random(bytes) {
            return libc::ssize_t::try_from(len).unwrap_or(libc::ssize_t::MAX);
        }
    }
    // SAFETY: the arguments are passed on as they came.
    let filled = unsafe { libc::syscall(libc::SYS_getrandom, buffer, len, flags) };
    libc::ssize_t::try_from(filled).unwrap_or(-1)
}

/// See clock_gettime(2).
///
/// # Safety
/// As libc's: `time` is valid for a write.
#[unsafe(no_mangle)]
unsafe extern "C" fn clock_gettime(clock: libc::clockid_t, time: *mut libc::timespec) -> libc::c_int {
    if let Some(now) = seams::now()
        && !time.is_null()
    {
        let seconds = libc::time_t::try_from(now / 1_000_000_000).unwrap_or(libc::time_t::MAX);
        let nanos = libc::c_long::try_from(now % 1_000_000_000).unwrap_or_default();
        // SAFETY: the caller gives a valid place.
        unsafe {
            time.write(libc::timespec {
                tv_sec: seconds,
                tv_nsec: nanos,
            });
        }
        return 0;
    }
    // SAFETY: the arguments are passed on as they came.
    let result = unsafe { libc::syscall(libc::SYS_clock_gettime, clock, time) };
    libc::c_int::try_from(result).unwrap_or(-1)
}
