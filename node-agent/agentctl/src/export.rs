//! `export --to`: the rows up to the newest checkpoint as a folder that anybody
//! can verify offline.

use std::io::Write;
use std::path::Path;

use osmoda_agentd::checkpoint::{CheckpointStore, FILE_NAME as CHECKPOINTS};
use osmoda_agentd::ledger::file::{FileError, LedgerFile};
use osmoda_ledger::checkpoint::Checkpoint;
use osmoda_ledger::export::{ExportError, ExportWriter};

use crate::args::{Args, ExportOptions};
use crate::failure::Failure;
use crate::verify::{own_policy, read_policy};

pub(crate) fn run(args: &Args, options: &ExportOptions, dir: &Path, out: &mut impl Write) -> Result<u8, Failure> {
    let path = args.ledger();
    let state = path.parent().unwrap_or(Path::new(""));
    let file = LedgerFile::open(&path)?;
    let store = CheckpointStore::open_read_only(&state.join(CHECKPOINTS))?.ok_or(Failure::Unsigned)?;
    let newest = store.newest()?.ok_or(Failure::Unsigned)?;
    let policy = match &options.policy {
        Some(path) => read_policy(path)?,
        None => own_policy(state)?.ok_or(Failure::Unsigned)?,
    };
    let covered = store.newest_cosigned(policy.quorum().0)?;
    let size = Checkpoint::parse(newest.text()).map_err(osmoda_agentd::checkpoint::StoreError::from)?.size;
    let beginning = file.beginning()?;
    let base = beginning.as_ref().map(|beginning| (&beginning.base, beginning.edge.clone()));
    let mut writer = ExportWriter::new(dir, base)?;
    file.records(size, |record| writer.push(record).map_err(Stopped::Folder)).map_err(Failure::from)?;
    writer.finish(&newest, covered.as_ref(), &policy)?;
    writeln!(out, "{size} rows up to the newest checkpoint: {}", dir.display())?;
    Ok(0)
}

/// Why the rows stopped.
enum Stopped {
    File(FileError),
    Folder(ExportError),
}

impl From<FileError> for Stopped {
    fn from(error: FileError) -> Self {
        Stopped::File(error)
    }
}

impl From<Stopped> for Failure {
    fn from(stopped: Stopped) -> Self {
        match stopped {
            Stopped::File(error) => error.into(),
            Stopped::Folder(error) => error.into(),
        }
    }
}
