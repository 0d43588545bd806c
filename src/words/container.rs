//! `--container`: a container, as people name it. Pure.

use std::fmt;

/// A program that runs containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Engine {
    Docker,
    Podman,
}

impl Engine {
    pub(crate) const ALL: [Engine; 2] = [Engine::Docker, Engine::Podman];

    /// The program, as it is called.
    pub(crate) fn program(self) -> &'static str {
        match self {
            Engine::Docker => "docker",
            Engine::Podman => "podman",
        }
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.program())
    }
}

/// `web`, or `podman:web` where both programs may have one of that name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ContainerName {
    pub(crate) engine: Option<Engine>,
    /// A name or an id. It needs no quotes in a shell.
    pub(crate) name: String,
}

/// Longer ones are no host names, which names of containers become.
const LONGEST: usize = 255;
const EXPECTED: &str =
    "expected the name or id of a container, such as web, docker:web or podman:web";

impl ContainerName {
    /// # Errors
    /// A sentence that says what is wrong, and what would be right.
    pub(crate) fn parse(text: &str) -> Result<ContainerName, String> {
        let engines = Engine::ALL.into_iter();
        let prefixed = { engines }.find_map(|engine| {
            let rest = text.strip_prefix(engine.program())?;
            Some((engine, rest.strip_prefix(':')?))
        });
        let (engine, name) = match prefixed {
            Some((engine, name)) => (Some(engine), name),
            None => (None, text),
        };
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
        match () {
            () if name.is_empty() => Err(format!("no container is named; {EXPECTED}")),
            () if !name.bytes().all(fits)
                || !name.as_bytes()[0].is_ascii_alphanumeric()
                || name.len() > LONGEST =>
            {
                Err(format!("it is no container's name; {EXPECTED}"))
            }
            () => Ok(ContainerName {
                engine,
                name: name.to_owned(),
            }),
        }
    }

    /// The programs to ask.
    pub(crate) fn engines(&self) -> Vec<Engine> {
        match self.engine {
            Some(engine) => vec![engine],
            None => Engine::ALL.to_vec(),
        }
    }
}

impl fmt::Display for ContainerName {
    /// In the syntax of the option.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.engine {
            Some(engine) => write!(f, "{engine}:{}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

/// What holds for any text as a container's name.
#[cfg(any(fuzzing, test))]
pub(crate) fn withstand(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(name) = ContainerName::parse(&text) {
        assert_eq!(name.to_string(), text);
        assert!(!name.name.contains(['/', '\'', ' ', '$', ':']) && !name.name.starts_with('-'));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_is_named_with_its_program_or_without() {
        for (text, engine, name) in [
            ("web", None, "web"),
            ("shop-web-1", None, "shop-web-1"),
            ("docker:web", Some(Engine::Docker), "web"),
            ("podman:0a1b", Some(Engine::Podman), "0a1b"),
            ("docker", None, "docker"),
            ("dockerweb", None, "dockerweb"),
        ] {
            let engine = ContainerName {
                engine,
                name: name.to_owned(),
            };
            assert_eq!(ContainerName::parse(text), Ok(engine), "{text}");
        }
        let one = ContainerName::parse("podman:web").unwrap();
        assert_eq!(one.engines(), [Engine::Podman]);
        let any = ContainerName::parse("web").unwrap();
        assert_eq!(any.engines(), [Engine::Docker, Engine::Podman]);
        assert_eq!(any.to_string(), "web");
    }

    #[test]
    fn what_is_no_container_is_refused() {
        let longest = "a".repeat(LONGEST);
        assert!(ContainerName::parse(&longest).is_ok());
        for (text, says) in [
            ("", "no container is named"),
            ("docker:", "no container is named"),
            ("-web", "no container's name"),
            ("web;reboot", "no container's name"),
            ("nerdctl:web", "no container's name"),
            ("a b", "no container's name"),
            (&format!("{longest}a"), "no container's name"),
        ] {
            let why = ContainerName::parse(text).unwrap_err();
            assert!(
                why.contains(says) && why.ends_with(EXPECTED),
                "{text}: {why}"
            );
        }
    }
}
