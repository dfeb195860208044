//! A small file system of its own, and the file that fills it.

use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

/// Its size: a young voter's files have 100 KiB; the rest is filled.
const OPTIONS: &std::ffi::CStr = c"size=4m,mode=0700";

/// What one write of the filler asks for.
const BLOCK: [u8; 4096] = [0xfe; 4096];

/// A mounted tmpfs; unmounted when dropped.
#[derive(Debug)]
pub(super) struct Tmpfs {
    place: PathBuf,
}

impl Tmpfs {
    /// Mounts one at a folder, which is made first.
    pub(super) fn mount(place: PathBuf) -> anyhow::Result<Self> {
        let mut folders = std::fs::DirBuilder::new();
        folders.recursive(true).mode(0o700).create(&place).with_context(|| format!("making {}", place.display()))?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        mount("osmoda-faults", &place, "tmpfs", flags, OPTIONS)
            .with_context(|| format!("mounting a tmpfs at {}", place.display()))?;
        Ok(Self { place })
    }

    /// Writes until not one byte more fits.
    pub(super) fn fill(&self) -> anyhow::Result<()> {
        let path = self.filler();
        let mut file = File::create(&path).context("making the file that fills the disk")?;
        for size in [BLOCK.len(), 1] {
            loop {
                match file.write(&BLOCK[..size]) {
                    Ok(0) => bail!("a write of {size} bytes wrote none"),
                    Ok(_) => {}
                    Err(error) if error.kind() == ErrorKind::StorageFull => break,
                    Err(error) => return Err(error).context("filling the disk"),
                }
            }
        }
        Ok(())
    }

    /// Gives the space back.
    pub(super) fn free(&self) -> anyhow::Result<()> {
        std::fs::remove_file(self.filler()).context("removing the file that fills the disk")
    }

    fn filler(&self) -> PathBuf {
        Path::new(&self.place).join("filler")
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        // Lazily: a process that is just being killed may still hold a file.
        if let Err(error) = unmount(&self.place, UnmountFlags::DETACH) {
            tracing::warn!(%error, place = %self.place.display(), "a tmpfs stays mounted");
        }
    }
}
