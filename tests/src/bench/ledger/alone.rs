//! One at a time and alone: what the writer does without a socket, what one append
//! costs beside a raw commit of SQLite, with and without the socket, how fast a
//! million rows are verified, how large and how quick a proof is.

use std::convert::Infallible;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use futures_util::stream::{FuturesUnordered, StreamExt};
use osmoda_agentd::checkpoint::{Prover, TILES_FOLDER, TileFolder};
use osmoda_agentd::ledger::file::{FILE_NAME, LedgerFile};
use osmoda_agentd::ledger::payload::Payload;
use osmoda_agentd::ledger::{Ledger, LedgerThreads, NewRow, Synchronous, WriterOptions};
use osmoda_kit::clock::SystemClock;
use osmoda_ledger::record::{ChainHash, Row};
use osmoda_ledger::tree::{Frontier, HASH_BYTES, HashSource, Node, TreeHash, inclusion, verify_inclusion};
use osmoda_ledger::walk::Threads;
use osmoda_node_api::agentd::AppendRequest;
use rusqlite::Connection;

use super::super::report::{Report, Target};
use super::{BODY, Mode, ROUNDS, Server, is_whole, request, witnessed};

/// Rows of a full commit.
const BATCH: usize = 256;

/// Appends that wait at once: the next batch is there when one is committed, as
/// the next row is with one commit per append. With a single batch the writer would
/// wait for its load between two commits, and only where commits are gathered.
const WAITING: usize = 2 * BATCH;

/// What is counted of each side in each round.
const WINDOW: Duration = Duration::from_millis(700);

/// Lone commits of each side in each round.
const COMMITS: usize = 400;

/// Rows of the ledger that is verified and proven.
const ROWS: usize = 1_000_000;

/// Rows hashed in memory in each round.
const HASHED: usize = 300_000;

/// The size whose proof is computed, as Crosby and Wallach had (2009).
const LARGE: u64 = 80_000_000;

/// Targets of issue 4 ("Show").
const ALONE_OVER_SINGLE_MIN: f64 = 30.0;
const LONE_OVER_RAW_MAX: f64 = 1.2;
const VERIFY_S_MAX: f64 = 2.0;
const VERIFY_OVER_HASHING_MIN: f64 = 0.5;
const PROOF_BYTES_MAX: f64 = 1024.0;

/// Runs this part alone.
///
/// # Errors
/// As [`super::run`].
pub fn run_alone() -> anyhow::Result<Report> {
    let mut report = Report::new("ledger-alone");
    let here = std::env::current_exe()?.parent().context("the program lies in a folder")?.to_owned();
    run(&here, &mut report)?;
    Ok(report)
}

/// Adds everything to the report.
pub(super) fn run(here: &Path, report: &mut Report) -> anyhow::Result<()> {
    let body: AppendRequest = serde_json::from_str(BODY)?;
    let row = NewRow::new(body.kind.clone(), "watch".to_owned(), Payload::new(&body.payload)?)?;
    writer(here, &row, report)?;
    lone(here, &row, report)?;
    witnessed::run(here, &row, report)?;
    verify_and_prove(here, &row, report)
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

fn open(dir: &Path, options: WriterOptions) -> anyhow::Result<(Ledger, LedgerThreads)> {
    let (ledger, threads, _) = Ledger::open(&dir.join(FILE_NAME), options, SystemClock::shared())?;
    Ok((ledger, threads))
}

/// Appends per second while so many of them wait all the time.
async fn rate(ledger: &Ledger, row: &NewRow, waiting: usize) -> anyhow::Result<f64> {
    let mut under_way: FuturesUnordered<_> = (0..waiting).map(|_| ledger.append(row.clone())).collect();
    let (begin, mut count) = (Instant::now(), 0_usize);
    while begin.elapsed() < WINDOW {
        under_way.next().await.context("an append is always under way")??;
        under_way.push(ledger.append(row.clone()));
        count += 1;
    }
    let rate = count as f64 / begin.elapsed().as_secs_f64();
    while let Some(appended) = under_way.next().await {
        appended?;
    }
    Ok(rate)
}

fn writer(here: &Path, row: &NewRow, report: &mut Report) -> anyhow::Result<()> {
    let (mut group, mut single, mut ratio) = (Vec::new(), Vec::new(), Vec::new());
    let runtime = runtime()?;
    for _ in 0..ROUNDS {
        let mut rates = [0.0; 2];
        for (rate, options) in rates.iter_mut().zip([WriterOptions::default(), WriterOptions::one_commit_per_append()])
        {
            let dir = tempfile::Builder::new().prefix("osmb").tempdir_in(here)?;
            let (ledger, threads) = open(dir.path(), options)?;
            *rate = runtime.block_on(self::rate(&ledger, row, WAITING))?;
            threads.close()?;
        }
        group.push(rates[0]);
        single.push(rates[1]);
        ratio.push(rates[0] / rates[1]);
    }
    report.add("writer_256_per_s", &group, None)?;
    report.add("writer_one_per_commit_per_s", &single, None)?;
    report.add("writer_over_one_per_commit_256", &ratio, Some(Target::AtLeast(ALONE_OVER_SINGLE_MIN)))?;
    Ok(())
}

/// One append at a time, by the handle and over the socket, against one commit of
/// plain SQLite at a time, in turns.
fn lone(here: &Path, row: &NewRow, report: &mut Report) -> anyhow::Result<()> {
    let [mut ours, mut sockets, mut raws, mut ratio, mut socket_ratio] = [const { Vec::new() }; 5];
    let runtime = runtime()?;
    for _ in 0..ROUNDS {
        let [one, two] = [(); 2].map(|()| tempfile::Builder::new().prefix("osmb").tempdir_in(here));
        let (one, two) = (one?, two?);
        let (ledger, threads) = open(one.path(), WriterOptions::default())?;
        let server = Server::start(two.path(), Mode::Group)?;
        let raw = raw(&one.path().join("raw.db"))?;
        let mut client = Client::connect(&server)?;
        let [mut own, mut socket, mut other] = [const { Vec::new() }; 3];
        for n in 0..COMMITS {
            own.push(millis(|| Ok(runtime.block_on(ledger.append(row.clone())).map(drop)?))?);
            socket.push(millis(|| client.append())?);
            let insert = || raw.execute("INSERT INTO events (body) VALUES (?1)", [format!("{n} {BODY} {BODY}")]);
            other.push(millis(|| Ok(insert().map(drop)?))?);
        }
        drop(client);
        server.stop()?;
        threads.close()?;
        let (own, socket, other) = (median(&mut own), median(&mut socket), median(&mut other));
        ours.push(own);
        sockets.push(socket);
        raws.push(other);
        ratio.push(own / other);
        socket_ratio.push(socket / other);
    }
    report.add("lone_append_p50_ms", &ours, None)?;
    report.add("lone_append_over_socket_p50_ms", &sockets, None)?;
    report.add("raw_sqlite_commit_p50_ms", &raws, None)?;
    report.add("lone_append_over_raw_commit", &ratio, Some(Target::AtMost(LONE_OVER_RAW_MAX)))?;
    report.add("lone_socket_append_over_raw_commit", &socket_ratio, Some(Target::AtMost(LONE_OVER_RAW_MAX)))?;
    Ok(())
}

/// A client that blocks, as a commit of SQLite does: what is measured is the server.
struct Client {
    stream: UnixStream,
    request: Vec<u8>,
    answer: Vec<u8>,
}

impl Client {
    fn connect(server: &Server) -> anyhow::Result<Self> {
        let stream = UnixStream::connect(&server.socket)?;
        Ok(Self { stream, request: request(&server.token), answer: Vec::with_capacity(1024) })
    }

    /// One append, to its whole answer.
    fn append(&mut self) -> anyhow::Result<()> {
        self.stream.write_all(&self.request)?;
        self.answer.clear();
        let mut part = [0; 1024];
        while !is_whole(&self.answer)? {
            let count = self.stream.read(&mut part)?;
            anyhow::ensure!(count > 0, "the server closed a connection");
            self.answer.extend_from_slice(&part[..count]);
        }
        Ok(())
    }
}

fn millis(work: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<f64> {
    let begin = Instant::now();
    work()?;
    Ok(begin.elapsed().as_secs_f64() * 1e3)
}

/// A plain table with the ledger's settings and as many bytes a row.
fn raw(path: &Path) -> anyhow::Result<Connection> {
    let raw = Connection::open(path)?;
    raw.pragma_update(None, "journal_mode", "WAL")?;
    raw.pragma_update(None, "synchronous", "FULL")?;
    raw.execute_batch("CREATE TABLE events (id INTEGER PRIMARY KEY AUTOINCREMENT, body TEXT NOT NULL)")?;
    Ok(raw)
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn verify_and_prove(here: &Path, row: &NewRow, report: &mut Report) -> anyhow::Result<()> {
    let dir = tempfile::Builder::new().prefix("osmb").tempdir_in(here)?;
    let options = WriterOptions { synchronous: Synchronous::Off, ..WriterOptions::default() };
    let (ledger, threads) = open(dir.path(), options)?;
    let runtime = runtime()?;
    let fill = async {
        for _ in 0..ROWS.div_ceil(BATCH * 4) {
            futures_util::future::try_join_all((0..BATCH * 4).map(|_| ledger.append(row.clone()))).await?;
        }
        anyhow::Ok(ledger.state())
    };
    let state = runtime.block_on(fill)?;
    threads.close()?;
    let path = dir.path().join(FILE_NAME);
    let [mut seconds, mut rates, mut hashing, mut ratio, mut alone] = [const { Vec::new() }; 5];
    for _ in 0..ROUNDS {
        let pure = pure_hashing();
        let two = verify_rate(&path, Threads::Two, state.head.size)?;
        let one = verify_rate(&path, Threads::One, state.head.size)?;
        seconds.push(ROWS as f64 / two);
        rates.push(two);
        hashing.push(pure);
        ratio.push(two / pure);
        alone.push(one / pure);
    }
    report.note(
        "pure hashing: chain hash, leaf and tree over records in memory, on one thread; verifying reads the file \
         and checks everything, on two threads (one reads and judges, both hash), beside it on one",
    );
    report.add("verify_rows_per_s", &rates, None)?;
    report.add("pure_hashing_rows_per_s", &hashing, None)?;
    report.add("verify_1m_s", &seconds, Some(Target::AtMost(VERIFY_S_MAX)))?;
    report.add("verify_over_pure_hashing", &ratio, Some(Target::AtLeast(VERIFY_OVER_HASHING_MIN)))?;
    report.add("verify_on_one_thread_over_pure_hashing", &alone, None)?;
    let file = LedgerFile::open(&path)?;
    prove(dir.path(), file, state.head.size, state.root, report)
}

/// Rows per second of a whole verification.
fn verify_rate(path: &Path, threads: Threads, rows: u64) -> anyhow::Result<f64> {
    let file = LedgerFile::open(path)?.on(threads);
    let begin = Instant::now();
    let checked = file.verify(|_| {})?;
    let took = begin.elapsed().as_secs_f64();
    anyhow::ensure!(checked.is_intact() && checked.total == rows, "the ledger made here is broken");
    Ok(rows as f64 / took)
}

/// Chain and tree over records like those of the file, in memory.
fn pure_hashing() -> f64 {
    let payload = BODY.get(BODY.find(r#"{"attempt"#).unwrap_or(0)..BODY.len() - 1).unwrap_or(BODY);
    let (mut prev, mut tree, mut record) = (ChainHash::GENESIS, Frontier::new(), Vec::new());
    let begin = Instant::now();
    for n in 0..HASHED {
        let row = Row {
            id: 500_000 + n as i64,
            ts: b"2026-01-02T03:04:05.678Z",
            kind: b"watch.activate.intent",
            actor: b"watch",
            payload: payload.as_bytes(),
            prev_hash: prev.as_bytes(),
            hash: b"",
        };
        row.record_into(&mut record);
        prev = ChainHash::of_record(&record);
        tree.append(TreeHash::of_leaf(&record));
    }
    HASHED as f64 / begin.elapsed().as_secs_f64()
}

fn prove(dir: &Path, file: LedgerFile, size: u64, root: TreeHash, report: &mut Report) -> anyhow::Result<()> {
    let mut prover = Prover::new(file, TileFolder::new(dir.join(TILES_FOLDER)));
    prover.advance(size)?;
    let (mut millis, mut bytes) = (Vec::new(), Vec::new());
    for n in 0..200 {
        let id = 1 + n * (size - 1) / 199;
        let begin = Instant::now();
        let proof = prover.inclusion(id, size)?;
        millis.push(begin.elapsed().as_secs_f64() * 1e3);
        verify_inclusion(proof.leaf, id - 1, size, &proof.hashes, root).context("a proof that does not hold")?;
        bytes.push((proof.hashes.len() * HASH_BYTES) as f64);
    }
    report.add("inclusion_proof_1m_ms", &millis, None)?;
    report.add("inclusion_proof_1m_bytes", &bytes, Some(Target::AtMost(PROOF_BYTES_MAX)))?;
    let hashes = inclusion(&mut Nothing, LARGE / 3, LARGE)?;
    let computed = (hashes.len() * HASH_BYTES) as f64;
    report.add("inclusion_proof_80m_bytes_computed", &[computed], Some(Target::AtMost(PROOF_BYTES_MAX)))?;
    Ok(())
}

/// Any hash for any node: only the number of hashes is asked for.
struct Nothing;

impl HashSource for Nothing {
    type Error = Infallible;

    fn hash(&mut self, _: Node) -> Result<TreeHash, Infallible> {
        Ok(TreeHash::of_nothing())
    }
}
