//! Looks at the host: `/proc` through the kernel's own tables, units through
//! `systemctl` where systemd runs.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use osmoda_kit::process::{self, Spec};
use osmoda_node_api::agentd_system::{Discovered, Found};
use sysinfo::{Disks, Pid, ProcessRefreshKind, ProcessesToUpdate, RefreshKind, System as Host};

use super::{kinds, ports};
use serde_json::{Value, json};

/// Services in one answer, at most. A busy server has some two hundred.
const FOUND_MAX: usize = 1000;

/// Processes in one answer, at most.
pub(super) const PROCESSES_MAX: usize = 1000;

/// Where `systemctl` lies on the systems we know. `PATH` is not searched: a
/// daemon does not run what a folder in an environment variable says.
const SYSTEMCTL: [&str; 3] = ["/run/current-system/sw/bin/systemctl", "/usr/bin/systemctl", "/bin/systemctl"];

/// Exists where systemd is the host's manager (`man 3 sd_booted`).
const SYSTEMD_RUNS: &str = "/run/systemd/system";

/// The list of units takes milliseconds; a manager that hangs is not waited for.
const SYSTEMCTL_TIME_LIMIT: Duration = Duration::from_secs(5);

/// Output of the list: a thousand units of 200 bytes.
const SYSTEMCTL_BYTES_MAX: usize = 256 * 1024;

/// Keeps the processes between two looks, since load is a difference.
#[derive(Debug)]
pub(super) struct Looker {
    host: Host,
}

impl Looker {
    /// Takes the first look, so that the first answer already has loads.
    pub(super) fn new() -> Result<Self, sysinfo::Error> {
        let mut looker = Self { host: Host::new_with_specifics(RefreshKind::nothing())? };
        looker.refresh();
        Ok(looker)
    }

    fn refresh(&mut self) {
        let what = ProcessRefreshKind::nothing().with_cpu().with_memory();
        self.host.refresh_processes_specifics(ProcessesToUpdate::All, true, what);
    }

    /// The processes that use most of what is asked for.
    pub(super) fn processes(&mut self, by_memory: bool, limit: usize) -> Value {
        self.refresh();
        let mut found: Vec<_> = self.host.processes().values().filter(|one| one.thread_kind().is_none()).collect();
        if by_memory {
            found.sort_by_key(|one| (std::cmp::Reverse(one.memory()), one.pid()));
        } else {
            found.sort_by(|a, b| b.cpu_usage().total_cmp(&a.cpu_usage()).then(a.pid().cmp(&b.pid())));
        }
        let rows = found.into_iter().take(limit).map(|one| {
            json!({
                "pid": one.pid().as_u32(),
                "name": one.name().to_string_lossy(),
                "cpu_usage": one.cpu_usage(),
                "memory": one.memory(),
                "status": one.status().to_string(),
                "start_time": one.start_time(),
            })
        });
        rows.collect()
    }

    /// What listens, and the processes behind it where they can be seen.
    pub(super) fn services(&mut self, proc: &Path) -> Discovered {
        self.refresh();
        let mut discovered = Discovered::default();
        let mut sockets = BTreeSet::new();
        // The first process is in the host's network even when this daemon is not.
        let tables = ["1/net", "net"].map(|folder| proc.join(folder));
        let read = |name: &str| tables.iter().find_map(|folder| fs::read_to_string(folder.join(name)).ok());
        for table in ["tcp", "tcp6"] {
            match read(table) {
                Some(text) => sockets.extend(ports::listening(&text)),
                None => discovered.notes.push(format!("the kernel's table {table} cannot be read")),
            }
        }
        let owners = owners(proc);
        // One service often listens on both families, with one socket each.
        let mut by_port: BTreeMap<u16, Option<u32>> = BTreeMap::new();
        for socket in &sockets {
            let owner = by_port.entry(socket.port).or_default();
            *owner = owner.or(owners.get(&socket.inode).copied());
        }
        discovered.total_listening_ports = by_port.len() as u64;
        let hidden = by_port.values().filter(|owner| owner.is_none()).count();
        if hidden > 0 {
            discovered.notes.push(format!("the processes behind {hidden} ports belong to others and are not shown"));
        }
        discovered.found = by_port.into_iter().take(FOUND_MAX).map(|(port, pid)| self.found(proc, port, pid)).collect();
        discovered
    }

    fn found(&self, proc: &Path, port: u16, pid: Option<u32>) -> Found {
        let process = pid.and_then(|pid| self.host.process(Pid::from_u32(pid)));
        let cgroup = pid.and_then(|pid| fs::read_to_string(proc.join(pid.to_string()).join("cgroup")).ok());
        let name = process.map(|process| process.name().to_string_lossy().into_owned());
        let detected_as = name.as_deref().and_then(kinds::kind);
        Found {
            name: name.unwrap_or_else(|| format!("port-{port}")),
            pid,
            port: Some(port),
            protocol: Some("tcp".to_owned()),
            detected_as: detected_as.map(str::to_owned),
            health_url: detected_as.and_then(|kind| kinds::health_url(kind, port)),
            systemd_unit: cgroup.as_deref().and_then(ports::unit),
            memory_bytes: process.map(sysinfo::Process::memory),
            cpu_usage: process.map(sysinfo::Process::cpu_usage),
        }
    }
}

/// The process behind each socket, of those processes this one may look into.
fn owners(proc: &Path) -> HashMap<u64, u32> {
    let mut owners = HashMap::new();
    let Ok(entries) = fs::read_dir(proc) else { return owners };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    for pid in pids {
        let Ok(descriptors) = fs::read_dir(proc.join(pid.to_string()).join("fd")) else { continue };
        for descriptor in descriptors.flatten() {
            let link = fs::read_link(descriptor.path()).unwrap_or_default();
            if let Some(inode) = link.to_str().and_then(ports::socket_inode) {
                owners.insert(inode, pid);
            }
        }
    }
    owners
}

/// The mounted file systems.
pub(super) fn disks() -> Result<Value, sysinfo::Error> {
    let disks = Disks::new_with_refreshed_list()?;
    let rows = disks.iter().map(|disk| {
        let (total, available) = (disk.total_space(), disk.available_space());
        json!({
            "mount_point": disk.mount_point().to_string_lossy(),
            "filesystem": disk.file_system().to_string_lossy(),
            "total": total,
            "used": total.saturating_sub(available),
            "available": available,
        })
    });
    Ok(rows.collect())
}

/// The running services of systemd, or why they are not known.
pub(super) async fn units() -> Result<Vec<String>, String> {
    if !Path::new(SYSTEMD_RUNS).exists() {
        return Err("this host does not run systemd, so there are no units".to_owned());
    }
    let Some(program) = SYSTEMCTL.iter().map(PathBuf::from).find(|path| path.exists()) else {
        return Err("systemctl is not where it is expected, so units are not listed".to_owned());
    };
    let arguments = ["list-units", "--type=service", "--state=running", "--no-legend", "--plain", "--no-pager"];
    let spec = Spec::new(program).args(arguments);
    let spec = spec.time_limit(SYSTEMCTL_TIME_LIMIT).output_bytes_max(SYSTEMCTL_BYTES_MAX);
    match process::run(&spec).await {
        Ok(output) if output.success() => {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let names = text.lines().filter_map(|line| line.split_whitespace().next());
            Ok(names.filter(|name| name.ends_with(".service")).map(str::to_owned).collect())
        }
        Ok(output) if output.timed_out => Err("systemd did not answer in time, so units are not listed".to_owned()),
        Ok(output) => Err(format!("systemd refused to list its units: {}", output.tail(200))),
        Err(error) => Err(format!("units are not listed: {error}")),
    }
}

/// Adds the units that no port led to.
pub(super) fn add_units(discovered: &mut Discovered, units: Result<Vec<String>, String>) {
    let units = match units {
        Ok(units) => units,
        Err(note) => return discovered.notes.push(note),
    };
    discovered.total_systemd_services = units.len() as u64;
    let known: BTreeSet<String> = discovered.found.iter().filter_map(|found| found.systemd_unit.clone()).collect();
    for unit in units.into_iter().filter(|unit| !known.contains(unit)) {
        if discovered.found.len() >= FOUND_MAX {
            discovered.notes.push(format!("only the first {FOUND_MAX} services are shown"));
            return;
        }
        let name = unit.trim_end_matches(".service").to_owned();
        let detected_as = kinds::kind(&name).map(str::to_owned);
        discovered.found.push(Found { name, detected_as, systemd_unit: Some(unit), ..Found::default() });
    }
}
