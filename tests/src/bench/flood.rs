//! `bench flood`: an honest member connects while strangers flood the port.
//!
//! One thread sends bad packets to a real endpoint of the mesh at a set rate,
//! first Initials of our version without a knock, the costliest of their kind,
//! then all kinds in turn. Meanwhile a member connects again and again, each
//! time from an address prefix with free places, as it did before the flood.
//!
//! Always holds: the rate that was reached is a figure beside the one that was
//! wanted. Memory is that of the whole process, attacker and member included:
//! an upper bound of the endpoint's. Every byte that comes back to the
//! attacker's socket is counted, and one is too many.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use osmoda_mesh_crypto::QUIC_VERSION;
use rustix::time::ClockId;

use super::fleet::{count_of, say};
use super::mesh::ends::{Dialler, End};
use super::mesh::pipe::cpu_s;
use super::mesh::runtime;
use super::report::{Figure, Report, Target};

/// Length of the flood of Initials; the other kinds get a third of it, as does
/// the quiet time before.
const SECONDS: usize = 30;
const SECONDS_VARIABLE: &str = "OSMODA_BENCH_FLOOD_SECONDS";

/// Wanted, from one core.
const PACKETS_PER_S: usize = 50_000;

/// Between two connects: 20 a second, far below what the listener allows to
/// all, and a prefix is used again after its places are free.
const CONNECT_EVERY: Duration = Duration::from_millis(50);
const PREFIXES: u8 = 8;

/// G5 of `mesh.md`.
const SLOWER_MAX: f64 = 2.0;
const GROWTH_MAX_MIB: f64 = 64.0;

/// The size of a client's first datagram (RFC 9000 section 14.1).
const INITIAL_BYTES: usize = 1200;

/// Packets the attacker may be behind, 20 ms of them: what a busy machine takes
/// from it in one slice is sent late, more is given up.
const ARREARS: usize = PACKETS_PER_S / 50;

/// The attacker's pause, for ten packets to come due: it takes the processor
/// time that sending takes and leaves the rest to the two that are measured.
const BREATH: Duration = Duration::from_micros(200);

/// What a stranger sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A well-formed Initial of our version with a connection id nobody made.
    NoKnock,
    /// A long header of another version.
    WrongVersion,
    /// Random bytes.
    Garbage,
    /// A packet of a connection that does not exist.
    ShortHeader,
    /// The beginning of an Initial.
    Truncated,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 5] = [Kind::NoKnock, Kind::WrongVersion, Kind::Garbage, Kind::ShortHeader, Kind::Truncated];

    /// The packet of this kind with this number; no two are the same connection.
    fn write(self, number: u64, packet: &mut Vec<u8>) {
        let noise = number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes();
        packet.clear();
        match self {
            Kind::NoKnock => initial(QUIC_VERSION, noise, INITIAL_BYTES, packet),
            Kind::WrongVersion => initial(1, noise, INITIAL_BYTES, packet),
            Kind::Truncated => {
                initial(QUIC_VERSION, noise, INITIAL_BYTES, packet);
                packet.truncate(1 + number as usize % 64);
            }
            Kind::Garbage => {
                packet.extend(noise.iter().cycle().take(INITIAL_BYTES));
            }
            Kind::ShortHeader => {
                packet.push(0x40);
                packet.extend(noise.iter().cycle().take(100));
            }
        }
    }
}

/// An Initial whose connection id begins with `noise`.
fn initial(version: u32, noise: [u8; 8], length: usize, packet: &mut Vec<u8>) {
    packet.push(0xc3);
    packet.extend(version.to_be_bytes());
    packet.push(20);
    packet.extend(noise);
    packet.extend([9; 12]);
    packet.push(8);
    packet.extend(noise);
    // No token, then a length that fills the datagram.
    packet.push(0);
    let rest = u16::try_from(length - packet.len() - 2).expect("a first datagram is short");
    packet.extend((0x4000 | rest).to_be_bytes());
    packet.resize(length, 0x55);
}

/// What the attacker did and heard.
#[derive(Debug, Clone, Copy)]
pub struct Attack {
    /// Packets that left.
    pub sent: u64,
    /// How long it took.
    pub took: Duration,
    /// Processor seconds of the attacker.
    pub cpu_s: f64,
    /// Bytes that came back.
    pub answered_bytes: u64,
}

impl Attack {
    fn packets_per_s(&self) -> f64 {
        self.sent as f64 / self.took.as_secs_f64()
    }
}

/// Sends these kinds in turn until `stop`, at most `per_s` a second.
///
/// # Errors
/// When there is no socket.
pub fn attack(to: SocketAddr, kinds: &[Kind], per_s: usize, stop: &AtomicBool) -> anyhow::Result<Attack> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.set_nonblocking(true)?;
    let (mut packet, mut heard) = (Vec::with_capacity(INITIAL_BYTES), [0; 2048]);
    let mut attack = Attack { sent: 0, took: Duration::ZERO, cpu_s: 0.0, answered_bytes: 0 };
    let (began, mut number) = (Instant::now(), 0_u64);
    while !stop.load(Ordering::Relaxed) {
        let due = (began.elapsed().as_secs_f64() * per_s as f64) as u64;
        // Further behind, the machine is slower than the rate, and catching up in
        // one lump would be another attack than the one meant.
        number = number.max(due.saturating_sub(ARREARS as u64));
        while number < due {
            kinds[number as usize % kinds.len()].write(number, &mut packet);
            number += 1;
            match socket.send_to(&packet, to) {
                Ok(_) => attack.sent += 1,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error).context("sending"),
            }
        }
        while let Ok(count) = socket.recv(&mut heard) {
            attack.answered_bytes += count as u64;
        }
        std::thread::park_timeout(BREATH);
    }
    attack.took = began.elapsed();
    attack.cpu_s = cpu_s(ClockId::ThreadCPUTime);
    // Whatever is on its way arrives now.
    socket.set_nonblocking(false)?;
    socket.set_read_timeout(Some(Duration::from_millis(300)))?;
    while let Ok(count) = socket.recv(&mut heard) {
        attack.answered_bytes += count as u64;
    }
    Ok(attack)
}

/// An endpoint under attack and a member that connects to it.
pub struct Scene {
    listener: End,
    dialler: Dialler,
    connects: u64,
}

impl Scene {
    /// Starts both.
    ///
    /// # Errors
    /// When the endpoint cannot be started.
    pub async fn start() -> anyhow::Result<Self> {
        let listener = End::start(1, ([127, 0, 0, 1], 0).into())?;
        let dialler = Dialler::new(9);
        listener.learn(2, vec![listener.member(vec![]), dialler.member()]).await?;
        Ok(Self { listener, dialler, connects: 0 })
    }

    /// Where strangers send to.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.listener.handle.local_address()
    }

    /// One connect of the member, in milliseconds.
    ///
    /// # Errors
    /// When it is not admitted in time.
    pub async fn connect(&mut self) -> anyhow::Result<f64> {
        self.connects += 1;
        let sub = (self.connects % u64::from(PREFIXES)) as u8;
        let endpoint = self.dialler.endpoint(2, sub)?;
        let took = self.dialler.connect(&endpoint, self.address()).await?;
        Ok(took.as_secs_f64() * 1000.0)
    }

    /// Connects for so long, at the written period.
    async fn connects(&mut self, length: Duration) -> anyhow::Result<Vec<f64>> {
        let (began, mut took) = (Instant::now(), Vec::new());
        let mut period = tokio::time::interval(CONNECT_EVERY);
        period.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while began.elapsed() < length {
            period.tick().await;
            took.push(self.connect().await?);
        }
        Ok(took)
    }

    /// The same under attack.
    ///
    /// # Errors
    /// When the attacker has no socket or the member is not admitted.
    pub async fn attacked(
        &mut self,
        kinds: &'static [Kind],
        per_s: usize,
        length: Duration,
    ) -> anyhow::Result<(Vec<f64>, Attack)> {
        let stop = Arc::new(AtomicBool::new(false));
        let (to, told) = (self.address(), stop.clone());
        let attacker = std::thread::spawn(move || attack(to, kinds, per_s, &told));
        let took = self.connects(length).await;
        stop.store(true, Ordering::Relaxed);
        let attack = attacker.join().map_err(|_| anyhow::anyhow!("the attacker panicked"))??;
        Ok((took?, attack))
    }

    /// Ends both.
    pub async fn stop(self) {
        self.listener.stop().await;
    }
}

/// Runs the benchmark.
///
/// # Errors
/// When the endpoint cannot be started or the member is locked out.
pub fn run() -> anyhow::Result<Report> {
    let seconds = count_of(SECONDS_VARIABLE, SECONDS)?;
    runtime()?.block_on(measure(Duration::from_secs(seconds as u64)))
}

async fn measure(length: Duration) -> anyhow::Result<Report> {
    let mut scene = Scene::start().await?;
    let short = length / 3;
    scene.connects(Duration::from_secs(1)).await.context("warming up")?;
    let quiet = scene.connects(short).await.context("before the flood")?;
    let before = resident_mib()?;
    let cpu = cpu_s(ClockId::ProcessCPUTime);
    let (flooded, attack) = scene.attacked(&[Kind::NoKnock], PACKETS_PER_S, length).await.context("under Initials")?;
    // Without the attacker's; the member's connects are in it.
    let endpoint = cpu_s(ClockId::ProcessCPUTime) - cpu - attack.cpu_s;
    let (mixed, all) = scene.attacked(&Kind::ALL, PACKETS_PER_S, short).await.context("under all kinds")?;
    let growth = resident_mib()? - before;
    scene.stop().await;
    say(&format!("Initials: {attack:?}; all kinds: {all:?}"));

    let mut report = Report::new("flood");
    report.note(format!(
        "{length:?} of Initials without a knock, {short:?} of all kinds, one sending thread; wanted {PACKETS_PER_S}/s"
    ));
    report.note(format!("{} connects before, {} and {} under attack", quiet.len(), flooded.len(), mixed.len()));
    let idle = Figure::quantile(&quiet, 0.99, None)?.value;
    report.add("initials_sent_per_s", &[attack.packets_per_s()], Some(Target::AtLeast(0.98 * PACKETS_PER_S as f64)))?;
    report.add("endpoint_cpu_us_per_packet", &[endpoint * 1e6 / attack.sent as f64], None)?;
    report.add("mixed_sent_per_s", &[all.packets_per_s()], None)?;
    report.add_quantile("idle_connect_p99_ms", &quiet, 0.99, None)?;
    report.add_quantile("flood_connect_p50_ms", &flooded, 0.5, None)?;
    report.add_quantile("flood_connect_p99_ms", &flooded, 0.99, Some(Target::AtMost(SLOWER_MAX * idle)))?;
    report.add_quantile("mixed_connect_p99_ms", &mixed, 0.99, Some(Target::AtMost(SLOWER_MAX * idle)))?;
    report.add("memory_growth_mib", &[growth], Some(Target::AtMost(GROWTH_MAX_MIB)))?;
    let answered = attack.answered_bytes + all.answered_bytes;
    report.add("answered_bytes", &[answered as f64], Some(Target::AtMost(0.0)))?;
    Ok(report)
}

/// What this process holds in memory.
fn resident_mib() -> anyhow::Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("the kernel counts memory")?;
    let kib: f64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_hear_nothing_and_a_member_still_gets_in() {
        runtime().unwrap().block_on(async {
            let mut scene = Scene::start().await.unwrap();
            scene.connect().await.unwrap();
            // What an unoptimised endpoint on a loaded machine still reads.
            let per_s = PACKETS_PER_S / 25;
            let (took, attack) = scene.attacked(&Kind::ALL, per_s, Duration::from_millis(400)).await.unwrap();
            assert!(!took.is_empty());
            assert!(attack.sent > 100, "{attack:?}");
            assert_eq!(attack.answered_bytes, 0);
            scene.connect().await.unwrap();
            scene.stop().await;
        });
    }
}
