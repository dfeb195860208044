//! Mini-NixOS: toplevels that a test can build offline in milliseconds.
//!
//! A toplevel is a folder with units and the program
//! `bin/switch-to-configuration`, which treats the host as NixOS would: it links
//! units, reloads, stops and starts what changed, takes the same lock and ends
//! with the same exit codes. Built, signed and copied to the cache by a builder
//! that has a store of its own; hosts fetch from the cache and trust only the
//! fleet key.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use osmoda_kit::process::{self, Spec};

use super::cell::CellSpec;
use super::command::STEP_TIME_MAX;

/// What `bin/switch-to-configuration` of every toplevel is.
const SWITCH: &str = include_str!("switch-to-configuration.sh");

/// The recipe: copies a prepared folder into the store.
const RECIPE: &str = r#"{ name }: derivation {
  name = "mini-nixos-${name}";
  system = builtins.currentSystem;
  builder = "/bin/sh";
  args = [ "-c" "/bin/mkdir -p $out && /bin/cp -r $src/. $out/ && /bin/chmod -R +w $out && for program in $out/bin/* $out/activate; do [ ! -e $program ] || /bin/chmod 755 $program; done" ];
  src = builtins.path { path = "/build/sources/${name}"; name = "source"; };
}
"#;

/// Name of the fleet's signing key.
const KEY_NAME: &str = "osmoda-fleet-1";

/// One toplevel to build.
#[derive(Debug, Clone)]
pub(super) struct Generation {
    /// Part of the store path.
    pub(super) name: String,
    /// Unit files by name.
    pub(super) units: BTreeMap<String, String>,
    /// What activation runs beside its units.
    activate: Option<String>,
    /// Differs from what runs where only a restart leads to the generation.
    interface: u32,
}

/// The interface of the first process that every generation shares.
const INTERFACE: u32 = 2;

/// Whether a build gets the fleet key's signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Signed {
    Yes,
    No,
}

impl Generation {
    /// A generation for one host; even the same release differs between hosts.
    pub(super) fn new(release: &str, host: &str) -> Self {
        Self { name: format!("{release}-{host}"), units: BTreeMap::new(), activate: None, interface: INTERFACE }
    }

    /// Runs a shell script in the middle of the activation.
    pub(super) fn activate(self, script: &str) -> Self {
        Self { activate: Some(format!("#!/bin/sh\n{script}\n")), ..self }
    }

    /// Cannot be activated without a restart: `switch-to-configuration` ends with 100.
    pub(super) fn needs_restart(self) -> Self {
        Self { interface: INTERFACE + 1, ..self }
    }

    /// Adds a unit.
    pub(super) fn unit(mut self, name: &str, text: &str) -> Self {
        self.units.insert(name.to_owned(), text.to_owned());
        self
    }

    /// Adds the workload that every good release has; its version shows in the unit.
    pub(super) fn workload(self, version: &str) -> Self {
        let text = format!(
            "[Unit]\nDescription=Workload {version}\n\n[Service]\nEnvironment=VERSION={version}\nExecStart=/bin/sleep infinity\n"
        );
        self.unit("workload.service", &text)
    }
}

/// The builder: an own overlay, an own store, the cache and the fleet key.
#[derive(Debug)]
pub(super) struct Builder {
    spec: CellSpec,
    folder: PathBuf,
}

impl Builder {
    /// Prepares the builder below `own`; what it makes lies in `folder`.
    pub(super) async fn create(lower: &Path, own: &Path, folder: &Path) -> anyhow::Result<Self> {
        for folder in [own.join("upper/etc/nix"), own.join("work"), own.join("root"), folder.join("sources")] {
            std::fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        }
        write(&own.join("upper/etc/nix/nix.conf"), &nix_configuration("", ""))?;
        write(&folder.join("generation.nix"), RECIPE)?;
        let spec = CellSpec {
            name: "builder".to_owned(),
            network: None,
            cgroup: None,
            lower: lower.to_owned(),
            own: own.to_owned(),
            binds: vec![(folder.to_owned(), "/build".to_owned(), false)],
            command: Vec::new(),
        };
        let builder = Self { spec, folder: folder.to_owned() };
        if !folder.join("fleet.public").exists() {
            let key =
                ["nix-store", "--generate-binary-cache-key", KEY_NAME, "/build/fleet.secret", "/build/fleet.public"];
            builder.run(&key).await?;
        }
        Ok(builder)
    }

    /// The fleet's public key, as Nix writes it.
    pub(super) fn public_key(&self) -> anyhow::Result<String> {
        let path = self.folder.join("fleet.public");
        let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        Ok(text.trim().to_owned())
    }

    /// Builds a toplevel, signs it and copies it to the cache; returns its path.
    pub(super) async fn build(&self, generation: &Generation) -> anyhow::Result<String> {
        self.publish(generation, Signed::Yes).await
    }

    /// Like [`Builder::build`], signed or not.
    pub(super) async fn publish(&self, generation: &Generation, signed: Signed) -> anyhow::Result<String> {
        self.write_source(generation)?;
        let name = ["nix-build", "--no-out-link", "/build/generation.nix", "--argstr", "name", &generation.name];
        let path = self.run(&name).await?.trim().to_owned();
        ensure!(path.starts_with("/nix/store/"), "nix-build printed {path:?}");
        let cache = match signed {
            Signed::Yes => "file:///build/cache?secret-key=/build/fleet.secret&compression=none",
            Signed::No => "file:///build/cache?compression=none",
        };
        self.run(&["nix", "--extra-experimental-features", "nix-command", "copy", "--to", cache, &path]).await?;
        Ok(path)
    }

    fn write_source(&self, generation: &Generation) -> anyhow::Result<()> {
        let source = self.folder.join("sources").join(&generation.name);
        for folder in [source.join("bin"), source.join("units")] {
            std::fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        }
        write(&source.join("bin/switch-to-configuration"), SWITCH)?;
        write(&source.join("init-interface-version"), &format!("systemd {}\n", generation.interface))?;
        write(&source.join("name"), &generation.name)?;
        if let Some(script) = &generation.activate {
            write(&source.join("activate"), script)?;
        }
        for (name, text) in &generation.units {
            write(&source.join("units").join(name), text)?;
        }
        Ok(())
    }

    async fn run(&self, command: &[&str]) -> anyhow::Result<String> {
        let mut spec = self.spec.clone();
        spec.command = command.iter().map(|word| (*word).to_owned()).collect();
        // The first word is started without a search path.
        spec.command[0] = format!("/usr/bin/{}", command[0]);
        let own = std::env::current_exe().context("finding this program")?;
        let description = serde_json::to_string(&spec).context("writing the cell's description")?;
        let enter = Spec::new(own).args(["cell-enter".to_owned(), description]).time_limit(STEP_TIME_MAX);
        let output = process::run(&enter).await.with_context(|| format!("in the builder: {}", command.join(" ")))?;
        ensure!(output.success(), "in the builder: `{}`: {}", command.join(" "), output.tail(2000));
        String::from_utf8(output.stdout).context("the builder printed bytes that are not UTF-8")
    }
}

/// `nix.conf` for the builder and, with a cache and a key, for a host.
pub(super) fn nix_configuration(substituter: &str, key: &str) -> String {
    format!(
        "build-users-group =\nsandbox = false\nsubstituters = {substituter}\ntrusted-public-keys = {key}\nrequire-sigs = true\n"
    )
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}
