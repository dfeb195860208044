//! The kernel's table of TCP sockets, `/proc/net/tcp` and `tcp6`. *Pure.*

/// The state LISTEN (`include/net/tcp_states.h`).
const LISTEN: &str = "0A";

/// A socket that waits for connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Listening {
    pub(super) port: u16,
    /// Names the socket; the same number stands behind the owner's descriptor.
    pub(super) inode: u64,
}

/// The listening sockets of one table. Lines that are none are passed over.
pub(super) fn listening(table: &str) -> impl Iterator<Item = Listening> {
    table.lines().filter_map(|line| {
        let mut fields = line.split_whitespace();
        let (_, port) = fields.nth(1)?.rsplit_once(':')?;
        let port = u16::from_str_radix(port, 16).ok()?;
        let state = fields.nth(1)?;
        let inode = fields.nth(5)?.parse().ok()?;
        (state == LISTEN).then_some(Listening { port, inode })
    })
}

/// The inode behind a descriptor's link, `socket:[123]`.
pub(super) fn socket_inode(link: &str) -> Option<u64> {
    link.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// The service a process belongs to, from its `/proc/<pid>/cgroup`.
pub(super) fn unit(cgroup: &str) -> Option<String> {
    let path = cgroup.lines().find_map(|line| line.strip_prefix("0::"))?;
    let unit = path.split('/').rev().find(|part| part.ends_with(".service"))?;
    Some(unit.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str =
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1538 00000000:0000 0A 00000000:00000000 00:00000000 00000000   113        0 24961 1 000 100 0
   1: 0100007F:A0F2 0100007F:1538 01 00000000:00000000 00:00000000 00000000  1000        0 99 1 000 20 4
   2: garbage
   3: 00000000000000000000000000000000:0016 00000000000000000000000000000000:0000 0A 0:0 00:0 0 0 0 77 1 000 100 0";

    #[test]
    fn only_listening_sockets_are_taken() {
        let found: Vec<_> = listening(TABLE).collect();
        assert_eq!(found, [Listening { port: 5432, inode: 24961 }, Listening { port: 22, inode: 77 }]);
    }

    #[test]
    fn inodes_and_units_are_read() {
        assert_eq!(socket_inode("socket:[24961]"), Some(24961));
        assert_eq!(socket_inode("/dev/null"), None);
        assert_eq!(unit("0::/system.slice/nginx.service\n").as_deref(), Some("nginx.service"));
        assert_eq!(unit("0::/system.slice/a.service/inner\n").as_deref(), Some("a.service"));
        assert_eq!(unit("0::/user.slice\n"), None);
        assert_eq!(unit(""), None);
    }
}
