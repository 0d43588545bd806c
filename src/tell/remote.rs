//! Files on a server, by way of the network or of another process. The server may be gone, and a write then
//! waits for it.

use std::ffi::OsString;
use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Component, Path, PathBuf};

/// The types of such file systems, or their beginnings (`nfs4`, `fuse.sshfs`).
const SERVED: [&str; 13] = [
    "nfs", "cifs", "smb", "fuse", "9p", "virtiofs", "afs", "ceph", "gfs2", "ocfs2", "lustre",
    "gpfs", "coda",
];

/// Whether a stream is a file there. `false` also if /proc does not tell. Asks no server.
pub(super) fn is_file(stream: &impl AsFd) -> bool {
    let fd = stream.as_fd().as_raw_fd();
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{fd}"));
    let mounts = fs::read_to_string("/proc/self/mountinfo");
    let (Ok(info), Ok(mounts)) = (info, mounts) else {
        return false;
    };
    file_system(&info, &mounts).is_some_and(is_served)
}

fn is_served(kind: &str) -> bool {
    SERVED.iter().any(|served| kind.starts_with(served))
}

/// The first file system on a server that an absolute path leads to, by links too: where it is mounted.
/// Asks no server. `None` also if /proc does not tell.
pub(crate) fn on_the_way(path: &Path) -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    served_on_the_way(path, &mounts, |name| fs::read_link(name).ok())
}

/// `link`: where a symbolic link leads.
fn served_on_the_way(
    path: &Path,
    mounts: &str,
    link: impl Fn(&Path) -> Option<PathBuf>,
) -> Option<PathBuf> {
    // The kernel follows no more links (MAXSYMLINKS, path_resolution(7)).
    const MAX_LINKS: usize = 40;
    let mut names = names(path);
    let (mut here, mut links) = (PathBuf::from("/"), 0);
    while let Some(name) = names.pop() {
        if name == ".." {
            here.pop();
            continue;
        }
        let next = here.join(&name);
        if mounted(&next, mounts).is_some_and(is_served) {
            return Some(next);
        }
        match link(&next) {
            Some(target) if links < MAX_LINKS => {
                links += 1;
                if target.is_absolute() {
                    here = PathBuf::from("/");
                }
                names.extend(self::names(&target));
            }
            _ => here = next,
        }
    }
    None
}

/// The names of a path, the last one first.
fn names(path: &Path) -> Vec<OsString> {
    let names = path.components().rev().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    });
    names.collect()
}

/// The type of the file system that is mounted there, the last one on top (proc(5)).
fn mounted<'a>(place: &Path, mounts: &'a str) -> Option<&'a str> {
    let on_top = mounts
        .lines()
        .rfind(|line| line.split(' ').nth(4).map(Path::new) == Some(place))?;
    on_top.split(" - ").nth(1)?.split(' ').next()
}

/// The type of the file system (proc(5)). A pipe or a socket is in none that is mounted.
fn file_system<'a>(info: &str, mounts: &'a str) -> Option<&'a str> {
    let id = info
        .lines()
        .find_map(|line| line.strip_prefix("mnt_id:"))?
        .trim();
    let mount = mounts
        .lines()
        .find(|line| line.split(' ').next() == Some(id))?;
    mount.split(" - ").nth(1)?.split(' ').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_system_of_a_file() {
        let info = "pos:\t0\nflags:\t0100002\nmnt_id:\t36\nino:\t7\n";
        let mounts = "35 98 0:32 / /mnt rw - ext4 /dev/sda rw\n\
                      36 98 0:33 / /logs rw,noatime master:1 shared:2 - nfs4 host:/logs rw,errors=continue\n";
        assert_eq!(file_system(info, mounts), Some("nfs4"));
        assert_eq!(file_system("mnt_id:\t9", mounts), None);
        assert_eq!(file_system("", mounts), None);
    }

    #[test]
    fn a_path_may_lead_to_a_server() {
        let mounts = "35 98 0:32 / / rw - ext4 /dev/sda rw\n\
                      36 98 0:33 / /logs rw shared:2 - nfs4 host:/logs rw\n\
                      37 98 0:34 / /home/me/far rw - fuse.sshfs me@far: rw\n\
                      38 98 0:35 / /over rw - nfs host:/ rw\n39 98 0:36 / /over rw - tmpfs t rw\n";
        let link = |name: &Path| {
            let link = |at, to| (Path::new(at), PathBuf::from(to));
            let links = [
                link("/a", "/b/c"),
                link("/b", "home/me"),
                link("/loop", "loop"),
            ];
            let mut links = links.into_iter();
            links.find_map(|(at, to)| (at == name).then_some(to))
        };
        for (path, mount) in [
            ("/run/netns/web", None),
            ("/logs/ns", Some("/logs")),
            ("/run/../logs/ns", Some("/logs")),
            ("/b/far/ns", Some("/home/me/far")),
            ("/a/../far", Some("/home/me/far")),
            ("/over/ns", None),
            ("/logsome/ns", None),
            ("/loop/ns", None),
        ] {
            let found = served_on_the_way(Path::new(path), mounts, link);
            assert_eq!(found.as_deref(), mount.map(Path::new), "{path}");
        }
        // As many links as the kernel follows, and one more.
        let next = |name: &Path| {
            let number = name.to_str()?.strip_prefix("/l")?.parse::<u32>().ok()?;
            Some(match number {
                0 => PathBuf::from("/logs"),
                n => PathBuf::from(format!("l{}", n - 1)),
            })
        };
        let logs = Some(PathBuf::from("/logs"));
        assert_eq!(served_on_the_way(Path::new("/l39/ns"), mounts, next), logs);
        assert_eq!(served_on_the_way(Path::new("/l40/ns"), mounts, next), None);
    }

    #[test]
    fn a_file_of_this_host_does_not_hang() {
        assert!(!is_file(&fs::File::open("/dev/null").unwrap()));
        let (pipe, _) = nix::unistd::pipe().unwrap();
        assert!(!is_file(&pipe));
    }
}
