//! Which processes root believes a file of pids to name. The file often belongs to the service's user, who could write
//! the pid of another's process there. A file that only root can change is believed. In one that its owner can change,
//! the processes of that user alone count.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::ancestry::user;
use super::place::{Place, ours_alone};
use super::small_file::{beginning, reopened};

/// No file of pids is longer: so much is read of one.
pub(crate) const LONGEST: usize = 65536;

/// What a file names, one pid a line. The processes may have ended.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Named {
    pub(crate) pids: Vec<i32>,
    /// The processes that the file must not name.
    pub(crate) others: Vec<i32>,
}

/// # Errors
/// The file is not there, is no regular file, or can't be read.
pub(crate) fn pids_in(file: &Path) -> io::Result<Named> {
    let place = Place::find(file)?;
    let opened = reopened(&place.there()?)?;
    let what = opened.metadata()?;
    let is_ours = place.exposed.is_none() && ours_alone(&what).is_ok();
    // A file with two names may be root's elsewhere.
    let owner = Some(what.uid()).filter(|_| what.nlink() == 1);
    let text = beginning(opened, LONGEST as u64)?;
    let pids = text.lines().filter_map(|line| line.trim().parse().ok());
    let is_believed = |pid: &i32| is_ours || owner.is_some() && user(*pid) == owner;
    let (pids, others) = pids.partition(is_believed);
    Ok(Named { pids, others })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn a_file_names_processes_of_its_owner_unless_it_is_ours() {
        let folder = std::env::temp_dir().join(format!("syngate-pids-{}", std::process::id()));
        fs::create_dir(&folder).unwrap();
        let own = std::process::id() as i32;
        let (file, link) = (folder.join("a.pid"), folder.join("link.pid"));
        fs::write(&file, format!(" {own} \nnone\n{}\n", i32::MAX)).unwrap();
        symlink(&file, &link).unwrap();
        let mode = |mode| {
            fs::set_permissions(&folder, fs::Permissions::from_mode(mode)).unwrap();
            pids_in(&file).unwrap().pids
        };
        assert_eq!(mode(0o755), [own, i32::MAX]);
        // Others may write there, and nobody knows whose the second one is.
        assert_eq!(mode(0o777), [own]);
        assert_eq!(pids_in(&file).unwrap().others, [i32::MAX]);
        fs::hard_link(&file, folder.join("b.pid")).unwrap();
        assert!(mode(0o777).is_empty());
        assert_eq!(mode(0o755), [own, i32::MAX]);
        assert!(pids_in(&folder.join("none.pid")).is_err());
        assert!(pids_in(&folder).is_err());
        // A link counts only where nobody else could have made it.
        assert_eq!(pids_in(&link).unwrap().pids.len(), 2);
        mode(0o777);
        assert!(pids_in(&link).is_err());
        fs::remove_dir_all(folder).unwrap();
    }
}
