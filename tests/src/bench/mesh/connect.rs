//! From the first packet to being admitted: the mesh against quinn with TLS 1.3
//! over X25519MLKEM768, both sides authenticated in both.
//!
//! Which primitives the mesh uses is fixed when a program is built, so the quick
//! ones are measured by a second program of the same source that lies beside
//! this one. It takes both sides of its ratio itself and gives them as JSON.

use anyhow::Context as _;

use crate::bench::fleet::say;
use crate::bench::report::{Report, Target};

/// The hidden subcommand of `bench` that measures here and prints [`Taken`].
pub const COMMAND: &str = "mesh-connect";

/// The program with the quick primitives, beside this one.
pub const FAST_PROGRAM: &str = "bench-fast";

/// G3 of `mesh.md`.
const DEFAULT_MAX: f64 = 1.6;
const FAST_MAX: f64 = 1.0;
const DEFAULT_CPU_MAX: f64 = 1.35;
const FAST_CPU_MAX: f64 = 1.0;

/// For the other program: a few hundred connects.
const FAST_TIME_MAX: std::time::Duration = std::time::Duration::from_secs(120);

/// Connects of one side in one round; a loopback connect takes about 1 ms.
#[cfg(feature = "bench-tls")]
const CONNECTS: usize = 25;

/// What both sides took: one median per round, in microseconds.
#[derive(Debug, Clone, Default, serde::Serialize, serde::Deserialize)]
pub struct Taken {
    mesh_us: Vec<f64>,
    mesh_cpu_us: Vec<f64>,
    tls_us: Vec<f64>,
    tls_cpu_us: Vec<f64>,
}

/// Adds the figures that this build can measure and names the others.
pub(super) fn measure(report: &mut Report, rounds: usize) -> anyhow::Result<()> {
    if cfg!(feature = "bench-tls") {
        let own = if cfg!(feature = "fast-crypto") { ("connect_fast", FAST_MAX, FAST_CPU_MAX) } else { usual() };
        add(report, own, &take(rounds)?)?;
    } else {
        report.note("left out: connect against TLS 1.3 (built without the feature bench-tls)");
    }
    if cfg!(feature = "fast-crypto") {
        report.note("left out: connect with the usual primitives (built with the feature fast-crypto)");
        return Ok(());
    }
    let fast = std::env::current_exe()?.with_file_name(FAST_PROGRAM);
    if fast.exists() {
        add(report, ("connect_fast", FAST_MAX, FAST_CPU_MAX), &taken_by(&fast, rounds)?)
    } else {
        report.note(format!("left out: connect with quick primitives (no {})", fast.display()));
        Ok(())
    }
}

fn usual() -> (&'static str, f64, f64) {
    ("connect", DEFAULT_MAX, DEFAULT_CPU_MAX)
}

fn add(report: &mut Report, of: (&str, f64, f64), taken: &Taken) -> anyhow::Result<()> {
    let (name, most, cpu_most) = of;
    let ratios = |above: &[f64], below: &[f64]| above.iter().zip(below).map(|(a, b)| a / b).collect::<Vec<f64>>();
    report.add(format!("{name}_mesh_us"), &taken.mesh_us, None)?;
    report.add(format!("{name}_tls_us"), &taken.tls_us, None)?;
    report.add(format!("{name}_to_tls"), &ratios(&taken.mesh_us, &taken.tls_us), Some(Target::AtMost(most)))?;
    let cpu = ratios(&taken.mesh_cpu_us, &taken.tls_cpu_us);
    report.add(format!("{name}_cpu_to_tls"), &cpu, Some(Target::AtMost(cpu_most)))
}

/// Asks the other program.
fn taken_by(program: &std::path::Path, rounds: usize) -> anyhow::Result<Taken> {
    use osmoda_kit::process::{Spec, run};
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let spec = Spec::new(program).args([COMMAND.to_owned(), rounds.to_string()]).time_limit(FAST_TIME_MAX);
    let output = runtime.block_on(run(&spec))?;
    let line = String::from_utf8_lossy(&output.stdout);
    say(&format!("{}: {}", program.display(), line.trim()));
    serde_json::from_str(line.trim()).with_context(|| format!("{} said no JSON", program.display()))
}

/// Measures both sides here.
///
/// # Errors
/// When the features for it are not built in, or a connect fails.
#[cfg(not(feature = "bench-tls"))]
pub fn take(_rounds: usize) -> anyhow::Result<Taken> {
    anyhow::bail!("built without the feature bench-tls")
}

/// Measures both sides here.
///
/// # Errors
/// When a connect fails.
#[cfg(feature = "bench-tls")]
pub fn take(rounds: usize) -> anyhow::Result<Taken> {
    super::runtime()?.block_on(rounds_of_both(rounds))
}

#[cfg(feature = "bench-tls")]
async fn rounds_of_both(rounds: usize) -> anyhow::Result<Taken> {
    use rustix::time::ClockId;

    use super::ends::{Dialler, End};
    use super::pipe::cpu_s;
    use super::quic::{Exchange, TlsDoor};
    use crate::bench::report::Figure;

    /// The median, and processor time of both ends for each.
    fn of(took: &[f64], cpu: f64) -> anyhow::Result<(f64, f64)> {
        Ok((Figure::of(took, None)?.value, cpu * 1e6 / took.len() as f64))
    }

    let listener = End::start(1, ([127, 0, 0, 1], 0).into())?;
    let mut dialler = Dialler::new(9);
    listener.learn(2, vec![listener.member(vec![]), dialler.member()]).await?;
    let door = TlsDoor::open(&listener.tasks, Exchange::Hybrid)?;
    let to = listener.handle.local_address();
    let mut taken = Taken::default();
    for round in 0..=rounds {
        // A prefix of its own each round: 25 connects are below its limit.
        let endpoint = dialler.endpoint(1, u8::try_from(round)?)?;
        let (mut took, cpu) = (Vec::new(), cpu_s(ClockId::ProcessCPUTime));
        for _ in 0..CONNECTS {
            took.push(dialler.connect(&endpoint, to).await?.as_secs_f64() * 1e6);
        }
        let mesh = of(&took, cpu_s(ClockId::ProcessCPUTime) - cpu)?;
        let (mut took, cpu) = (Vec::new(), cpu_s(ClockId::ProcessCPUTime));
        for _ in 0..CONNECTS {
            took.push(door.connect().await?.as_secs_f64() * 1e6);
        }
        let tls = of(&took, cpu_s(ClockId::ProcessCPUTime) - cpu)?;
        // The first round is for warming up.
        if round > 0 {
            say(&format!("connect {round}/{rounds}: mesh {:.0} us, TLS {:.0} us", mesh.0, tls.0));
            taken.mesh_us.push(mesh.0);
            taken.mesh_cpu_us.push(mesh.1);
            taken.tls_us.push(tls.0);
            taken.tls_cpu_us.push(tls.1);
        }
    }
    listener.stop().await;
    Ok(taken)
}
