//! Blobs on disk: one file per hash, its hash tree beside it.
//!
//! ```text
//! <hash>        the bytes, whole and verified
//! <hash>.tree   their BLAKE3 tree, 64 bytes per 16 KiB, to prove any part
//! <hash>.part   the verified beginning of a blob that is being fetched
//! put-<random>  bytes that are being handed in
//! ```
//! Invariant: a file called by its hash has that hash: it gets the name only
//! after the whole was hashed, and was synced before. Invariant: all files
//! together stay below the store's limit. When they would not, beginnings of blobs
//! that nobody fetches now go first, the oldest before the others.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use bao_tree::blake3::Hash;
use bao_tree::io::outboard::{EmptyOutboard, PreOrderOutboard};
use bao_tree::io::sync::{CreateOutboard, ReadAt, WriteAt, decode_ranges, encode_ranges_validated};
use bao_tree::{BaoTree, BlockSize, ChunkNum, ChunkRanges};
use osmoda_kit::error::ApiError;
use osmoda_kit::fsio;
use osmoda_types::ErrorCode;

/// Chunks are proven in groups of 16: 64 bytes of tree per 16 KiB is 0.4 %.
const GROUP: BlockSize = BlockSize::from_chunk_log(4);

/// Bytes of a BLAKE3 chunk.
const CHUNK_BYTES: u64 = 1024;

/// Bytes of a chunk group; what is fetched is resumed at a multiple of it.
const GROUP_BYTES: u64 = 16 * CHUNK_BYTES;

/// The largest blob: a closure is made of smaller parts, and a tree in memory
/// stays under 4 MiB.
pub(crate) const BLOB_BYTES_MAX: u64 = 1024 * 1024 * 1024;

/// Bytes of one verified slice on the wire.
pub(crate) const SLICE_BYTES: u64 = 1024 * 1024;

/// The folder of all blobs. Every function blocks.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    folder: PathBuf,
    bytes_max: u64,
    in_use: Arc<InUse>,
}

/// Whose beginnings are in use. Invariant: no file is touched under the lock, which
/// async threads take too: to remove a large one can take seconds
/// (`tests::while_a_beginning_is_removed_only_its_own_blob_waits`).
#[derive(Debug, Default)]
struct InUse {
    hashes: Mutex<Hashes>,
    /// A removal is over.
    removed: Condvar,
}

#[derive(Debug, Default)]
struct Hashes {
    /// One fetch at a time each, and its beginning is not removed.
    fetched: BTreeSet<[u8; 32]>,
    /// Whoever would fetch one of these or remove it as well waits.
    removed: BTreeSet<[u8; 32]>,
    /// How many that are.
    #[cfg(test)]
    waiting: usize,
}

/// A blob to send from.
pub(crate) struct Source {
    data: File,
    tree: PreOrderOutboard<Vec<u8>>,
}

/// A blob that is being fetched. Whoever gives up a fetch may leave work on it behind;
/// the right to it goes with the last of that, so nobody else writes to the file.
#[derive(Debug)]
pub(crate) struct Partial {
    /// Made with the first slice that is proven.
    file: Option<File>,
    path: PathBuf,
    /// Verified bytes from the beginning.
    pub(crate) has: u64,
    turn: Turn,
}

/// Bytes that are being handed in.
pub(crate) struct Handed {
    file: File,
    path: PathBuf,
    bytes: u64,
}

impl Store {
    /// Makes the folder, and removes what an earlier run was being handed.
    pub(crate) fn open(folder: PathBuf, bytes_max: u64) -> Result<Self, ApiError> {
        fsio::create_private_dir(&folder).map_err(|error| ApiError::new(error.code(), error.to_string()))?;
        let store = Self { folder, bytes_max, in_use: Arc::default() };
        for entry in std::fs::read_dir(&store.folder).map_err(unusable)? {
            let entry = entry.map_err(unusable)?;
            if entry.file_name().to_string_lossy().starts_with("put-") {
                std::fs::remove_file(entry.path()).map_err(unusable)?;
            }
        }
        Ok(store)
    }

    fn path(&self, hash: &Hash) -> PathBuf {
        self.folder.join(hash.to_hex().as_str())
    }

    fn beside(&self, hash: &Hash, ending: &str) -> PathBuf {
        self.folder.join(format!("{}.{ending}", hash.to_hex()))
    }

    /// The size of a blob that is here.
    pub(crate) fn size(&self, hash: &Hash) -> Result<Option<u64>, ApiError> {
        match std::fs::metadata(self.path(hash)) {
            Ok(found) => Ok(Some(found.len())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(unusable(error)),
        }
    }

    /// Opens a blob for reading.
    pub(crate) fn read(&self, hash: &Hash) -> Result<Option<File>, ApiError> {
        match File::open(self.path(hash)) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(unusable(error)),
        }
    }

    /// Opens a blob for sending proven parts of it.
    pub(crate) fn source(&self, hash: &Hash) -> Result<Option<Source>, ApiError> {
        let Some(data) = self.read(hash)? else { return Ok(None) };
        let size = data.metadata().map_err(unusable)?.len();
        let tree = match std::fs::read(self.beside(hash, "tree")) {
            Ok(pairs) => PreOrderOutboard { root: *hash, tree: BaoTree::new(size, GROUP), data: pairs },
            // Lost, or never written: it follows from the bytes.
            Err(_) => PreOrderOutboard::<Vec<u8>>::create(&data, GROUP).map_err(unusable)?,
        };
        Ok(Some(Source { data, tree }))
    }

    /// The right to fetch a hash.
    pub(crate) fn turn(&self, hash: Hash) -> Result<Turn, ApiError> {
        if self.in_use.settled(&hash).fetched.insert(*hash.as_bytes()) {
            return Ok(Turn { in_use: Arc::clone(&self.in_use), hash });
        }
        Err(ApiError::new(ErrorCode::Busy, "the blob is being fetched already"))
    }

    /// Makes place for so many bytes more.
    pub(crate) fn make_place(&self, bytes: u64) -> Result<(), ApiError> {
        self.place(bytes, bytes)
    }

    /// Makes place for the next bytes of so many in all. When there can never be place
    /// for those, nothing goes.
    fn place(&self, next: u64, in_all: u64) -> Result<(), ApiError> {
        let fetched = self.in_use.lock().fetched.clone();
        let (mut kept, mut unused, mut begun) = (0, 0, Vec::new());
        for entry in std::fs::read_dir(&self.folder).map_err(unusable)? {
            let entry = entry.map_err(unusable)?;
            // A file that is gone meanwhile takes no space.
            let Ok(found) = entry.metadata() else { continue };
            kept += found.len();
            if begun_of(&entry.path()).is_some_and(|hash| !fetched.contains(hash.as_bytes())) {
                unused += found.len();
                begun.push((found.modified().map_err(unusable)?, entry.path(), found.len()));
            }
        }
        let full = || {
            let text = format!("the blob store keeps {} bytes at most", self.bytes_max);
            ApiError::new(ErrorCode::QuotaExceeded, text)
        };
        if (kept - unused).saturating_add(in_all) > self.bytes_max {
            return Err(full());
        }
        begun.sort();
        for (_, path, length) in begun {
            if kept + next <= self.bytes_max {
                break;
            }
            if self.remove_unused(&path, |path| std::fs::remove_file(path))? {
                kept -= length;
            }
        }
        // Some of them may be fetched again since.
        if kept + next > self.bytes_max { Err(full()) } else { Ok(()) }
    }

    /// Removes the beginning of a blob unless that is being fetched; whether its space
    /// is free.
    fn remove_unused(&self, part: &Path, remove: impl FnOnce(&Path) -> io::Result<()>) -> Result<bool, ApiError> {
        let Some(hash) = begun_of(part) else { return Ok(false) };
        // A fetch that begins now makes a new one after that.
        let Some(removal) = self.in_use.removal(hash) else { return Ok(false) };
        let outcome = remove(part);
        drop(removal);
        match outcome {
            Ok(()) => {
                tracing::info!(blob = %hash, "the beginning of a blob went, the store is full");
                Ok(true)
            }
            // Somebody else made place, or it was fetched to its end and has its name.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(self.size(&hash)?.is_none()),
            Err(error) => Err(unusable(error)),
        }
    }

    /// Begins to take bytes from a local caller.
    pub(crate) fn hand(&self) -> Result<Handed, ApiError> {
        let random = getrandom::u64().map_err(ApiError::internal)?;
        let path = self.folder.join(format!("put-{random:016x}"));
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path).map_err(unusable)?;
        Ok(Handed { file, path, bytes: 0 })
    }

    /// Hashes what was handed in and keeps it under its hash.
    pub(crate) fn keep(&self, handed: Handed) -> Result<(Hash, u64), ApiError> {
        let tree = PreOrderOutboard::<Vec<u8>>::create(&handed.file, GROUP).map_err(unusable)?;
        let bytes = handed.bytes;
        self.publish(&handed.file, &handed.path, &tree)?;
        Ok((tree.root, bytes))
    }

    /// Goes on with a blob that was begun; one that was not is begun with its first
    /// slice, so that a peer which has none leaves nothing here.
    pub(crate) fn partial(&self, turn: Turn) -> Result<Partial, ApiError> {
        let path = self.beside(&turn.hash, "part");
        let file = match OpenOptions::new().read(true).write(true).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Partial { file: None, path, has: 0, turn });
            }
            Err(error) => return Err(unusable(error)),
        };
        // A power cut may have torn the last group; the whole is hashed at the end.
        let has = file.metadata().map_err(unusable)?.len() / GROUP_BYTES * GROUP_BYTES;
        file.set_len(has).map_err(unusable)?;
        Ok(Partial { file: Some(file), path, has, turn })
    }

    /// Takes a slice after what is here, if it is proven and there is place for it;
    /// whether the blob is whole then. `size` is what the sender says the blob has: the
    /// last slice proves it, those before it only to a factor of two. So no more place is
    /// made than for this slice.
    pub(crate) fn take(&self, partial: &mut Partial, size: u64, encoded: &[u8]) -> Result<bool, ApiError> {
        let mut proven = Proven::default();
        prove(&partial.turn.hash, (size, partial.has), encoded, &mut proven).map_err(|error| {
            ApiError::new(ErrorCode::Conflict, "the peer sent bytes that do not belong to the blob").with_source(error)
        })?;
        self.place(proven.bytes(), size.saturating_sub(partial.has))?;
        partial.write(&proven)?;
        partial.has = (partial.has + SLICE_BYTES).min(size);
        Ok(partial.has >= size)
    }

    /// Keeps a blob that is whole; one that is not what it should be is thrown
    /// away, so that the next fetch begins anew.
    pub(crate) fn finish(&self, partial: Partial) -> Result<u64, ApiError> {
        let file = partial.file.as_ref().ok_or_else(|| unusable(io::ErrorKind::NotFound.into()))?;
        let tree = PreOrderOutboard::<Vec<u8>>::create(file, GROUP).map_err(unusable)?;
        if tree.root != partial.turn.hash {
            std::fs::remove_file(&partial.path).map_err(unusable)?;
            let text = "the fetched bytes do not have the hash that was asked for; fetch again";
            return Err(ApiError::new(ErrorCode::Conflict, text));
        }
        let size = tree.tree.size();
        self.publish(file, &partial.path, &tree)?;
        Ok(size)
    }

    /// Tree first, then the bytes under their name: a blob without its tree only
    /// costs time.
    fn publish(&self, file: &File, path: &Path, tree: &PreOrderOutboard<Vec<u8>>) -> Result<(), ApiError> {
        file.sync_all().map_err(unusable)?;
        fsio::write_atomic(&self.beside(&tree.root, "tree"), &tree.data, 0o600)
            .map_err(|error| ApiError::new(error.code(), error.to_string()))?;
        std::fs::rename(path, self.path(&tree.root)).map_err(unusable)?;
        fsio::sync_dir(&self.folder).map_err(|error| ApiError::new(error.code(), error.to_string()))
    }
}

impl InUse {
    fn lock(&self) -> MutexGuard<'_, Hashes> {
        self.hashes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The same once nobody removes this one. Blocks.
    fn settled(&self, hash: &Hash) -> MutexGuard<'_, Hashes> {
        let mut hashes = self.lock();
        while hashes.removed.contains(hash.as_bytes()) {
            #[cfg(test)]
            {
                hashes.waiting += 1;
            }
            hashes = self.removed.wait(hashes).unwrap_or_else(PoisonError::into_inner);
            #[cfg(test)]
            {
                hashes.waiting -= 1;
            }
        }
        hashes
    }

    /// The right to remove the beginning of a blob, unless that is being fetched.
    fn removal(&self, hash: Hash) -> Option<Removal<'_>> {
        let mut hashes = self.settled(&hash);
        if hashes.fetched.contains(hash.as_bytes()) {
            return None;
        }
        hashes.removed.insert(*hash.as_bytes());
        Some(Removal { in_use: self, hash })
    }
}

/// The right to fetch a hash.
#[derive(Debug)]
pub(crate) struct Turn {
    in_use: Arc<InUse>,
    hash: Hash,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.in_use.lock().fetched.remove(self.hash.as_bytes());
    }
}

/// The right to remove the beginning of a blob.
struct Removal<'a> {
    in_use: &'a InUse,
    hash: Hash,
}

impl Drop for Removal<'_> {
    fn drop(&mut self) {
        self.in_use.lock().removed.remove(self.hash.as_bytes());
        self.in_use.removed.notify_all();
    }
}

impl Handed {
    /// Takes the next bytes.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), ApiError> {
        self.bytes += bytes.len() as u64;
        if self.bytes > BLOB_BYTES_MAX {
            return Err(ApiError::new(ErrorCode::TooLarge, format!("a blob has {BLOB_BYTES_MAX} bytes at most")));
        }
        self.file.write_all(bytes).map_err(unusable)
    }
}

impl Drop for Handed {
    fn drop(&mut self) {
        // After `keep` it has another name; then there is nothing to remove.
        if let Err(error) = std::fs::remove_file(&self.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, "bytes that were handed in are left behind");
        }
    }
}

impl Source {
    /// The blob's size.
    pub(crate) fn size(&self) -> u64 {
        self.tree.tree.size()
    }

    /// A slice from a byte on, with the proof that it belongs to the blob.
    pub(crate) fn slice(&self, from: u64) -> Result<Vec<u8>, ApiError> {
        slice_of(&self.data, &self.tree, from).map_err(ApiError::internal)
    }
}

impl Partial {
    /// Puts proven bytes into their places, durably.
    fn write(&mut self, proven: &Proven) -> Result<(), ApiError> {
        let file = match self.file.take() {
            Some(file) => file,
            None => {
                let mut options = OpenOptions::new();
                options.read(true).write(true).create_new(true).open(&self.path).map_err(unusable)?
            }
        };
        let file = self.file.insert(file);
        for (place, bytes) in &proven.0 {
            WriteAt::write_all_at(file, *place, bytes).map_err(unusable)?;
        }
        file.sync_data().map_err(unusable)
    }
}

/// What a slice has proven, with the places of the bytes: a slice, and no more of what
/// is here already than its proof needs.
#[derive(Debug, Default)]
struct Proven(Vec<(u64, Vec<u8>)>);

impl Proven {
    fn bytes(&self) -> u64 {
        self.0.iter().map(|(_, bytes)| bytes.len() as u64).sum()
    }
}

impl WriteAt for Proven {
    fn write_at(&mut self, place: u64, bytes: &[u8]) -> io::Result<usize> {
        self.0.push((place, bytes.to_vec()));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The slice of a blob from a byte on, with its proof.
fn slice_of(
    data: impl ReadAt,
    tree: &PreOrderOutboard<Vec<u8>>,
    from: u64,
) -> Result<Vec<u8>, bao_tree::io::EncodeError> {
    let mut encoded = Vec::new();
    encode_ranges_validated(data, tree, &slice_at(from), &mut encoded)?;
    Ok(encoded)
}

/// Writes what a slice of a blob of `size` proves to be the blob's from `has` on.
/// What was written before an error was proven too, and is not all of the slice.
fn prove(
    hash: &Hash,
    (size, has): (u64, u64),
    encoded: &[u8],
    into: &mut impl WriteAt,
) -> Result<(), bao_tree::io::DecodeError> {
    let outboard = EmptyOutboard { tree: BaoTree::new(size, GROUP), root: *hash };
    decode_ranges(encoded, &slice_at(has), into, outboard)
}

/// A slice of a peer's: any size, any place, any bytes, or an honest slice with
/// some of them changed; and any place asked for by a peer.
///
/// # Panics
/// When bytes are kept that are not the blob's.
pub(crate) fn fuzz_slice(bytes: &[u8]) {
    let Some(([kind, a, b, c, ..], rest)) = bytes.split_first_chunk::<8>() else { return };
    // Two groups and a part of a third; one and its end; a chunk; nothing.
    let length = [40_000, 16_385, 1024, 0][usize::from(*a) % 4];
    let blob: Vec<u8> = (0..length).map(|n: u32| n.to_le_bytes()[0]).collect();
    let tree = PreOrderOutboard::<Vec<u8>>::create(io::Cursor::new(&blob), GROUP).expect("memory can be read");
    let asked = bytes.first_chunk::<8>().map_or(0, |place| u64::from_be_bytes(*place));
    drop(slice_of(&blob[..], &tree, asked));

    let size = match b % 3 {
        0 => blob.len() as u64,
        1 => u64::from(*c) * 257,
        _ => asked % BLOB_BYTES_MAX,
    };
    let encoded = if kind % 2 == 0 {
        rest.to_vec()
    } else {
        let mut honest = slice_of(&blob[..], &tree, 0).expect("memory can be read");
        honest.iter_mut().skip(usize::from(*c) * 64).zip(rest).for_each(|(byte, mask)| *byte ^= mask);
        honest
    };
    let mut kept = Vec::new();
    let proven = prove(&tree.root, (size, 0), &encoded, &mut kept).is_ok();
    assert!(blob.starts_with(&kept), "bytes were kept that are not the blob's");
    assert!(!proven || kept.len() as u64 == size.min(SLICE_BYTES), "a slice was proven with a hole in it");
}

/// The blob whose beginning is in this file.
fn begun_of(path: &Path) -> Option<Hash> {
    let is_begun = path.extension().is_some_and(|ending| ending == "part");
    let name = path.file_stem().filter(|_| is_begun)?.to_str()?;
    Hash::from_hex(name).ok()
}

/// The chunks of the slice that begins at a byte.
fn slice_at(from: u64) -> ChunkRanges {
    let first = from / CHUNK_BYTES;
    ChunkRanges::from(ChunkNum(first)..ChunkNum(first + SLICE_BYTES / CHUNK_BYTES))
}

fn unusable(error: io::Error) -> ApiError {
    let code = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorCode::DiskFull,
        _ => ErrorCode::StateDirUnusable,
    };
    ApiError::new(code, "the blob store cannot be read or written").with_source(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path().join("blobs"), 64 << 20).unwrap();
        (folder, store)
    }

    fn put(store: &Store, bytes: &[u8]) -> Hash {
        let mut handed = store.hand().unwrap();
        handed.write(bytes).unwrap();
        let (hash, size) = store.keep(handed).unwrap();
        assert_eq!(size, bytes.len() as u64);
        hash
    }

    fn go_on(store: &Store, hash: Hash) -> Partial {
        store.partial(store.turn(hash).unwrap()).unwrap()
    }

    #[test]
    fn blobs_of_every_size_travel_in_slices_and_are_resumed() {
        let (_a, from) = store();
        let (_b, to) = store();
        let slice = usize::try_from(SLICE_BYTES).unwrap();
        for size in [0, 1, 1024, 16_384, 16_385, slice, slice + 1, 3 * slice + 5] {
            let bytes: Vec<u8> = (0..size).map(|n| (n % 251) as u8).collect();
            let hash = put(&from, &bytes);
            assert_eq!(hash, bao_tree::blake3::hash(&bytes));
            let source = from.source(&hash).unwrap().unwrap();
            assert_eq!(source.size(), size as u64);
            let mut first = true;
            while first || go_on(&to, hash).has < size as u64 {
                // Each slice by another session, as after an interruption.
                let mut partial = go_on(&to, hash);
                let slice = source.slice(partial.has).unwrap();
                let whole = to.take(&mut partial, source.size(), &slice).unwrap();
                first = false;
                if whole {
                    assert_eq!(to.finish(partial).unwrap(), size as u64);
                    break;
                }
            }
            assert_eq!(std::fs::read(to.path(&hash)).unwrap(), bytes);
        }
    }

    #[test]
    fn wrong_bytes_wrong_sizes_and_torn_parts_are_noticed() {
        let (_a, from) = store();
        let (_b, to) = store();
        let bytes = vec![7; 100_000];
        let hash = put(&from, &bytes);
        let source = from.source(&hash).unwrap().unwrap();
        let good = source.slice(0).unwrap();
        let take = |size, slice: &[u8]| to.take(&mut go_on(&to, hash), size, slice);
        for place in [0, 40, good.len() / 2, good.len() - 1] {
            let mut wrong = good.clone();
            wrong[place] ^= 1;
            assert!(take(source.size(), &wrong).is_err(), "byte {place}");
        }
        assert!(take(source.size() + 1, &good).is_err());
        assert!(take(source.size(), &good[..good.len() - 1]).is_err());
        assert!(take(1 << 40, &good).is_err());
        assert_eq!(std::fs::read_dir(&to.folder).unwrap().count(), 0, "nothing is begun with what is not proven");
        // A part that is not what it should be is thrown away at the end.
        std::fs::write(to.beside(&hash, "part"), vec![8; 100_000]).unwrap();
        let torn = go_on(&to, hash);
        assert_eq!(torn.has, 6 * GROUP_BYTES);
        assert_eq!(to.finish(torn).unwrap_err().code, ErrorCode::Conflict);
        assert_eq!(go_on(&to, hash).has, 0);
        // A tree that is lost follows from the bytes.
        std::fs::remove_file(from.beside(&hash, "tree")).unwrap();
        assert_eq!(from.source(&hash).unwrap().unwrap().slice(0).unwrap(), good);
    }

    #[test]
    fn nobody_else_fetches_a_blob_while_there_is_work_on_it() {
        let (_a, from) = store();
        let (_b, to) = store();
        let hash = put(&from, &[7; 20_000]);
        let source = from.source(&hash).unwrap().unwrap();
        let mut partial = go_on(&to, hash);
        assert_eq!(to.turn(hash).unwrap_err().code, ErrorCode::Busy);
        assert!(to.take(&mut partial, source.size(), &source.slice(0).unwrap()).unwrap());
        // The fetch was given up, its work goes on: it is still the only one.
        let (hold, held) = std::sync::mpsc::sync_channel::<()>(0);
        let store = to.clone();
        let work = std::thread::spawn(move || {
            held.recv().unwrap_err();
            store.finish(partial).unwrap()
        });
        assert_eq!(to.turn(hash).unwrap_err().code, ErrorCode::Busy);
        drop(hold);
        assert_eq!(work.join().unwrap(), 20_000);
        assert!(to.turn(hash).is_ok());
    }

    #[test]
    fn a_full_store_gives_up_what_was_begun_longest_ago_and_nobody_fetches() {
        let (folder, _) = store();
        let store = Store::open(folder.path().join("blobs"), 100_000).unwrap();
        let whole = put(&store, &[1; 20_000]);
        let begun: Vec<Hash> = (0..3_u8).map(|n| bao_tree::blake3::hash(&[n])).collect();
        for (age, hash) in begun.iter().enumerate() {
            let file = File::create(store.beside(hash, "part")).unwrap();
            file.set_len(20_000).unwrap();
            file.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(age as u64)).unwrap();
        }
        let left = || begun.iter().map(|hash| store.beside(hash, "part").exists()).collect::<Vec<_>>();
        store.make_place(10_000).unwrap();
        assert_eq!(left(), [true; 3]);
        // The oldest one is in use, so the one after it goes, and no more than must.
        let turn = store.turn(begun[0]).unwrap();
        store.make_place(30_000).unwrap();
        assert_eq!(left(), [true, false, true]);
        // Nothing goes in vain, nor for what is not here yet.
        assert_eq!(store.make_place(70_000).unwrap_err().code, ErrorCode::QuotaExceeded);
        store.place(30_000, 50_000).unwrap();
        assert_eq!(left(), [true, false, true]);
        drop(turn);
        store.make_place(70_000).unwrap();
        assert_eq!((left(), store.size(&whole).unwrap()), (vec![false; 3], Some(20_000)));
    }

    #[test]
    fn a_size_that_is_not_proven_costs_no_beginning() {
        let (folder, from) = store();
        let store = Store::open(folder.path().join("small"), 200_000).unwrap();
        let hash = put(&from, &[7; 100_000]);
        let source = from.source(&hash).unwrap().unwrap();
        let slice = source.slice(0).unwrap();
        let other = store.beside(&bao_tree::blake3::hash(b"other"), "part");
        std::fs::write(&other, vec![1; 90_000]).unwrap();
        for size in [199_999, 1 << 40] {
            assert!(store.take(&mut go_on(&store, hash), size, &slice).is_err(), "{size}");
            assert!(other.exists(), "{size}");
        }
        assert!(store.take(&mut go_on(&store, hash), source.size(), &slice).unwrap());
        assert!(other.exists());
    }

    #[test]
    fn a_beginning_that_is_whole_needs_the_proof_of_its_size_only() {
        let (_a, from) = store();
        let (_b, to) = store();
        let bytes = vec![7; 2 * usize::try_from(GROUP_BYTES).unwrap()];
        let hash = put(&from, &bytes);
        let source = from.source(&hash).unwrap().unwrap();
        std::fs::write(to.beside(&hash, "part"), &bytes).unwrap();
        let mut partial = go_on(&to, hash);
        let last = source.slice(partial.has).unwrap();
        assert!(to.take(&mut partial, source.size() - 1, &last).is_err());
        assert!(to.take(&mut partial, source.size(), &last).unwrap());
        assert_eq!(to.finish(partial).unwrap(), source.size());
    }

    #[test]
    fn a_beginning_that_is_gone_already_is_no_fault() {
        let (_folder, store) = store();
        let whole = put(&store, &[1; 20_000]);
        let gone = bao_tree::blake3::hash(b"gone");
        // As two find who make place at once, or one beside a fetch that ends.
        let removed = |hash| store.remove_unused(&store.beside(hash, "part"), |path| std::fs::remove_file(path));
        assert!(removed(&gone).unwrap());
        assert!(!removed(&whole).unwrap(), "its bytes are still there");
    }

    #[test]
    fn while_a_beginning_is_removed_only_its_own_blob_waits() {
        let (_folder, store) = store();
        let [hash, other] = [b"one", b"two"].map(|bytes| bao_tree::blake3::hash(bytes));
        let part = store.beside(&hash, "part");
        // Who wants to fetch this very one, and who wants its space too.
        let fetches = |store: &Store, part: &Path| {
            let partial = store.partial(store.turn(begun_of(part).unwrap()).unwrap()).unwrap();
            if (partial.has, partial.file.is_none()) == (0, true) { "fetched from its beginning" } else { "cut" }
        };
        let removes = |store: &Store, part: &Path| {
            let is_free = store.remove_unused(part, |path| std::fs::remove_file(path)).unwrap();
            if is_free { "removed too" } else { "in use" }
        };
        let limit = std::time::Duration::from_secs(10);
        type Waits = fn(&Store, &Path) -> &'static str;
        for (waits, word) in [(fetches as Waits, "fetched from its beginning"), (removes, "removed too")] {
            std::fs::write(&part, vec![1; 20_000]).unwrap();
            // One word each.
            let (begin, begun) = std::sync::mpsc::sync_channel(1);
            let (end, ended) = std::sync::mpsc::sync_channel::<()>(1);
            let slowly = move |path: &Path| {
                begin.send(()).unwrap();
                ended.recv().unwrap();
                std::fs::remove_file(path)
            };
            std::thread::scope(|threads| {
                let removal = threads.spawn(|| store.remove_unused(&part, slowly).unwrap());
                begun.recv().unwrap();
                let beside = threads.spawn(|| {
                    drop(store.turn(other).unwrap());
                    store.make_place(1).unwrap();
                });
                let waits = threads.spawn(|| waits(&store, &part));
                let do_so = || {
                    // The removal must not hold the lock.
                    let is_waiting = store.in_use.hashes.try_lock().is_ok_and(|hashes| hashes.waiting == 1);
                    Ok::<_, ()>((is_waiting && beside.is_finished()).then_some(()))
                };
                let do_so = osmoda_kit::testing::look_until(limit, do_so).unwrap();
                // Whatever was found, or no thread would end.
                end.send(()).unwrap();
                assert!(removal.join().unwrap());
                beside.join().unwrap();
                assert_eq!((waits.join().unwrap(), do_so), (word, Some(())));
            });
        }
    }

    #[test]
    fn the_store_has_a_limit_and_leaves_nothing_half_handed() {
        let (folder, store) = store();
        assert!(store.make_place(64 << 20).is_ok());
        put(&store, &[1; 5000]);
        assert_eq!(store.make_place(64 << 20).unwrap_err().code, ErrorCode::QuotaExceeded);
        let mut handed = store.hand().unwrap();
        handed.write(&[1; 10]).unwrap();
        drop(handed);
        std::fs::write(store.folder.join("put-0"), b"of a run that was killed").unwrap();
        let again = Store::open(folder.path().join("blobs"), 1).unwrap();
        let names: Vec<_> = std::fs::read_dir(&again.folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names.len(), 2, "{names:?}");
    }
}
