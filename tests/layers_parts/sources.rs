//! All files of a crate.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path as Folder;

use super::file::{File, Module, Path};

pub(crate) struct Sources {
    of_crate: &'static str,
    pub files: Vec<File>,
}

/// The names of files.
pub(super) type Names<'a> = BTreeSet<&'a str>;

impl Sources {
    /// `folder`: the crate's, below that of the repository.
    pub(crate) fn read(of_crate: &'static str, folder: &str) -> Sources {
        let root = Folder::new(env!("CARGO_MANIFEST_DIR")).join(folder);
        let root = root.join("src");
        let (mut files, mut folders) = (Vec::new(), vec![root.clone()]);
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                    continue;
                }
                let name = path.strip_prefix(&root).unwrap().to_str().unwrap();
                files.push(File::parse(name, &fs::read_to_string(&path).unwrap()));
            }
        }
        // lib.rs comes before main.rs then: modules have it as their root.
        files.sort_by(|a, b| a.name.cmp(&b.name));
        Sources { of_crate, files }
    }

    /// A crate that does not exist: the name and the text of each of its files.
    pub(crate) fn made_up(files: &[(&str, &str)]) -> Sources {
        let files = files.iter().map(|(name, text)| File::parse(name, text));
        Sources {
            of_crate: "syngate",
            files: files.collect(),
        }
    }

    /// Each file, and the others that it imports.
    pub(crate) fn imports(&self, with_tests: bool) -> BTreeMap<&str, Names<'_>> {
        let of = |file: &File| {
            let paths = file.paths.iter();
            let paths = paths.filter(|path| with_tests || !path.is_for_tests);
            let targets = paths.filter_map(|path| self.target(file, path));
            let others = targets.filter(|target| target.module != file.module);
            others.map(|target| target.name.as_str()).collect()
        };
        let files = self.files.iter();
        files.map(|file| (file.name.as_str(), of(file))).collect()
    }

    /// The file that has what a path names; `None` if another crate has it.
    fn target(&self, file: &File, path: &Path) -> Option<&File> {
        let whole = self.rooted(path);
        let whole = whole.or_else(|| self.imported(file, path))?;
        let mut modules = (0..=whole.len()).rev();
        modules.find_map(|n| self.of_module(&whole[..n]))
    }

    fn of_module(&self, module: &[String]) -> Option<&File> {
        self.files.iter().find(|file| file.module == module)
    }

    fn rooted(&self, path: &Path) -> Option<Module> {
        let mut whole = path.module.clone();
        let first = path.words[0].as_str();
        if first == "crate" || first == self.of_crate {
            whole.clear();
        } else if first != "self" && first != "super" {
            whole.push(first.to_owned());
            self.of_module(&whole)?;
        }
        let supers = path.words.iter().take_while(|word| *word == "super");
        let supers = supers.count();
        whole.truncate(whole.len().saturating_sub(supers));
        whole.extend_from_slice(&path.words[supers.max(1)..]);
        Some(whole)
    }

    /// Where a path leads to that begins with a module that the file has imported.
    fn imported(&self, file: &File, path: &Path) -> Option<Module> {
        let imports = file.paths.iter();
        let imports = imports.filter(|import| import.words.last() == path.words.first());
        let mut modules = imports.filter_map(|import| self.rooted(import));
        let module = modules.find(|module| self.of_module(module).is_some())?;
        Some([&module[..], &path.words[1..]].concat())
    }
}
