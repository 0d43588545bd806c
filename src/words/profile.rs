//! The lines of a profile: `KEY=value`, and comments. Pure. Which keys there are, and which values they take, is
//! the command line's to say.

/// The largest profile, in bytes.
pub(crate) const LARGEST: usize = 64 * 1024;

/// `port=80,443`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    /// From 1 on.
    pub(crate) number: usize,
    /// As an option is called, without the dashes: `ready-timeout`.
    pub(crate) key: String,
    pub(crate) value: String,
}

/// What is wrong, in which line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wrong {
    pub(crate) number: usize,
    pub(crate) why: String,
}

/// The lines of a file that are neither empty nor comments.
///
/// # Errors
/// What is wrong, and what would be right.
pub(crate) fn lines(bytes: &[u8]) -> Result<Vec<Line>, Wrong> {
    let mut lines: Vec<Line> = Vec::new();
    for (before, text) in bytes.split(|byte| *byte == b'\n').enumerate() {
        let number = before + 1;
        let read = std::str::from_utf8(text).map_err(|_| "not UTF-8".to_owned());
        let read = read.and_then(pair).map_err(|why| Wrong { number, why })?;
        let Some((key, value)) = read else { continue };
        if let Some(first) = lines.iter().find(|line| line.key == key) {
            let why = format!(
                "{key} is given twice, first in line {}; leave one of them out",
                first.number
            );
            return Err(Wrong { number, why });
        }
        lines.push(Line { number, key, value });
    }
    Ok(lines)
}

/// `None`: a comment, or nothing.
fn pair(text: &str) -> Result<Option<(String, String)>, String> {
    const EXPECTED: &str = "expected KEY=value, such as port=80,443, or a comment behind #";
    let text = text.trim();
    if text.is_empty() || text.starts_with('#') {
        return Ok(None);
    }
    let (key, value) = text
        .split_once('=')
        .ok_or_else(|| format!("'{text}': {EXPECTED}"))?;
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
    let key = key.trim_end();
    if key.is_empty() || !key.bytes().all(is_name) {
        return Err(format!("'{text}': {EXPECTED}"));
    }
    let value = unquoted(value.trim_start());
    if let Some(c) = value.chars().find(|c| c.is_control()) {
        return Err(format!(
            "{key}: a control character ({c:?}) is in its value"
        ));
    }
    Ok(Some((
        key.to_ascii_lowercase().replace('_', "-"),
        value.to_owned(),
    )))
}

/// Quotes around the whole value are no part of it.
fn unquoted(value: &str) -> &str {
    let inner = ['"', '\''].into_iter().find_map(|quote| {
        let inner = value.strip_prefix(quote)?.strip_suffix(quote)?;
        (!inner.contains(quote)).then_some(inner)
    });
    inner.unwrap_or(value)
}

/// What holds for any bytes as a profile.
#[cfg(any(fuzzing, test))]
pub(crate) fn withstand(bytes: &[u8]) {
    let Ok(lines) = lines(bytes) else { return };
    for line in &lines {
        assert!(line.number > 0 && !line.key.is_empty() && !line.key.contains('_'));
        assert!(!line.value.contains('\n'));
        assert_eq!(lines.iter().filter(|l| l.key == line.key).count(), 1);
        super::split::withstand(&line.value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<(usize, String, String)> {
        let lines = lines(text.as_bytes()).unwrap().into_iter();
        lines.map(|l| (l.number, l.key, l.value)).collect()
    }

    #[test]
    fn keys_are_the_names_of_options() {
        let text = "# a comment\n\n  port = 80,443\nREADY_TIMEOUT=20s \r\nopen-on=ready\nsettle=";
        let expected = [
            (3, "port", "80,443"),
            (4, "ready-timeout", "20s"),
            (5, "open-on", "ready"),
            (6, "settle", ""),
        ];
        let expected = expected.map(|(n, key, value)| (n, key.to_owned(), value.to_owned()));
        assert_eq!(read(text), expected);
        assert_eq!(read(""), []);
    }

    #[test]
    fn quotes_around_a_whole_value_are_no_part_of_it() {
        for (line, value) in [
            ("precheck=\"a -f 'b'\"", "a -f 'b'"),
            ("precheck='a'", "a"),
            ("precheck='a' 'b'", "'a' 'b'"),
            ("precheck='a", "'a"),
            ("precheck=a=b # c", "a=b # c"),
            ("precheck='", "'"),
        ] {
            assert_eq!(read(line)[0].2, value, "{line}");
        }
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        for (text, number, says) in [
            (&b"port=80\nport 81"[..], 2, "'port 81': expected KEY=value"),
            (b"=80", 1, "'=80': expected KEY=value"),
            (b"my port=80", 1, "expected KEY=value"),
            (
                b"\n\nPORT=80\nport=81",
                4,
                "port is given twice, first in line 3",
            ),
            (b"port=\xff", 1, "not UTF-8"),
            (b"syn=dr\x07op", 1, "syn: a control character ('\\u{7}')"),
        ] {
            let wrong = lines(text).unwrap_err();
            assert_eq!(wrong.number, number, "{wrong:?}");
            assert!(wrong.why.contains(says), "{wrong:?}");
            withstand(text);
        }
    }
}
