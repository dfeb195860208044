//! `bench loss`: eight streams over a road of 50 ms with losses.
//!
//! First one packet at a time is lost on an otherwise perfect road while small
//! messages flow on all streams: streams that the packet held nothing of must
//! not wait for it. Then one packet in a hundred is lost while all streams are
//! full: how much arrives, beside a multiplexer of Noise over the kernel's TCP
//! on the same road. The road is [`crate::shaper`]; TCP meets it through the
//! namespaces of `road.rs`, and without root it is left out and that is said.

mod road;
mod stall;
pub mod streams;

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use osmoda_kit::shutdown::Shutdown;
use osmoda_kit::tasks::Tasks;

use self::road::{Nets, Place};
use self::stall::Effect;
use self::streams::{Streams, mesh, mux, pace, saturate};
use super::fleet::{count_of, say};
use super::mesh::ends::{End, LIMIT};
use super::mesh::noise::{Side, shake};
use super::mesh::runtime;
use super::report::{Report, Target};
use crate::shaper::{Drop, Road, Shaper};

/// Half of the round trip.
const DELAY: Duration = Duration::from_millis(25);
const LOSS: f64 = 0.01;

/// Rounds of both variants in turn.
const ROUNDS: usize = 5;
const ROUNDS_VARIABLE: &str = "OSMODA_BENCH_LOSS_ROUNDS";

/// Single losses watched per variant.
const LOSSES: usize = 20;

/// One message; each stream then delivers every 8 ms, far below a round trip.
const PERIOD: Duration = Duration::from_millis(1);

/// Before anything is counted: the windows have opened.
const WARM_UP: Duration = Duration::from_secs(2);

/// How long full streams are counted.
const WINDOW: Duration = Duration::from_secs(6);

/// Time between two single losses, in round trips: the one before is repaired.
const APART: u32 = 8;

/// What a receiver may wait before it acknowledges (RFC 9000 section 18.2).
const MAX_ACK_DELAY: Duration = Duration::from_millis(25);

/// G10 of `mesh.md`.
const RATE_MIN: f64 = 1.0;

/// One round trip and one probe time-out: later than this, a lost packet has
/// been repaired twice over.
fn stall_limit(delay: Duration) -> Duration {
    let round_trip = 2 * delay;
    round_trip + round_trip + MAX_ACK_DELAY
}

/// quinn's own, so the kernel's TCP is given the same.
const SAME_CONTROL: &str = "cubic";

/// The ways of carrying streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Carrier {
    Mesh,
    /// With the congestion control that the mesh has.
    Tcp,
    /// With that of this machine.
    TcpAsIs,
}

/// Runs the benchmark.
///
/// # Errors
/// When a link does not come up on the road.
pub fn run() -> anyhow::Result<Report> {
    let rounds = count_of(ROUNDS_VARIABLE, ROUNDS)?;
    runtime()?.block_on(async {
        let mut report = Report::new("loss");
        let nets = match Nets::up().await {
            Ok(nets) => Some(nets),
            Err(error) => {
                report.note(format!("left out: everything over TCP ({error:#})"));
                None
            }
        };
        let measured = measure(&mut report, nets.as_ref(), rounds).await;
        if let Some(nets) = nets {
            nets.down().await;
        }
        measured.map(|()| report)
    })
}

async fn measure(report: &mut Report, nets: Option<&Nets>, rounds: usize) -> anyhow::Result<()> {
    report.note(format!(
        "{} streams, round trip {:?}; {LOSSES} single losses, then {rounds} rounds of {WINDOW:?} with {LOSS} lost",
        streams::STREAMS,
        2 * DELAY
    ));
    let limit = stall_limit(DELAY).as_secs_f64() * 1000.0;
    let of_mesh = single_losses(nets, Carrier::Mesh, DELAY, LOSSES).await?;
    add_stalls(report, "mesh", &of_mesh, Some(Target::AtMost(limit)))?;
    if nets.is_some() {
        add_stalls(report, "tcp", &single_losses(nets, Carrier::Tcp, DELAY, LOSSES).await?, None)?;
    }
    let (mut mesh, mut tcp, mut as_is) = (Vec::new(), Vec::new(), Vec::new());
    let control = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control")?;
    report.note(format!("congestion control: {SAME_CONTROL} in mesh and tcp, {} in tcp_as_is", control.trim()));
    for round in 1..=rounds {
        let road = Road { delay: DELAY, loss: LOSS, seed: round as u64 };
        mesh.push(full(nets, Carrier::Mesh, road).await?);
        if nets.is_some() {
            tcp.push(full(nets, Carrier::Tcp, road).await?);
            as_is.push(full(nets, Carrier::TcpAsIs, road).await?);
        }
        let last = [&mesh, &tcp, &as_is].map(|of| of.last().copied());
        say(&format!("loss {round}/{rounds}: mesh, TCP, TCP as it is: {last:.0?} KiB/s"));
    }
    report.add("mesh_kib_per_s", &mesh, None)?;
    if !tcp.is_empty() {
        report.add("tcp_kib_per_s", &tcp, None)?;
        report.add("tcp_as_is_kib_per_s", &as_is, None)?;
        let ratios: Vec<f64> = mesh.iter().zip(&tcp).map(|(mesh, tcp)| mesh / tcp).collect();
        report.add("rate_to_noise_tcp", &ratios, Some(Target::AtLeast(RATE_MIN)))?;
    }
    Ok(())
}

fn add_stalls(report: &mut Report, name: &str, effects: &[Effect], target: Option<Target>) -> anyhow::Result<()> {
    let ms = |of: fn(&Effect) -> Duration| effects.iter().map(|e| of(e).as_secs_f64() * 1000.0).collect::<Vec<f64>>();
    report.add(format!("{name}_hit_stream_gap_ms"), &ms(|effect| effect.worst), None)?;
    report.add(format!("{name}_other_streams_gap_p50_ms"), &ms(|effect| effect.others), None)?;
    report.add_quantile(format!("{name}_other_streams_gap_max_ms"), &ms(|effect| effect.others), 1.0, target)?;
    let silent: Vec<f64> = effects.iter().map(|effect| effect.silent as f64).collect();
    // No other stream of the mesh may wait for the one that was hit.
    let none = target.map(|_| Target::AtMost(0.0));
    report.add(format!("{name}_silent_streams"), &silent, none)
}

/// A link on a road, with its streams.
struct Site {
    tasks: Tasks,
    ends: Vec<End>,
    shaper: Shaper,
    streams: Streams,
}

impl Site {
    async fn open(nets: Option<&Nets>, carrier: Carrier, road: Road) -> anyhow::Result<Self> {
        let tasks = Tasks::new(Shutdown::new());
        match (carrier, nets) {
            (Carrier::Mesh, Some(nets)) => {
                let shaper = nets.shaper(road, &tasks)?;
                let start = |place: Place, seed| nets.inside(place, || End::start(seed, (place.address(), 0).into()));
                let (near, far) = (start(Place::Near, 1)?, start(Place::Far, 2)?);
                let streams = mesh(&near, &far, far.handle.local_address()).await?;
                Ok(Self { tasks, ends: vec![near, far], shaper, streams })
            }
            (Carrier::Mesh, None) => {
                let local = |seed| End::start(seed, SocketAddr::from(([127, 0, 0, 1], 0)));
                let (near, far) = (local(1)?, local(2)?);
                let (shaper, address) = Shaper::to(far.handle.local_address(), road, &tasks)?;
                let streams = mesh(&near, &far, address).await?;
                Ok(Self { tasks, ends: vec![near, far], shaper, streams })
            }
            (Carrier::Tcp | Carrier::TcpAsIs, nets) => {
                let nets = nets.context("TCP needs the networks")?;
                let shaper = nets.shaper(road, &tasks)?;
                let streams = tcp(nets, carrier, &tasks).await?;
                Ok(Self { tasks, ends: Vec::new(), shaper, streams })
            }
        }
    }

    async fn close(self) {
        drop(self.streams.arrivals);
        // The road ends last: the ends say goodbye over it.
        for end in self.ends {
            end.stop().await;
        }
        self.tasks.drain(LIMIT).await;
    }
}

async fn tcp(nets: &Nets, carrier: Carrier, tasks: &Tasks) -> anyhow::Result<Streams> {
    let listener = nets.inside(Place::Far, || Ok(TcpListener::bind((Place::Far.address(), 0))?))?;
    let to = listener.local_addr()?;
    // Waits for the other side on this thread; the road runs on the workers.
    let out = nets.inside(Place::Near, || Ok(TcpStream::connect_timeout(&to, LIMIT)?))?;
    let (incoming, _) = listener.accept()?;
    let ready = |stream: TcpStream| -> anyhow::Result<tokio::net::TcpStream> {
        if carrier == Carrier::Tcp {
            rustix::net::sockopt::set_tcp_congestion(&stream, SAME_CONTROL)?;
        }
        stream.set_nonblocking(true)?;
        Ok(tokio::net::TcpStream::from_std(stream)?)
    };
    let (out, incoming) = (ready(out)?, ready(incoming)?);
    let ((sink, _), (_, source)) = tokio::try_join!(shake(out, Side::Dialler), shake(incoming, Side::Listener))?;
    Ok(mux(sink, source, tasks))
}

/// KiB per second that arrive when all streams are full.
async fn full(nets: Option<&Nets>, carrier: Carrier, road: Road) -> anyhow::Result<f64> {
    let mut site = Site::open(nets, carrier, road).await?;
    let senders = std::mem::replace(&mut site.streams.senders, streams::Senders::Mesh(Vec::new()));
    saturate(senders, &site.tasks);
    let begin = Instant::now() + WARM_UP;
    let mut bytes = 0;
    while let Some(arrival) = tokio::time::timeout(LIMIT, site.streams.arrivals.recv()).await? {
        if arrival.at > begin + WINDOW {
            break;
        }
        if arrival.at >= begin {
            bytes += arrival.bytes;
        }
    }
    let fates = site.shaper.fates();
    ensure!(fates.overflowed == 0, "the road was too short for its packets: {fates:?}");
    tracing::debug!(?carrier, ?fates, "a road");
    site.close().await;
    Ok(bytes as f64 / 1024.0 / WINDOW.as_secs_f64())
}

/// Loses one packet after another and looks at what the streams delivered.
async fn single_losses(
    nets: Option<&Nets>,
    carrier: Carrier,
    delay: Duration,
    losses: usize,
) -> anyhow::Result<Vec<Effect>> {
    let mut site = Site::open(nets, carrier, Road::of(delay)).await?;
    let senders = std::mem::replace(&mut site.streams.senders, streams::Senders::Mesh(Vec::new()));
    pace(senders, PERIOD, &site.tasks);
    let (mut drops, mut arrivals) = (Vec::<Drop>::new(), Vec::new());
    let mut due = Instant::now() + delay * 2 * APART;
    let apart = delay * 2 * APART;
    while drops.len() < losses || Instant::now() < due {
        let arrival = tokio::time::timeout(LIMIT, site.streams.arrivals.recv()).await?;
        arrivals.push(arrival.context("the streams ended")?);
        if drops.len() < losses && Instant::now() >= due {
            let lost = tokio::time::timeout(LIMIT, site.shaper.lose_one()).await?;
            drops.push(lost.context("the road ended")?);
            due = Instant::now() + apart;
        }
    }
    site.close().await;
    let reach = stall_limit(delay);
    let effects = drops.iter().map(|lost| stall::effect(lost, reach, &arrivals).context("too few deliveries"));
    effects.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_packet_holds_up_no_stream_that_it_had_nothing_of() {
        // A long road, so that what a loaded machine adds is small beside it.
        let delay = Duration::from_millis(100);
        let effects = runtime().unwrap().block_on(single_losses(None, Carrier::Mesh, delay, 2)).unwrap();
        for effect in effects {
            assert_eq!(effect.silent, 0, "{effect:?}");
        }
    }

    #[test]
    fn full_streams_cross_a_road_with_losses() {
        let road = Road { delay: Duration::from_millis(5), loss: LOSS, seed: 3 };
        let rate = runtime().unwrap().block_on(full(None, Carrier::Mesh, road)).unwrap();
        assert!(rate > 0.0);
    }
}
