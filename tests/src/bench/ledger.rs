//! `bench ledger`: durable appends over the socket; `alone` has what the ledger
//! does without one.
//!
//! Four servers, alike but for one setting: the daemon's own (group commit,
//! fsync), the same with the index for searches behind it, one commit per append
//! (fsync), and group commit without fsync. Each
//! answers the same request over the same socket server, caller table and token
//! check that the daemon has. Rounds are interleaved, so that a slow minute of
//! the machine hits all three; ratios are taken within a round.

pub mod alone;
mod witnessed;

use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use futures_util::stream::{FuturesUnordered, StreamExt};
use osmoda_agentd::Agentd;
use osmoda_agentd::api::Api;
use osmoda_agentd::ledger::file::FILE_NAME;
use osmoda_agentd::ledger::{Ledger, LedgerCounts, LedgerThreads, Synchronous, WriterOptions};
use osmoda_agentd::memory::Memory;
use osmoda_kit::boot::{self, Daemon as _};
use osmoda_kit::clock::SystemClock;
use osmoda_kit::http::{Allowed, CallerTable, Callers, DaemonUser, Row, TOKEN_HEADER, TokenFile, serve_unix};
use osmoda_kit::shutdown::{Shutdown, StopReason};
use osmoda_kit::tasks::Tasks;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

use super::report::{Report, Target};

/// Rounds; the median of five survives two disturbed ones.
const ROUNDS: usize = 5;

/// Clients that append at the same time.
const CLIENTS: [usize; 3] = [1, 32, 256];

/// Before the window: connections open, caches warm, the first WAL grown.
const WARM_UP: Duration = Duration::from_millis(300);

/// What is counted: long enough for thousands of commits.
const WINDOW: Duration = Duration::from_millis(1000);

/// Targets of issue 2 ("Show").
const GROUP_OVER_SINGLE_MIN: f64 = 8.0;
const GROUP_OVER_UNSYNCED_MIN: f64 = 0.5;
/// And of issue 4.
const SEARCH_OVER_GROUP_MIN: f64 = 0.9;
const SYNCS_PER_APPEND_MAX: f64 = 0.05;

const TABLE: CallerTable = CallerTable {
    daemons: &[DaemonUser { name: "agentd", user: "osmoda-agentd" }, DaemonUser { name: "watch", user: "root" }],
    rows: &[Row { method: "POST", path: "/ledger/append", allowed: &[Allowed::AnyDaemon] }],
};

/// A typical intent: 215 bytes of payload.
const BODY: &str = r#"{"type":"watch.activate.intent","payload":{"attempt":8589934592,"baseline":"/nix/store/7q1k0d9m2c4f6h8j0l2n4p6r8t0v2x4z-nixos-system-web-1","rollout":"0198c1d2-7a7b-7c7d-8e8f-000102030405","target":"/nix/store/0a1b2c3d4e5f6g7h8i9j0k1l2m3n4o5p-nixos-system-web-1"}}"#;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Group,
    Search,
    Single,
    Unsynced,
}

impl Mode {
    const ALL: [Mode; 4] = [Mode::Group, Mode::Search, Mode::Single, Mode::Unsynced];

    const fn name(self) -> &'static str {
        match self {
            Mode::Group => "group",
            Mode::Search => "group_search",
            Mode::Single => "one_per_commit",
            Mode::Unsynced => "group_unsynced",
        }
    }

    fn options(self) -> WriterOptions {
        match self {
            Mode::Group | Mode::Search => WriterOptions::default(),
            Mode::Single => WriterOptions::one_commit_per_append(),
            Mode::Unsynced => WriterOptions { synchronous: Synchronous::Off, ..WriterOptions::default() },
        }
    }
}

/// What one server did in one window.
#[derive(Debug, Clone, Copy)]
struct Sample {
    mode: Mode,
    clients: usize,
    round: usize,
    appends_per_s: f64,
    syncs_per_append: f64,
    cpu_us_per_append: f64,
    p50_ms: f64,
    p99_ms: f64,
}

/// Runs the benchmark.
///
/// # Errors
/// When a server cannot be started or an append is refused: then there is
/// nothing to report.
pub fn run() -> anyhow::Result<Report> {
    let mut samples = Vec::new();
    let here = std::env::current_exe()?.parent().context("the program lies in a folder")?.to_owned();
    let sync_us = probe_disk(&here)?;
    for round in 0..ROUNDS {
        for clients in CLIENTS {
            for mode in Mode::ALL {
                let sample = measure(&here, mode, clients, round)?;
                writeln!(
                    std::io::stderr(),
                    "round {} of {ROUNDS}: {:3} clients, {:14} {:9.0} appends/s, {:.4} syncs/append, {:5.1} cpu us/append",
                    round + 1,
                    clients,
                    mode.name(),
                    sample.appends_per_s,
                    sample.syncs_per_append,
                    sample.cpu_us_per_append
                )?;
                samples.push(sample);
            }
        }
    }
    report(&here, &samples, &sync_us)
}

fn report(here: &Path, samples: &[Sample], sync_us: &[f64]) -> anyhow::Result<Report> {
    let mut report = Report::new("ledger");
    report.note(format!(
        "{ROUNDS} interleaved rounds of {WINDOW:?}; body {} bytes; keep-alive connections; {} cores",
        BODY.len(),
        std::thread::available_parallelism()?
    ));
    let of = |mode: Mode, clients: usize, value: fn(&Sample) -> f64| -> Vec<f64> {
        samples.iter().filter(|s| s.mode == mode && s.clients == clients).map(value).collect()
    };
    for clients in CLIENTS {
        for mode in Mode::ALL {
            report.add(format!("{}_{clients}_per_s", mode.name()), &of(mode, clients, |s| s.appends_per_s), None)?;
        }
        report.add(
            format!("group_{clients}_cpu_us_per_append"),
            &of(Mode::Group, clients, |s| s.cpu_us_per_append),
            None,
        )?;
        report.add(format!("group_{clients}_p50_ms"), &of(Mode::Group, clients, |s| s.p50_ms), None)?;
        report.add(format!("group_{clients}_p99_ms"), &of(Mode::Group, clients, |s| s.p99_ms), None)?;
        let is_judged = clients == 256;
        let over = |other| ratios(samples, clients, Mode::Group, other);
        report.add(
            format!("search_over_group_{clients}"),
            &ratios(samples, clients, Mode::Search, Mode::Group),
            is_judged.then_some(Target::AtLeast(SEARCH_OVER_GROUP_MIN)),
        )?;
        report.add(
            format!("group_over_one_per_commit_{clients}"),
            &over(Mode::Single),
            is_judged.then_some(Target::AtLeast(GROUP_OVER_SINGLE_MIN)),
        )?;
        report.add(
            format!("group_over_unsynced_{clients}"),
            &over(Mode::Unsynced),
            is_judged.then_some(Target::AtLeast(GROUP_OVER_UNSYNCED_MIN)),
        )?;
        report.add(
            format!("fsyncs_per_append_{clients}"),
            &of(Mode::Group, clients, |s| s.syncs_per_append),
            is_judged.then_some(Target::AtMost(SYNCS_PER_APPEND_MAX)),
        )?;
    }
    alone::run(here, &mut report)?;
    report.add("disk_fdatasync_us", sync_us, None)?;
    Ok(report)
}

/// One server against another, round by round.
fn ratios(samples: &[Sample], clients: usize, one: Mode, other: Mode) -> Vec<f64> {
    let rate = |mode: Mode, round: usize| {
        samples.iter().find(|s| s.mode == mode && s.clients == clients && s.round == round).map(|s| s.appends_per_s)
    };
    (0..ROUNDS).filter_map(|round| Some(rate(one, round)? / rate(other, round)?)).collect()
}

fn measure(here: &Path, mode: Mode, clients: usize, round: usize) -> anyhow::Result<Sample> {
    let dir = tempfile::Builder::new().prefix("osmb").tempdir_in(here)?;
    let server = Server::start(dir.path(), mode)?;
    // One thread drives all clients, so that the server keeps most of the machine.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let load = runtime.block_on(drive(&server, clients))?;
    server.stop()?;
    let appends = (load.after.appends - load.before.appends) as f64;
    let syncs = (load.after.syncs - load.before.syncs) as f64;
    let mut latencies = load.latencies;
    latencies.sort();
    let quantile = |q: f64| {
        let at = ((latencies.len() as f64 * q) as usize).min(latencies.len().saturating_sub(1));
        latencies.get(at).map_or(f64::NAN, |latency| latency.as_secs_f64() * 1000.0)
    };
    Ok(Sample {
        mode,
        clients,
        round,
        appends_per_s: appends / load.took.as_secs_f64(),
        syncs_per_append: syncs / appends,
        cpu_us_per_append: load.cpu.as_secs_f64() * 1e6 / appends,
        p50_ms: quantile(0.5),
        p99_ms: quantile(0.99),
    })
}

struct Load {
    before: LedgerCounts,
    after: LedgerCounts,
    took: Duration,
    cpu: Duration,
    latencies: Vec<Duration>,
}

async fn drive(server: &Server, clients: usize) -> anyhow::Result<Load> {
    let begin = Instant::now();
    let (open, close) = (begin + WARM_UP, begin + WARM_UP + WINDOW);
    let request = Arc::new(request(&server.token));
    let mut running: FuturesUnordered<_> =
        (0..clients).map(|_| client(&server.socket, Arc::clone(&request), open, close)).collect();
    let mut before = None;
    let mut latencies = Vec::new();
    let opening = tokio::time::sleep_until(open.into());
    tokio::pin!(opening);
    loop {
        tokio::select! {
            // Cancel-safe: the timer keeps its deadline.
            () = &mut opening, if before.is_none() => {
                before = Some((server.ledger.counts(), Instant::now(), cpu_time()?));
            }
            // Cancel-safe: an unfinished client stays in the set.
            ended = running.next() => match ended {
                Some(client) => latencies.extend(client?),
                None => break,
            },
        }
    }
    let (before, since, cpu) = before.context("clients ended before the window opened")?;
    let cpu = cpu_time()?.saturating_sub(cpu);
    Ok(Load { before, after: server.ledger.counts(), took: since.elapsed(), cpu, latencies })
}

/// Processor time of this process so far, server and clients together, in the
/// kernel's ticks of 10 ms.
fn cpu_time() -> anyhow::Result<Duration> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let (_, after_name) = stat.rsplit_once(')').context("a name in /proc/self/stat")?;
    let ticks: u64 = after_name.split_whitespace().skip(11).take(2).map(|n| n.parse::<u64>().unwrap_or(0)).sum();
    Ok(Duration::from_millis(ticks * 10))
}

/// One client: a keep-alive connection, one append at a time.
async fn client(socket: &Path, request: Arc<Vec<u8>>, open: Instant, close: Instant) -> anyhow::Result<Vec<Duration>> {
    let mut client = Client { stream: UnixStream::connect(socket).await?, request, answer: Vec::with_capacity(1024) };
    let mut latencies = Vec::new();
    loop {
        let begin = Instant::now();
        if begin >= close {
            return Ok(latencies);
        }
        client.append().await?;
        if begin >= open {
            latencies.push(begin.elapsed());
        }
    }
}

struct Client {
    stream: UnixStream,
    request: Arc<Vec<u8>>,
    answer: Vec<u8>,
}

impl Client {
    /// One append, to its whole answer.
    async fn append(&mut self) -> anyhow::Result<()> {
        self.stream.write_all(&self.request).await?;
        self.answer.clear();
        while !is_whole(&self.answer)? {
            anyhow::ensure!(self.stream.read_buf(&mut self.answer).await? > 0, "the server closed a connection");
        }
        Ok(())
    }
}

fn request(token: &str) -> Vec<u8> {
    format!(
        "POST /ledger/append HTTP/1.1\r\nhost: localhost\r\n{TOKEN_HEADER}: {token}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{BODY}",
        BODY.len()
    )
    .into_bytes()
}

/// Whether the answer is complete; an error unless it is a success.
fn is_whole(answer: &[u8]) -> anyhow::Result<bool> {
    let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(false) };
    let head = std::str::from_utf8(&answer[..end])?.to_ascii_lowercase();
    anyhow::ensure!(head.starts_with("http/1.1 200 "), "an append was refused: {}", String::from_utf8_lossy(answer));
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).context("no content-length")?;
    Ok(answer.len() >= end + 4 + length.trim().parse::<usize>()?)
}

/// The socket server and the ledger behind it, on threads of their own.
struct Server {
    runtime: tokio::runtime::Runtime,
    tasks: Tasks,
    ledger: Ledger,
    threads: LedgerThreads,
    socket: std::path::PathBuf,
    token: String,
}

impl Server {
    fn start(dir: &Path, mode: Mode) -> anyhow::Result<Self> {
        let path = dir.join(FILE_NAME);
        let (ledger, threads, _) = Ledger::open(&path, mode.options(), SystemClock::shared())?;
        let runtime = boot::runtime(Agentd::NAME, Agentd::WORKERS)?;
        let tasks = Tasks::new(Shutdown::new());
        let tokens = TokenFile::mint(TABLE.daemons);
        let (_, file) = tokens.into_iter().find(|(name, _)| *name == "watch").context("a daemon of the table")?;
        let own_uid = rustix::process::geteuid().as_raw();
        let callers = Arc::new(Callers::by_tokens(TABLE, own_uid, file.peers(TABLE.daemons)?));
        let socket = dir.join("agentd.sock");
        {
            let _inside = runtime.enter();
            if mode == Mode::Search {
                Memory::start(ledger.clone(), &path, &tasks)?;
            }
            let router = Api::new(ledger.clone(), tasks.clone())?.router();
            serve_unix(&tasks, "agentd", UnixListener::bind(&socket)?, router, callers);
        }
        Ok(Self { runtime, tasks, ledger, threads, socket, token: file.own })
    }

    fn stop(self) -> anyhow::Result<()> {
        self.tasks.shutdown().request(StopReason::Asked("end of window".to_owned()));
        let report = self.runtime.block_on(self.tasks.drain(Duration::from_secs(10)));
        anyhow::ensure!(report.is_graceful(), "late tasks: {:?}", report.late);
        self.threads.close()?;
        Ok(())
    }
}

/// Microseconds of one 4 KiB append and fdatasync, in the folder of the
/// databases: what every synced commit pays at least.
pub(super) fn probe_disk(here: &Path) -> anyhow::Result<Vec<f64>> {
    let file = tempfile::tempfile_in(here)?;
    let block = [7_u8; 4096];
    let mut micros = Vec::new();
    for n in 0..200_u64 {
        let begin = Instant::now();
        file.write_all_at(&block, n * 4096)?;
        file.sync_data()?;
        micros.push(begin.elapsed().as_secs_f64() * 1e6);
    }
    Ok(micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_whole_when_its_body_is() {
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";
        assert!(is_whole(answer).unwrap());
        assert!(!is_whole(&answer[..answer.len() - 1]).unwrap());
        assert!(!is_whole(b"HTTP/1.1 200 OK\r\n").unwrap());
        assert!(is_whole(b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n").is_err());
    }
}
