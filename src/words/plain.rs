//! Text for people, without what only programs need.

/// Removes the numbers that the standard library puts behind the system's words: `(os error 13)`.
pub(crate) fn plain(text: &str) -> String {
    const NUMBER: &str = " (os error ";
    let mut left = text;
    let mut plain = String::with_capacity(text.len());
    while let Some((before, after)) = left.split_once(NUMBER) {
        plain.push_str(before);
        left = match after.split_once(')') {
            Some((digits, rest)) if digits.bytes().all(|b| b.is_ascii_digit()) => rest,
            _ => {
                plain.push_str(NUMBER);
                after
            }
        };
    }
    plain + left
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_errors_are_left_out() {
        let error = std::io::Error::from_raw_os_error(13);
        assert_eq!(
            plain(&format!("/x: {error}: no")),
            "/x: Permission denied: no"
        );
        let twice = plain(&format!("{error}; {error}"));
        assert_eq!(twice, "Permission denied; Permission denied");
        for other in ["", "no error", "an (os error ", "an (os error x)", "(13)"] {
            assert_eq!(plain(other), other);
        }
    }
}
