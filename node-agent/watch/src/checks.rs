//! Asks the host one health question at a time.
//!
//! Invariant: a question that cannot be asked, or is not answered in time, has
//! failed. The limits are the earlier product's.

use osmoda_kit::process::{Spec, run};
use osmoda_types::HealthCheck;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// For asking systemd about a unit.
const UNIT_TIME_MAX: Duration = Duration::from_secs(10);
/// For opening a TCP connection.
const TCP_TIME_MAX: Duration = Duration::from_secs(5);
/// For connecting to an HTTP server.
const HTTP_CONNECT_TIME_MAX: Duration = Duration::from_secs(5);
/// For the whole HTTP exchange.
const HTTP_TIME_MAX: Duration = Duration::from_secs(10);
/// For a command.
const COMMAND_TIME_MAX: Duration = Duration::from_secs(30);

/// Asks health questions on one host; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Checker {
    host_root: PathBuf,
    http: reqwest::Client,
}

impl Checker {
    /// For the host at `host_root`.
    ///
    /// # Errors
    /// When the HTTP client cannot be set up.
    pub(crate) fn new(host_root: &Path) -> Result<Self, reqwest::Error> {
        // No redirects and no proxy: the question is about this very URL.
        let http = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .connect_timeout(HTTP_CONNECT_TIME_MAX)
            .timeout(HTTP_TIME_MAX)
            .build()?;
        Ok(Self { host_root: host_root.to_owned(), http })
    }

    /// Asks all at once; returns the position and the reason of each failure.
    pub(crate) async fn ask_all(&self, checks: &[HealthCheck]) -> Vec<(usize, String)> {
        let asked = checks.iter().map(|check| self.ask(check));
        let answers = futures_util::future::join_all(asked).await;
        answers
            .into_iter()
            .enumerate()
            .filter_map(|(position, answer)| answer.err().map(|reason| (position, reason)))
            .collect()
    }

    /// Asks one question; the error says why the answer is no.
    ///
    /// # Errors
    /// The reason, for people.
    pub(crate) async fn ask(&self, check: &HealthCheck) -> Result<(), String> {
        // Validated when it was registered, and again here: what lies between
        // is a file.
        check.validate().map_err(|error| error.to_string())?;
        match check {
            HealthCheck::SystemdUnit { unit } => self.ask_unit(unit).await,
            HealthCheck::TcpPort { host, port } => ask_tcp(host, *port).await,
            HealthCheck::HttpGet { url, expect_status } => self.ask_http(url, *expect_status).await,
            HealthCheck::Command { cmd, args } => self.ask_command(cmd, args).await,
        }
    }

    async fn ask_unit(&self, unit: &str) -> Result<(), String> {
        if self.host_root != Path::new("/") {
            return Err(format!("{unit}: a node below a root directory has no service manager"));
        }
        let state = tokio::time::timeout(UNIT_TIME_MAX, unit_state(unit));
        match state.await {
            Ok(Ok(state)) if state == "active" => Ok(()),
            Ok(Ok(state)) => Err(format!("{unit} is {state}")),
            Ok(Err(error)) => Err(format!("{unit}: {error}")),
            Err(_) => Err(format!("{unit}: no answer from the service manager")),
        }
    }

    async fn ask_http(&self, url: &str, expect_status: u16) -> Result<(), String> {
        let answer = self.http.get(url).send().await.map_err(|error| format!("{url}: {error}"))?;
        let status = answer.status().as_u16();
        if status == expect_status { Ok(()) } else { Err(format!("{url} answered {status}, not {expect_status}")) }
    }

    async fn ask_command(&self, cmd: &str, args: &[String]) -> Result<(), String> {
        let spec = Spec::new(cmd)
            .args(args)
            .cwd(&self.host_root)
            .env("OSMODA_HOST_ROOT", &self.host_root)
            .time_limit(COMMAND_TIME_MAX)
            // Enough for a message; checks do not report data.
            .output_bytes_max(4096);
        let output = run(&spec).await.map_err(|error| osmoda_kit::error::chain(&error))?;
        if output.success() {
            return Ok(());
        }
        let how = if output.timed_out { "ran out of time".to_owned() } else { output.status.to_string() };
        Err(format!("{cmd}: {how}: {}", output.tail(200)))
    }
}

async fn ask_tcp(host: &str, port: u16) -> Result<(), String> {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    match tokio::time::timeout(TCP_TIME_MAX, tokio::net::TcpStream::connect((bare, port))).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(format!("{host} port {port}: {error}")),
        Err(_) => Err(format!("{host} port {port}: no answer")),
    }
}

/// Asks over a fresh connection: an activation may have restarted the bus.
async fn unit_state(unit: &str) -> zbus::Result<String> {
    const SERVICE: Option<&str> = Some("org.freedesktop.systemd1");
    let bus = zbus::Connection::system().await?;
    let manager = Some("org.freedesktop.systemd1.Manager");
    let answer = bus.call_method(SERVICE, "/org/freedesktop/systemd1", manager, "LoadUnit", &(unit,)).await?;
    let path: zbus::OwnedObjectPath = answer.body().deserialize()?;
    let properties = Some("org.freedesktop.DBus.Properties");
    let question = ("org.freedesktop.systemd1.Unit", "ActiveState");
    let answer = bus.call_method(SERVICE, path.as_str(), properties, "Get", &question).await?;
    let state: zbus::OwnedVariant = answer.body().deserialize()?;
    String::try_from(state)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    fn checker(root: &Path) -> Checker {
        Checker::new(root).unwrap()
    }

    fn command(cmd: &str, args: &[&str]) -> HealthCheck {
        HealthCheck::Command { cmd: cmd.to_owned(), args: args.iter().map(|arg| (*arg).to_owned()).collect() }
    }

    #[tokio::test]
    async fn commands_run_in_the_hosts_root_and_see_nothing_else() {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("here"), "").unwrap();
        let checker = checker(root.path());
        checker.ask(&command("/usr/bin/test", &["-e", "here"])).await.unwrap();
        assert!(checker.ask(&command("/usr/bin/test", &["-e", "there"])).await.is_err());
        assert!(checker.ask(&command("/no/such/program", &[])).await.unwrap_err().contains("/no/such/program"));
        let shell = checker.ask(&command("/bin/sh", &["-c", "true"])).await;
        assert!(shell.unwrap_err().contains("interpreter"));
    }

    #[tokio::test]
    async fn ports_and_statuses_are_asked_over_real_sockets() {
        let root = tempfile::tempdir().unwrap();
        let checker = checker(root.path());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let http = |status| HealthCheck::HttpGet { url: format!("http://127.0.0.1:{port}/"), expect_status: status };
        let serve = async {
            for _ in 0..3 {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut head = [0; 1024];
                let read = stream.read(&mut head).await.unwrap();
                if read > 0 {
                    let answer =
                        b"HTTP/1.1 302 Found\r\nlocation: /else\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
                    stream.write_all(answer).await.unwrap();
                }
            }
        };
        let ask = async {
            checker.ask(&HealthCheck::TcpPort { host: "127.0.0.1".to_owned(), port }).await.unwrap();
            checker.ask(&http(302)).await.unwrap();
            assert!(checker.ask(&http(200)).await.unwrap_err().contains("302"));
        };
        tokio::join!(serve, ask);
        // Bound and not listening: nobody else can answer there.
        let silent = tokio::net::TcpSocket::new_v4().unwrap();
        silent.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let port = silent.local_addr().unwrap().port();
        assert!(checker.ask(&HealthCheck::TcpPort { host: "127.0.0.1".to_owned(), port }).await.is_err());
    }

    #[tokio::test]
    async fn a_question_that_cannot_be_asked_has_failed() {
        let root = tempfile::tempdir().unwrap();
        let unit = HealthCheck::SystemdUnit { unit: "sshd.service".to_owned() };
        let failures = checker(root.path()).ask_all(&[command("/usr/bin/true", &[]), unit]).await;
        assert_eq!(failures.iter().map(|(position, _)| *position).collect::<Vec<_>>(), [1]);
    }
}
