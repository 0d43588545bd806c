//! Where a path leads, for what syngate writes as root. Another user who can change a folder on the way
//! could put a symbolic link there, and root would write to a file of that user's choice.

use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, readlinkat};
use nix::libc;
use nix::sys::stat::Mode;
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};
use nix::unistd::geteuid;

/// The kernel follows no more symbolic links in one path (MAXSYMLINKS, path_resolution(7)).
const MAX_LINKS: usize = 40;

/// A name in a folder. The folder is held open, so renaming it changes nothing.
#[derive(Debug)]
pub(crate) struct Place {
    /// For `openat` and its kin only (O_PATH).
    pub(crate) folder: File,
    /// The path names no symbolic link, unless it is an open file. There may be nothing of that name.
    pub(crate) name: OsString,
    /// The path is an open file of some process, in `/proc/PID/fd`.
    pub(crate) open_file: bool,
    /// Why another user could lead the path elsewhere.
    pub(crate) exposed: Option<String>,
}

impl Place {
    /// Goes to `path` name by name. Follows a symbolic link only where no other user can have made it.
    ///
    /// # Errors
    /// A folder on the way can't be entered, or a link is not followed.
    pub(crate) fn find(path: &Path) -> io::Result<Place> {
        let mut names = names(&std::path::absolute(path)?);
        let (mut here, mut folder) = root()?;
        let (mut exposed, mut links) = (None, 0);
        while let Some(name) = names.pop() {
            let last = names.is_empty();
            let found = match open_in(&folder, &name) {
                Err(Errno::ENOENT) if last => None,
                found => Some(found?),
            };
            let what = found.as_ref().map(File::metadata).transpose()?;
            let others = who_can_change(&here, &folder.metadata()?, what.as_ref());
            let is_link = what.is_some_and(|what| what.is_symlink());
            let open_file = is_link && last && is_proc(&folder);
            match found {
                Some(link) if is_link && !open_file => {
                    links += 1;
                    let target = follow(&link, &here.join(&name), others, links)?;
                    names.extend(self::names(&target));
                    if target.is_absolute() {
                        (here, folder) = root()?;
                    }
                    continue;
                }
                Some(next) if !last => folder = next,
                _ => {
                    let exposed = exposed.or(others);
                    return Ok(Place {
                        folder,
                        name,
                        open_file,
                        exposed,
                    });
                }
            }
            exposed = exposed.or(others);
            here.push(name);
        }
        Err(Errno::EISDIR.into())
    }

    /// What is there, open without access (O_PATH), and a symbolic link as such.
    ///
    /// # Errors
    /// There is nothing, or it can't be looked at.
    pub(crate) fn there(&self) -> io::Result<File> {
        Ok(open_in(&self.folder, &self.name)?)
    }

    /// Opens a file or folder for reading that no other user can change or lead its path away from.
    ///
    /// # Errors
    /// syngate can't open the file, or another user can change it. The message tells who, and what helps.
    pub(crate) fn open_ours(path: &Path) -> io::Result<File> {
        let place = Place::find(path)?;
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let opened = match openat(&place.folder, &*place.name, flags, Mode::empty()) {
            Err(Errno::ELOOP) => return Err(io::Error::other("it is a symbolic link")),
            opened => File::from(opened?),
        };
        if let Some(why) = place.exposed {
            return Err(io::Error::other(format!("{why}: chmod go-w")));
        }
        ours_alone(&opened.metadata()?).map_err(io::Error::other)?;
        Ok(opened)
    }
}

/// Where the link leads.
fn follow(link: &File, path: &Path, others: Option<String>, links: usize) -> io::Result<PathBuf> {
    if let Some(why) = others {
        let path = path.display();
        let text = format!("the symbolic link {path} is not followed, as {why}");
        return Err(io::Error::other(text));
    }
    match links > MAX_LINKS {
        true => Err(Errno::ELOOP.into()),
        false => Ok(readlinkat(link, "")?.into()),
    }
}

/// Which other user can change what this folder has under the name of `what`.
fn who_can_change(path: &Path, folder: &Metadata, what: Option<&Metadata>) -> Option<String> {
    let path = path.display();
    let (owner, mode) = (folder.uid(), folder.mode() & 0o7777);
    if !trusted(owner) {
        return Some(format!("{path} belongs to user {owner}"));
    }
    // In a sticky folder, as /tmp, only the owner of a file can rename or remove it.
    let what_owner = what.map(Metadata::uid);
    let its_own = mode & libc::S_ISVTX != 0 && what_owner.is_some_and(trusted);
    if mode & 0o022 != 0 && !its_own {
        return Some(format!("others may write to {path} (mode {mode:o})"));
    }
    let link = what.is_some_and(Metadata::is_symlink);
    let stranger = what_owner.filter(|owner| link && !trusted(*owner))?;
    Some(format!("it belongs to user {stranger}"))
}

/// Whether what belongs to this user is as good as root's: it is the caller. Inside a user namespace, root
/// of the host has no number of its own; the owner of `/` stands for it.
pub(crate) fn trusted(owner: u32) -> bool {
    let host = || std::fs::metadata("/").is_ok_and(|root| root.uid() == owner);
    owner == 0 || owner == geteuid().as_raw() || host()
}

/// Whether only root and this user can change the file or directory. The error says who else can, and what helps.
pub(crate) fn ours_alone(what: &Metadata) -> Result<(), String> {
    let (owner, mode) = (what.uid(), what.mode() & 0o7777);
    if !trusted(owner) {
        return Err(format!(
            "it belongs to user {owner}, who could change what is in it"
        ));
    }
    if mode & 0o022 != 0 {
        return Err(format!(
            "others may write to it (mode {mode:o}): chmod go-w"
        ));
    }
    Ok(())
}

/// The names of a path, the last one first.
fn names(path: &Path) -> Vec<OsString> {
    let names = path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    });
    let mut names: Vec<OsString> = names.collect();
    names.reverse();
    names
}

fn root() -> io::Result<(PathBuf, File)> {
    let root = nix::fcntl::open("/", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
    Ok((PathBuf::from("/"), root.into()))
}

fn open_in(folder: &File, name: &OsStr) -> Result<File, Errno> {
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(folder, name, flags, Mode::empty()).map(File::from)
}

fn is_proc(folder: &File) -> bool {
    fstatfs(folder).is_ok_and(|of| of.filesystem_type() == PROC_SUPER_MAGIC)
}
