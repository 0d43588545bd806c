//! Which programs reload in place: the process that is there reads the new configuration, and its listeners stay. Pure.

use std::path::Path;

/// The names of the executable files, and the folder of those whose name tells too little. Tried with the packages of
/// Debian 12: a reload leaves the processes that hold the listeners, and the sockets.
const PROGRAMS: &[(&str, &str)] = &[
    ("dovecot", ""),
    ("master", "postfix"),
    ("named", ""),
    ("postgres", ""),
    ("prometheus", ""),
    ("unbound", ""),
    ("varnishd", ""),
];

/// Whether the program of that file is one of them.
pub(super) fn reloads_in_place(file: &Path) -> bool {
    let folders = || file.parent().into_iter().flat_map(Path::iter);
    PROGRAMS.iter().any(|(name, within)| {
        file.ends_with(name) && (within.is_empty() || folders().any(|folder| folder == *within))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_known_by_its_file() {
        for (file, is_known) in [
            ("/usr/lib/postgresql/15/bin/postgres", true),
            ("/usr/lib/postfix/sbin/master", true),
            ("/usr/lib/cyrus/bin/master", false),
            ("/usr/sbin/nginx", false),
            ("/opt/postgres/bin/web", false),
            ("/", false),
        ] {
            assert_eq!(reloads_in_place(Path::new(file)), is_known, "{file}");
        }
    }
}
