//! Where podman keeps its containers: to ask it where it has kept none yet makes the folder. Pure; the caller reads files.

use std::path::{Path, PathBuf};

/// The settings of the system, the most important ones first (containers-storage.conf(5)).
const OF_SYSTEM: [&str; 2] = [
    "/etc/containers/storage.conf",
    "/usr/share/containers/storage.conf",
];
const OF_ROOT: &str = "/var/lib/containers/storage";
const SETTINGS: &str = "containers/storage.conf";
const OF_USER: &str = "containers/storage";

/// Who asks, and what that user's environment and files say.
pub(super) struct Asker<'a> {
    pub(super) uid: u32,
    pub(super) variable: &'a dyn Fn(&str) -> Option<String>,
    pub(super) text: &'a dyn Fn(&Path) -> Option<String>,
}

impl Asker<'_> {
    /// The folder of podman's storage. `None`: the user has no home.
    pub(super) fn storage(&self) -> Option<PathBuf> {
        let named = (self.variable)("CONTAINERS_STORAGE_CONF").map(PathBuf::from);
        if self.uid == 0 {
            let own = named
                .as_deref()
                .and_then(|file| self.value(file, "graphroot"));
            let of_system = || self.of_system("graphroot");
            let found = own.or_else(|| named.is_none().then(of_system).flatten());
            return Some(found.unwrap_or_else(|| OF_ROOT.into()));
        }
        let own = named.or_else(|| Some(self.folder("XDG_CONFIG_HOME", ".config")?.join(SETTINGS)));
        let own = own.and_then(|file| self.value(&file, "graphroot"));
        own.or_else(|| self.of_system("rootless_storage_path"))
            .or_else(|| Some(self.folder("XDG_DATA_HOME", ".local/share")?.join(OF_USER)))
    }

    fn of_system(&self, key: &str) -> Option<PathBuf> {
        let mut texts = OF_SYSTEM.iter().map(Path::new);
        texts
            .find_map(|file| (self.text)(file))
            .and_then(|text| self.value_in(&text, key))
    }

    fn value(&self, file: &Path, key: &str) -> Option<PathBuf> {
        self.value_in(&(self.text)(file)?, key)
    }

    fn value_in(&self, text: &str, key: &str) -> Option<PathBuf> {
        let value = value_of(text, key)?;
        let variable = |name: &str| match name {
            "UID" => self.uid.to_string(),
            name => (self.variable)(name).unwrap_or_default(),
        };
        let expanded = ["HOME", "USER", "UID"].iter().fold(value, |path, name| {
            path.replace(&format!("${name}"), &variable(name))
        });
        Some(expanded.into())
    }

    fn folder(&self, variable: &str, in_home: &str) -> Option<PathBuf> {
        let named = (self.variable)(variable).filter(|folder| folder.starts_with('/'));
        let home = || Some(Path::new(&(self.variable)("HOME")?).join(in_home));
        named.map(PathBuf::from).or_else(home)
    }
}

/// `graphroot = "/srv/containers" # ours`, in TOML.
fn value_of(text: &str, key: &str) -> Option<String> {
    let value = text.lines().find_map(|line| {
        let (name, value) = line.split_once('=')?;
        (name.trim() == key).then(|| value.trim())
    })?;
    let quote = value.chars().next().filter(|c| ['"', '\''].contains(c))?;
    let value = value[1..].split(quote).next()?;
    (!value.is_empty()).then(|| value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn storage(uid: u32, variables: &[(&str, &str)], files: &[(&str, &str)]) -> Option<String> {
        let find = |all: &[(&str, &str)], name: &str| {
            let found = all.iter().find(|(one, _)| *one == name);
            found.map(|(_, text)| (*text).to_owned())
        };
        let asker = Asker {
            uid,
            variable: &|name| find(variables, name),
            text: &|file| find(files, file.to_str()?),
        };
        asker.storage().map(|folder| folder.display().to_string())
    }

    const SYSTEM: &str = "# graphroot = \"/no\"\n[storage]\nrunroot = \"/run/c\"\n graphroot='/srv/c' # ours\n\
                          rootless_storage_path = \"$HOME/c/$UID\"\n";

    #[test]
    fn root_s_storage_is_the_system_s() {
        assert_eq!(storage(0, &[], &[]).unwrap(), OF_ROOT);
        let files = [
            (OF_SYSTEM[1], SYSTEM),
            ("/x", "graphroot = \"/y\""),
            ("/empty", "graphroot = \"\""),
        ];
        assert_eq!(storage(0, &[], &files).unwrap(), "/srv/c");
        let etc = [files[0], (OF_SYSTEM[0], "[storage]")];
        assert_eq!(
            storage(0, &[], &etc).unwrap(),
            OF_ROOT,
            "it takes the place of the other"
        );
        for (file, folder) in [("/x", "/y"), ("/empty", OF_ROOT), ("/none", OF_ROOT)] {
            let named = [("CONTAINERS_STORAGE_CONF", file)];
            assert_eq!(storage(0, &named, &files).unwrap(), folder, "{file}");
        }
    }

    #[test]
    fn a_user_s_storage_is_at_home() {
        let home = ("HOME", "/home/me");
        let own = (
            "/home/me/.config/containers/storage.conf",
            "graphroot = \"/data/$USER\"",
        );
        let of_data = [home, ("XDG_DATA_HOME", "/data")];
        for (variables, files, folder) in [
            (
                &[home][..],
                &[][..],
                "/home/me/.local/share/containers/storage",
            ),
            (&of_data, &[], "/data/containers/storage"),
            (
                &[home, ("XDG_DATA_HOME", "data")],
                &[],
                "/home/me/.local/share/containers/storage",
            ),
            (&of_data, &[(OF_SYSTEM[0], SYSTEM)], "/home/me/c/7"),
            (
                &[home, ("USER", "me")],
                &[own, (OF_SYSTEM[0], SYSTEM)],
                "/data/me",
            ),
        ] {
            assert_eq!(
                storage(7, variables, files).unwrap(),
                folder,
                "{variables:?}"
            );
        }
        assert_eq!(storage(7, &[], &[]), None);
    }
}
