//! What a service probably is, by the name of its process or unit. *Pure.*
//!
//! The thirteen kinds are the earlier product's. A name that none fits is left
//! without one: a port alone proves nothing.

/// Beginnings of names, and the kind they mean. The first that fits counts.
const KINDS: [(&str, &str); 24] = [
    ("osmoda-agentd", "osmoda-agentd"),
    ("osmoda-gateway", "osmoda-gateway"),
    ("nginx", "nginx"),
    ("apache", "apache"),
    ("httpd", "apache"),
    ("postgres", "postgresql"),
    ("postmaster", "postgresql"),
    ("mysql", "mysql"),
    ("mariadb", "mysql"),
    ("redis", "redis"),
    ("valkey", "redis"),
    ("node", "node"),
    ("nodejs", "node"),
    ("python", "python"),
    ("gunicorn", "python"),
    ("uvicorn", "python"),
    ("sshd", "ssh"),
    ("ssh", "ssh"),
    ("dropbear", "ssh"),
    ("docker", "docker"),
    ("containerd", "docker"),
    ("cloudflared", "cloudflare-tunnel"),
    ("tailscale", "tailscale"),
    ("osmoda-node", "osmoda-agentd"),
];

/// The kind of a process or unit.
pub(super) fn kind(name: &str) -> Option<&'static str> {
    let name = name.to_lowercase();
    KINDS.iter().find(|(begin, _)| fits(&name, begin)).map(|(_, kind)| *kind)
}

/// `node` fits `node` and `node-18`, not `nodelocaldns`: after the beginning
/// comes no letter, but for the `d` of a daemon and a plural's `ql` or `s`.
fn fits(name: &str, begin: &str) -> bool {
    let Some(rest) = name.strip_prefix(begin) else { return false };
    let rest = ["d", "ql", "sql", "-server", "2"].iter().find_map(|end| rest.strip_prefix(end)).unwrap_or(rest);
    !rest.starts_with(|c: char| c.is_ascii_alphabetic())
}

/// Where a service of this kind says how it is, if it is known to.
pub(super) fn health_url(kind: &str, port: u16) -> Option<String> {
    match kind {
        "nginx" | "apache" => Some(format!("http://127.0.0.1:{port}/")),
        "osmoda-gateway" => Some(format!("http://127.0.0.1:{port}/health")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_their_kind_or_none() {
        for (name, expected) in [
            ("nginx", Some("nginx")),
            ("apache2", Some("apache")),
            ("httpd", Some("apache")),
            ("postgres", Some("postgresql")),
            ("postgresql.service", Some("postgresql")),
            ("mysqld", Some("mysql")),
            ("redis-server", Some("redis")),
            ("node", Some("node")),
            ("python3.11", Some("python")),
            ("sshd", Some("ssh")),
            ("dockerd", Some("docker")),
            ("osmoda-agentd.service", Some("osmoda-agentd")),
            ("osmoda-gateway", Some("osmoda-gateway")),
            ("cloudflared", Some("cloudflare-tunnel")),
            ("tailscaled", Some("tailscale")),
            ("nodelocaldns", None),
            ("systemd", None),
            ("", None),
        ] {
            assert_eq!(kind(name), expected, "{name}");
        }
    }
}
