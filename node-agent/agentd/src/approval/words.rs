//! The earlier product's list of words for destructive texts. *Pure.*
//!
//! It decides one thing: whether `/approval/request` answers `auto_approved`, as
//! that product's clients expect for harmless texts. It is no control: a list of
//! words stops few of the ways to say a thing (`trust.md` 0.1), so nothing that
//! this program guards asks it.

/// Texts that contain one of these are destructive. Lower case, as the text is
/// compared: three that were not could never match.
const WORDS: [&str; 35] = [
    "rm -rf",
    "mkfs",
    "dd if=",
    "wipefs",
    "fdisk",
    "parted",
    "sgdisk",
    "shred",
    "> /dev/sd",
    "nix-collect-garbage",
    "nixos-rebuild",
    "systemctl disable",
    "systemctl mask",
    "systemctl stop",
    "userdel",
    "groupdel",
    "passwd",
    "chown -r",
    "chmod -r",
    "iptables -f",
    "nft flush",
    "reboot",
    "shutdown",
    "poweroff",
    "halt",
    "kill -9",
    "pkill",
    "killall",
    "| sh",
    "|sh",
    "| bash",
    "|bash",
    "| sudo sh",
    "| sudo bash",
    "${ifs}",
];

/// Names of operations that are, and whatever is below them.
const OPERATIONS: [&str; 10] = [
    "nix.rebuild",
    "system.user.create",
    "system.user.delete",
    "system.firewall.modify",
    "system.disk.format",
    "system.reboot",
    "system.shutdown",
    "wallet.send",
    "wallet.create",
    "switch.begin",
];

/// Whether the earlier product would have asked a person. A text with what no
/// person types is, too.
pub(super) fn is_destructive(text: &str) -> bool {
    if text.chars().any(|letter| letter.is_control() && !letter.is_whitespace()) || !text.is_ascii() {
        return true;
    }
    let bare: String = text.to_lowercase().chars().filter(|letter| !matches!(letter, '\\' | '\'' | '"')).collect();
    let bare = bare.split_whitespace().collect::<Vec<_>>().join(" ");
    let is_operation =
        |name: &&str| bare.strip_prefix(*name).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
    WORDS.iter().any(|word| bare.contains(word)) || OPERATIONS.iter().any(is_operation)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_earlier_product_asked_about_is_asked_about() {
        for text in [
            "rm -rf /",
            "RM  -RF /srv",
            "r'm' -rf /",
            "systemctl   stop nginx",
            "chown -R nobody /etc",
            "curl x | sh",
            "curl x |bash",
            "switch.begin",
            "wallet.send.all",
            "ls \u{202e}",
            "a\u{0}b",
        ] {
            assert!(is_destructive(text), "{text:?}");
        }
        for text in ["ls /tmp", "df -h", "wallet.sender", "systemctl status nginx", ""] {
            assert!(!is_destructive(text), "{text:?}");
        }
    }
}
