//! 32 secret bytes on a memory page of their own: wiped when dropped, and kept
//! out of swap where the system allows it.
//!
//! Locking is best effort (`mesh.md` section 7, item 14): a system may have no
//! room for locked memory, and a node that does not start is worse. A page of
//! its own, because unlocking works on whole pages and must not unlock another
//! key's.

use zeroize::Zeroize;

/// A long-lived secret.
pub struct LockedSecret {
    // Dropped first: the page is unlocked after it was wiped and before it is freed.
    lock: Option<region::LockGuard>,
    page: Box<Page>,
}

/// One page of the common size; on systems with larger pages the lock covers
/// the neighbours too.
#[repr(align(4096))]
struct Page([u8; 32]);

impl LockedSecret {
    /// Copies the bytes onto a page of their own.
    #[must_use]
    pub fn new(bytes: &[u8; 32]) -> Self {
        let mut page = Box::new(Page([0; 32]));
        let lock = region::lock(std::ptr::from_ref(&*page), size_of::<Page>()).ok();
        page.0.copy_from_slice(bytes);
        Self { lock, page }
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8; 32] {
        &self.page.0
    }

    /// Whether the system keeps the page out of swap.
    #[must_use]
    pub fn is_locked(&self) -> bool {
        self.lock.is_some()
    }
}

impl Drop for LockedSecret {
    fn drop(&mut self) {
        self.page.0.zeroize();
    }
}

impl std::fmt::Debug for LockedSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LockedSecret(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hygiene_14_a_secret_has_its_page_and_is_not_formatted() {
        let (one, two) = (LockedSecret::new(&[7; 32]), LockedSecret::new(&[8; 32]));
        assert_eq!((one.bytes(), two.bytes()), (&[7; 32], &[8; 32]));
        let page = |secret: &LockedSecret| secret.bytes().as_ptr().addr() / 4096;
        assert_ne!(page(&one), page(&two));
        assert_eq!(one.bytes().as_ptr().addr() % 4096, 0);
        assert_eq!(format!("{one:?}"), "LockedSecret(..)");
        // Dropping one leaves the other as it is.
        let locked = two.is_locked();
        drop(one);
        assert_eq!((two.is_locked(), two.bytes()), (locked, &[8; 32]));
    }
}
