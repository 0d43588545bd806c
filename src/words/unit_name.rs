//! Names of systemd's units, as people write them (systemd.unit(5)). Pure.

use super::meant::question;

const SERVICE: &str = ".service";
const OTHERS: [&str; 10] = [
    ".automount",
    ".device",
    ".mount",
    ".path",
    ".scope",
    ".slice",
    ".socket",
    ".swap",
    ".target",
    ".timer",
];
/// In bytes (UNIT_NAME_MAX).
const LONGEST: usize = 255;
const EXPECTED: &str = "expected the name of a service, such as haproxy.service";

/// `haproxy` is haproxy.service.
pub(crate) fn full_name(name: &str) -> String {
    let is_whole = |kind: &&str| name.ends_with(*kind);
    match OTHERS.iter().chain([&SERVICE]).any(is_whole) {
        true => name.to_owned(),
        false => format!("{name}{SERVICE}"),
    }
}

/// The whole name of a service.
///
/// # Errors
/// What is wrong, and what would be right.
pub(crate) fn service(text: &str) -> Result<String, String> {
    let name = full_name(text);
    let stem = stem(&name);
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b":-_.\\@".contains(&byte);
    match () {
        () if stem.is_empty() => Err(format!("no unit is named; {EXPECTED}")),
        () if !name.bytes().all(fits) || name.len() > LONGEST || name.starts_with('-') => {
            let last = name.rsplit('/').next().map(self::stem);
            let last = last.filter(|last| name.contains('/') && service(last).is_ok());
            Err(format!(
                "it is no unit's name; {EXPECTED}{}",
                question(last)
            ))
        }
        () if !name.ends_with(SERVICE) => Err(format!("it is no service; {EXPECTED}")),
        () if stem.ends_with('@') => Err(format!(
            "it is a template; expected one of its instances, such as {stem}1"
        )),
        () => Ok(name),
    }
}

/// The name of a service without its kind.
pub(crate) fn stem(name: &str) -> &str {
    name.strip_suffix(SERVICE).unwrap_or(name)
}

/// The folders below the root of control groups that a slice stands for: `a-b.slice` is within `a.slice`
/// (systemd.slice(5)).
pub(crate) fn slice_path(slice: &str) -> Option<String> {
    let stem = slice.strip_suffix(".slice")?;
    if stem == "-" {
        return Some(String::new());
    }
    let ends = stem.match_indices('-').map(|(at, _)| at);
    let folders = ends.chain([stem.len()]).map(|end| &stem[..end]);
    Some(folders.map(|one| format!("/{one}.slice")).collect())
}

/// What holds for any text as a unit's name.
#[cfg(any(fuzzing, test))]
pub(crate) fn withstand(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(name) = service(&text) {
        assert!(name.starts_with(&*text) && !name.contains(['/', '\'', ' ']));
        assert_eq!(service(&name), Ok(name));
    }
    if let Some(path) = slice_path(&text) {
        assert!(path.is_empty() || path.ends_with(&*text));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_are_named_with_their_kind_or_without() {
        let longest = "a".repeat(LONGEST - SERVICE.len());
        for (text, name) in [
            ("haproxy", "haproxy.service"),
            ("haproxy.service", "haproxy.service"),
            ("app@1", "app@1.service"),
            ("app-1.2", "app-1.2.service"),
            ("a\\x2db_c:d", "a\\x2db_c:d.service"),
            (&longest, &format!("{longest}.service")),
        ] {
            assert_eq!(service(text).as_deref(), Ok(name), "{text}");
            assert_eq!(format!("{}.service", stem(name)), name);
            assert_eq!(stem(stem(name)), stem(name));
        }
    }

    #[test]
    fn what_is_no_service_is_refused() {
        for (text, says) in [
            ("", "no unit is named"),
            (".service", "no unit is named"),
            ("haproxy.socket", "no service"),
            ("haproxy.timer", "no service"),
            ("hap*", "no unit's name"),
            ("/etc/init.d/haproxy", "; did you mean haproxy?"),
            ("a b", "no unit's name"),
            ("a'b", "no unit's name"),
            ("-.service", "no unit's name"),
            ("ä", "no unit's name"),
            (&"a".repeat(LONGEST), "no unit's name"),
            ("app@", "such as app@1"),
        ] {
            let why = service(text).unwrap_err();
            assert!(
                why.contains(says) && why.contains("expected"),
                "{text}: {why}"
            );
        }
    }

    #[test]
    fn slices_are_within_slices() {
        for (slice, path) in [
            ("system.slice", "/system.slice"),
            (
                "system-app-x.slice",
                "/system.slice/system-app.slice/system-app-x.slice",
            ),
            ("-.slice", ""),
        ] {
            assert_eq!(slice_path(slice).as_deref(), Some(path));
        }
        assert_eq!(slice_path("haproxy.service"), None);
    }
}
