#![no_main]

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

/// Variables of ours: name and value, with a NUL behind each.
fn set(bytes: &[u8]) {
    let ours = |name: &OsString| name.as_bytes().starts_with(b"SYNGATE_");
    for (name, _) in std::env::vars_os().filter(|(name, _)| ours(name)) {
        // SAFETY: there is no other thread that could read the environment.
        unsafe { std::env::remove_var(name) };
    }
    for variable in bytes.split(|byte| *byte == 0) {
        if let Some(at) = variable.iter().position(|byte| *byte == b'=') {
            let name = [b"SYNGATE_", &variable[..at]].concat();
            // SAFETY: as above; neither has a NUL in it, and the name has no =.
            unsafe {
                std::env::set_var(
                    OsStr::from_bytes(&name),
                    OsStr::from_bytes(&variable[at + 1..]),
                )
            };
        }
    }
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    set(bytes);
    syngate::fuzz::environment(bytes);
});
