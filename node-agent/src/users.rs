//! Gives the daemons' state folders to the daemons' own users.
//!
//! Only on a real root, as root, and only for users that exist: on hosts
//! without them all daemons run as one user anyway.

use std::os::unix::fs::lchown;
use std::path::Path;

use osmoda_kit::fsio::FsError;
use osmoda_kit::paths::Paths;

/// The user database. Users of the daemons are static, so the file has them.
const PASSWD: &str = "/etc/passwd";

/// Gives every daemon's folder, with what is in it, to its user.
pub(crate) fn give_state(paths: &Paths) -> Result<(), FsError> {
    let passwd = std::fs::read_to_string(PASSWD).map_err(|source| FsError::new("read", PASSWD.as_ref(), source))?;
    for daemon in osmoda_node_api::registry::DAEMONS {
        let Some((uid, gid)) = ids_of(daemon.user, &passwd) else { continue };
        let dir = paths.state(daemon.name);
        if dir.exists() {
            give(&dir, uid, gid)?;
        }
    }
    Ok(())
}

fn give(path: &Path, uid: u32, gid: u32) -> Result<(), FsError> {
    let failed = |source| FsError::new("change the owner of", path, source);
    lchown(path, Some(uid), Some(gid)).map_err(failed)?;
    if path.is_symlink() || !path.is_dir() {
        return Ok(());
    }
    for entry in std::fs::read_dir(path).map_err(failed)? {
        give(&entry.map_err(failed)?.path(), uid, gid)?;
    }
    Ok(())
}

fn ids_of(user: &str, passwd: &str) -> Option<(u32, u32)> {
    passwd.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        (fields.first() == Some(&user)).then(|| Some((fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?)))?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found_by_their_whole_name() {
        let passwd = "root:x:0:0::/:/x\nosmoda-mesh:x:901:902::/:/x\nosmoda-mesh2:x:903:904::/:/x\n";
        assert_eq!(ids_of("osmoda-mesh", passwd), Some((901, 902)));
        assert_eq!(ids_of("osmoda", passwd), None);
    }
}
