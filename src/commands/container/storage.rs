//! Where podman keeps its containers: to ask it where it has kept none yet makes the folder. Pure; the caller reads files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The settings of the system, the most important ones first (containers-storage.conf(5)).
const OF_SYSTEM: [&str; 2] = [
    "/etc/containers/storage.conf",
    "/usr/share/containers/storage.conf",
];
const OF_ROOT: &str = "/var/lib/containers/storage";
const SETTINGS: &str = "containers/storage.conf";
const OF_USER: &str = "containers/storage";
/// The key that names the folder.
const FOLDER: &str = "graphroot";

/// Who asks, and what that user's environment and files say.
pub(super) struct Asker<'a> {
    pub(super) uid: u32,
    pub(super) variable: &'a dyn Fn(&str) -> Option<String>,
    pub(super) text: &'a dyn Fn(&Path) -> Option<String>,
    /// The names in a folder; none where there is no folder.
    pub(super) names: &'a dyn Fn(&Path) -> Vec<String>,
}

impl Asker<'_> {
    /// The folders that podman's storage may be in: podman 6 reads drop-ins, older ones pass them over, and which one
    /// is installed is not known. None: the user has no home.
    pub(super) fn storages(&self) -> Vec<PathBuf> {
        let of_podman_6 = self.of_drop_ins();
        let usual = self.storage();
        let usual = usual.filter(|folder| Some(folder) != of_podman_6.as_ref());
        of_podman_6.into_iter().chain(usual).collect()
    }

    /// The folder that a drop-in names (containers-config(5)). Those of all folders are read in the order of their names;
    /// of two with the same name, the one of the later folder.
    fn of_drop_ins(&self) -> Option<PathBuf> {
        let last = (self.variable)("CONTAINERS_STORAGE_CONF_OVERRIDE").map(PathBuf::from);
        let last = last.and_then(|file| self.value(&file, FOLDER));
        if last.is_some() || (self.variable)("CONTAINERS_STORAGE_CONF").is_some() {
            return last;
        }
        let mut files = BTreeMap::new();
        for folder in self.folders_of_drop_ins() {
            let names = (self.names)(&folder).into_iter();
            for name in names.filter(|name| name.ends_with(".conf")) {
                let file = folder.join(&name);
                files.insert(name, file);
            }
        }
        let mut files = files.values().rev();
        files.find_map(|file| self.value(file, FOLDER))
    }

    fn folders_of_drop_ins(&self) -> Vec<PathBuf> {
        let mut folders = Vec::new();
        for place in ["/usr/share/containers", "/etc/containers"].map(Path::new) {
            folders.push(place.join("storage.conf.d"));
            if self.uid == 0 {
                folders.push(place.join("storage.rootful.conf.d"));
            } else {
                let of_users = place.join("storage.rootless.conf.d");
                folders.extend([of_users.clone(), of_users.join(self.uid.to_string())]);
            }
        }
        let own = self.folder("XDG_CONFIG_HOME", ".config");
        folders.extend(own.map(|folder| folder.join(format!("{SETTINGS}.d"))));
        folders
    }

    /// What older ones read, and podman 6 where no drop-in says otherwise. `None`: the user has no home.
    fn storage(&self) -> Option<PathBuf> {
        let named = (self.variable)("CONTAINERS_STORAGE_CONF").map(PathBuf::from);
        if self.uid == 0 {
            let own = named.as_deref().and_then(|file| self.value(file, FOLDER));
            let of_system = || self.of_system(FOLDER);
            let found = own.or_else(|| named.is_none().then(of_system).flatten());
            return Some(found.unwrap_or_else(|| OF_ROOT.into()));
        }
        let own = named.or_else(|| Some(self.folder("XDG_CONFIG_HOME", ".config")?.join(SETTINGS)));
        let own = own.and_then(|file| self.value(&file, FOLDER));
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

    fn storages(uid: u32, variables: &[(&str, &str)], files: &[(&str, &str)]) -> Vec<String> {
        let find = |all: &[(&str, &str)], name: &str| {
            let found = all.iter().find(|(one, _)| *one == name);
            found.map(|(_, text)| (*text).to_owned())
        };
        let asker = Asker {
            uid,
            variable: &|name| find(variables, name),
            text: &|file| find(files, file.to_str()?),
            names: &|folder| {
                let within = |(file, _): &&(&str, &str)| Path::new(file).parent() == Some(folder);
                let names = files.iter().filter(within);
                names
                    .filter_map(|(file, _)| file.rsplit('/').next())
                    .map(str::to_owned)
                    .collect()
            },
        };
        let folders = asker.storages().into_iter();
        folders.map(|folder| folder.display().to_string()).collect()
    }

    /// The only one.
    fn storage(uid: u32, variables: &[(&str, &str)], files: &[(&str, &str)]) -> Option<String> {
        let mut all = storages(uid, variables, files);
        assert!(all.len() < 2, "{all:?}");
        all.pop()
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

    const HOME: (&str, &str) = ("HOME", "/home/me");

    /// As in containers-config(5): which podman it is is not known, so both places count.
    #[test]
    fn a_drop_in_may_name_another_folder() {
        let file = |name: &'static str, folder: &'static str| (name, folder);
        let vendor = file(
            "/usr/share/containers/storage.conf.d/90.conf",
            "graphroot = \"/vendor\"",
        );
        let admin = file(
            "/etc/containers/storage.conf.d/50.conf",
            "graphroot = \"/admin\"",
        );
        let of_root = file(
            "/etc/containers/storage.rootful.conf.d/50.conf",
            "graphroot = \"/root's\"",
        );
        let of_users = file(
            "/etc/containers/storage.rootless.conf.d/7/60.conf",
            "graphroot = \"/srv/$UID\"",
        );
        let own = file(
            "/home/me/.config/containers/storage.conf.d/90.conf",
            "[storage]\n",
        );
        let no_conf = file(
            "/etc/containers/storage.conf.d/99.bak",
            "graphroot = \"/no\"",
        );
        let usual = "/home/me/.local/share/containers/storage";
        for (uid, files, folders) in [
            (0, &[admin, no_conf][..], &["/admin", OF_ROOT][..]),
            (0, &[admin, of_root], &["/root's", OF_ROOT]),
            (0, &[admin, of_root, vendor], &["/vendor", OF_ROOT]),
            (0, &[admin, of_users], &["/admin", OF_ROOT]),
            (7, &[admin, of_root, of_users], &["/srv/7", usual]),
            (8, &[of_root, of_users], &[usual]),
            // It takes the place of the vendor's, and says nothing.
            (7, &[vendor, own], &[usual]),
            (7, &[vendor, own, of_users], &["/srv/7", usual]),
        ] {
            assert_eq!(storages(uid, &[HOME], files), folders, "{uid}: {files:?}");
        }
        let set = ("CONTAINERS_STORAGE_CONF", "/x");
        assert_eq!(storages(0, &[set], &[admin]), [OF_ROOT], "no drop-ins then");
        let last = ("CONTAINERS_STORAGE_CONF_OVERRIDE", "/y");
        let files = [admin, ("/y", "graphroot = \"/last\"")];
        assert_eq!(storages(0, &[set, last], &files), ["/last", OF_ROOT]);
        let same = [
            ("/etc/containers/storage.conf", "graphroot = \"/admin\""),
            admin,
        ];
        assert_eq!(storages(0, &[], &same), ["/admin"]);
    }
}
