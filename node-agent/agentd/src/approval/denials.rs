//! Denials: what was said no to, for every permit of the call (A6).
//!
//! Like `store`: writing functions take the connection of a guard.

use osmoda_permit::Moment;
use osmoda_types::{CallHash, PermitId};
use rusqlite::Connection;

use super::store::{self, Stored, signed};

/// Whether a denial of the subject holds: by either clock that still can tell.
pub(super) fn denied(connection: &Connection, subject: &CallHash, now: &Moment) -> rusqlite::Result<bool> {
    connection.query_row(
        "SELECT EXISTS (SELECT 1 FROM denials
                        WHERE subject = ?1 AND (wall_end > ?2 OR (boot_id = ?3 AND boot_end > ?4)))",
        (subject.to_string(), now.wall_ms, &now.boot_id, signed(now.boot_ms)),
        |row| row.get(0),
    )
}

/// Whether a denial holds for any call of the permit, whichever permit it was
/// made for: one denial is final for the call, not for one request of it.
pub(super) fn is_denied(connection: &Connection, id: &PermitId, now: &Moment) -> rusqlite::Result<bool> {
    connection.query_row(
        "SELECT EXISTS (SELECT 1 FROM permit_calls JOIN denials ON denials.subject = permit_calls.subject
                        WHERE permit_calls.permit = ?1 AND (wall_end > ?2 OR (boot_id = ?3 AND boot_end > ?4)))",
        (id.to_string(), now.wall_ms, &now.boot_id, signed(now.boot_ms)),
        |row| row.get(0),
    )
}

/// Open permits whose call was denied under another permit.
pub(super) fn denied_ids(connection: &Connection, now: &Moment) -> rusqlite::Result<Vec<PermitId>> {
    let mut denied = store::open_ids(connection)?;
    let mut failed = Ok(());
    denied.retain(|id| match is_denied(connection, id, now) {
        Ok(is_denied) => is_denied,
        Err(error) => {
            failed = Err(error);
            false
        }
    });
    failed.map(|()| denied)
}

/// Makes a denial hold for every call of the permit until the permit's end. One
/// that holds longer already is not made shorter, by either clock.
pub(super) fn deny_subjects(connection: &Connection, stored: &Stored) -> rusqlite::Result<()> {
    let (id, end) = (stored.signed.permit.id.to_string(), &stored.signed.permit.not_after);
    for call in &stored.calls {
        connection.execute(
            "INSERT INTO denials (subject, permit, wall_end, boot_end, boot_id) VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT (subject) DO UPDATE SET
                 permit = CASE WHEN ?3 > wall_end THEN ?2 ELSE permit END,
                 wall_end = max(wall_end, ?3),
                 boot_end = CASE WHEN boot_id = ?5 THEN max(boot_end, ?4) ELSE ?4 END,
                 boot_id = ?5",
            (call.subject.to_string(), &id, end.wall_ms, signed(end.boot_ms), &end.boot_id),
        )?;
    }
    Ok(())
}

/// Removes denials that are over since before `ended_ms`.
pub(super) fn prune(connection: &Connection, ended_ms: i64) -> rusqlite::Result<()> {
    connection.execute("DELETE FROM denials WHERE wall_end < ?1", [ended_ms]).map(|_| ())
}
