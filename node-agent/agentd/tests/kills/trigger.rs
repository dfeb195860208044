//! Kills a process in the middle of a write: counts what the kernel says is
//! written to one file and kills at the n-th write.

use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Child;
use std::thread::JoinHandle;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{CreateFlags, Reader, WatchFlags, add_watch, init};
use rustix::process::{Pid, Signal, kill_process};

use crate::process::LIMIT;

/// Waits for writes on a thread of its own.
pub(crate) struct Trigger(JoinHandle<()>);

impl Trigger {
    /// Kills the child when the file `name` in `folder` was written `writes` times.
    pub(crate) fn set(child: &Child, folder: &Path, name: &'static str, writes: usize) -> Self {
        let watch = init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).unwrap();
        add_watch(&watch, folder, WatchFlags::MODIFY | WatchFlags::CREATE).unwrap();
        let pid = Pid::from_child(child);
        Self(std::thread::spawn(move || {
            let seen = count(&watch, name, writes);
            // Killed whatever was seen: the clients go on until it is gone.
            kill_process(pid, Signal::KILL).unwrap();
            assert_eq!(seen, writes, "writes to {name} in time");
        }))
    }

    /// Waits until the kill was sent.
    pub(crate) fn join(self) {
        self.0.join().unwrap();
    }
}

fn count(watch: &OwnedFd, name: &str, writes: usize) -> usize {
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut events = Reader::new(watch, &mut buffer);
    let (begin, mut seen) = (Instant::now(), 0);
    while seen < writes && begin.elapsed() < LIMIT {
        let limit = Timespec { tv_sec: 1, tv_nsec: 0 };
        poll(&mut [PollFd::new(watch, PollFlags::IN)], Some(&limit)).unwrap();
        while seen < writes {
            match events.next() {
                Ok(event) => {
                    let is_it = event.file_name().is_some_and(|found| found.to_bytes() == name.as_bytes());
                    seen += usize::from(is_it);
                }
                Err(rustix::io::Errno::WOULDBLOCK) => break,
                Err(error) => panic!("{error}"),
            }
        }
    }
    seen
}
