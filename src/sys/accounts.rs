//! Where users and groups are looked up.
//!
//! A program that is linked statically brings a C library along, and for what nsswitch.conf(5) names beyond files that would
//! load modules of another one, the machine's own: they may not fit, and then the process dies of them. Such a program knows the
//! accounts of `/etc/passwd` and `/etc/group`; any other is a number to it, and has no further groups. Whether its process may open
//! a socket is the kernel's to say, which knows them.

/// Has accounts looked up in files only, in a program that is linked statically. Before the first look-up.
pub fn keep_to_files() {
    #[cfg(all(target_env = "gnu", target_feature = "crt-static"))]
    {
        use nix::libc::{c_char, c_int};
        unsafe extern "C" {
            fn __nss_configure_lookup(database: *const c_char, line: *const c_char) -> c_int;
        }
        for database in [c"passwd", c"group", c"initgroups"] {
            // SAFETY: both are strings with an end, which the C library copies; no thread looks anything up yet. A database
            // that it does not know is an error that it tells, and then nothing is changed.
            unsafe { __nss_configure_lookup(database.as_ptr(), c"files".as_ptr()) };
        }
    }
}
