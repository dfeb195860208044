//! A disk in memory that can lose power or run full, for tests.
//!
//! Writes since the last sync are pending: after a power loss any subset of
//! them, each perhaps cut short, may be on the disk (seeded). This is the
//! model of a disk with a volatile cache, which reorders freely between syncs.

use std::io;
use std::sync::{Arc, Mutex};

use redb::StorageBackend;

/// A small generator with a printed seed; enough for choosing what is lost.
#[derive(Debug, Clone)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d)
    }

    /// A number below `n`.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

/// A change since the last sync.
#[derive(Debug, Clone)]
enum Pending {
    Write { offset: usize, data: Vec<u8> },
    Resize(usize),
}

#[derive(Debug, Default)]
struct State {
    /// What a power loss cannot take.
    safe: Vec<u8>,
    /// What reads see.
    seen: Vec<u8>,
    pending: Vec<Pending>,
    /// Syncs left before they fail; `None` is never.
    syncs_left: Option<u64>,
    /// Size the disk cannot grow beyond.
    bytes_max: Option<usize>,
    dead: bool,
}

/// The disk; clones are the same disk.
#[derive(Debug, Clone, Default)]
pub(crate) struct Disk {
    state: Arc<Mutex<State>>,
}

impl Disk {
    /// Takes away the power: keeps what was synced and a random part of what
    /// was not, and returns the disk as the next start finds it.
    pub(crate) fn lose_power(&self, dice: &mut Dice) -> Disk {
        let state = self.state.lock().unwrap();
        let mut safe = state.safe.clone();
        for pending in &state.pending {
            match (pending, dice.below(3)) {
                (_, 0) => {}
                (Pending::Resize(len), _) => safe.resize(*len, 0),
                (Pending::Write { offset, data }, fate) => {
                    // Sectors are written whole, a longer write may stop between two.
                    let sectors = data.len().div_ceil(512) as u64;
                    let kept = if fate == 1 { dice.below(sectors + 1) as usize * 512 } else { data.len() };
                    apply(&mut safe, *offset, &data[..kept.min(data.len())]);
                }
            }
        }
        let after = State { seen: safe.clone(), safe, ..State::default() };
        Disk { state: Arc::new(Mutex::new(after)) }
    }

    /// From the `n`th sync on, every operation fails: the power went in it.
    pub(crate) fn fail_at_sync(&self, n: u64) {
        self.state.lock().unwrap().syncs_left = Some(n);
    }

    /// Lets the disk run full at its present size.
    pub(crate) fn fill(&self) {
        let mut state = self.state.lock().unwrap();
        state.bytes_max = Some(state.seen.len());
    }

    /// Flips one bit of what is stored.
    pub(crate) fn flip(&self, at: usize) {
        let mut state = self.state.lock().unwrap();
        state.seen[at] ^= 1;
        state.safe[at] ^= 1;
    }

    /// Bytes stored.
    pub(crate) fn size(&self) -> usize {
        self.state.lock().unwrap().seen.len()
    }
}

fn apply(bytes: &mut Vec<u8>, offset: usize, data: &[u8]) {
    let end = offset + data.len();
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[offset..end].copy_from_slice(data);
}

fn gone() -> io::Error {
    io::Error::other("the power is gone")
}

impl StorageBackend for Disk {
    fn len(&self) -> Result<u64, io::Error> {
        Ok(self.state.lock().unwrap().seen.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        let state = self.state.lock().unwrap();
        let from = offset as usize;
        let found = state.seen.get(from..from + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(found);
        Ok(())
    }

    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        let mut state = self.state.lock().unwrap();
        if state.dead {
            return Err(gone());
        }
        if state.bytes_max.is_some_and(|max| len as usize > max) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        state.seen.resize(len as usize, 0);
        state.pending.push(Pending::Resize(len as usize));
        Ok(())
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        let mut state = self.state.lock().unwrap();
        if state.syncs_left == Some(0) {
            state.dead = true;
        }
        if state.dead {
            return Err(gone());
        }
        state.syncs_left = state.syncs_left.map(|left| left - 1);
        state.safe = state.seen.clone();
        state.pending.clear();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        let mut state = self.state.lock().unwrap();
        if state.dead {
            return Err(gone());
        }
        if state.bytes_max.is_some() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        apply(&mut state.seen, offset as usize, data);
        state.pending.push(Pending::Write { offset: offset as usize, data: data.to_vec() });
        Ok(())
    }
}
