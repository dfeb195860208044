//! The secrets of the network on this node: the next epoch's, and on a voter
//! those with which the other members may come back.
//!
//! Invariant: a secret is on disk before it is used or answered with. Invariant:
//! a new epoch comes into force only under the hash that the log names; a secret
//! that was made here and lost its race is forgotten with the process.
//! Invariant: who leaves the allow-list leaves no secret here: out of force at
//! once, and off the disk when it takes the change. A joiner's secret comes before
//! the list that has it; until that one it is kept all the same.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use osmoda_kit::error::ApiError;
use osmoda_kit::secret::Secret;
use osmoda_kit::shutdown::Stage;
use osmoda_kit::tasks::Tasks;
use osmoda_mesh::{EpochSecret, KeySource, MeshHandle, RejoinSecret, fetch_epoch, fetch_rejoins, secret_hash, state};
use osmoda_node_api::mesh::SecretBytes;
use osmoda_types::{ErrorCode, MeshEpoch, NodeId, Role, SecretHash};
use tokio::sync::{Notify, Semaphore};

/// Secrets made here whose epoch is not in the log yet. One is made per try of
/// a leader; an older one lost its race.
const PENDING_MAX: usize = 4;

/// How often a voter looks for secrets of members it lacks. They are needed when
/// a member comes back after ten minutes or more.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// The keeper; shared by the endpoints, the enroller and the `keys` service.
pub(crate) struct Keys {
    handle: MeshHandle,
    dir: PathBuf,
    tasks: Tasks,
    own: Option<SecretBytes>,
    pending: Mutex<Vec<SecretBytes>>,
    /// As on disk.
    rejoins: Mutex<BTreeMap<NodeId, SecretBytes>>,
    /// Joiners that no list had yet, and the index of the first one that does.
    joining: Mutex<BTreeMap<NodeId, u64>>,
    /// One epoch at a time: file, then mesh. Apart from the other one, because
    /// a fetch may wait for voters.
    epoch_writer: Semaphore,
    /// One change at a time: file, then mesh, then the map.
    rejoin_writer: Semaphore,
    changed: Notify,
}

impl KeySource for Keys {
    fn rejoin_secret(&self, node: &NodeId) -> Option<SecretBytes> {
        if *node == self.handle.local_id() {
            return self.own.clone();
        }
        // Who has left may still be on the disk.
        self.handle.members().by_node(node)?;
        lock(&self.rejoins).get(node).cloned()
    }
}

impl Keys {
    /// The keeper of what was loaded.
    pub(crate) fn new(
        handle: MeshHandle,
        dir: PathBuf,
        tasks: Tasks,
        own: Option<SecretBytes>,
        rejoins: Vec<RejoinSecret>,
    ) -> Arc<Self> {
        let rejoins = rejoins.into_iter().map(|secret| (secret.node, secret.secret)).collect();
        Arc::new(Self {
            handle,
            dir,
            tasks,
            own,
            pending: Mutex::default(),
            rejoins: Mutex::new(rejoins),
            joining: Mutex::default(),
            epoch_writer: Semaphore::new(1),
            rejoin_writer: Semaphore::new(1),
            changed: Notify::new(),
        })
    }

    /// Makes the secret of an epoch that is not in the log yet.
    pub(crate) fn make(&self) -> SecretHash {
        let secret = SecretBytes::new(*Secret::random().expose());
        let hash = secret_hash(&secret);
        let mut pending = lock(&self.pending);
        if pending.len() >= PENDING_MAX {
            pending.remove(0);
        }
        pending.push(secret);
        hash
    }

    /// Puts the epoch of the log in force: with the secret made here, or with
    /// one fetched from these voters.
    ///
    /// # Errors
    /// As [`fetch_epoch`]; `StateDirUnusable` when it cannot be stored.
    pub(crate) async fn enforce(
        &self,
        epoch: MeshEpoch,
        hash: SecretHash,
        voters: &[NodeId],
    ) -> Result<MeshEpoch, ApiError> {
        let _turn = self.epoch_writer.acquire().await.map_err(ApiError::internal)?;
        let now = self.handle.epoch_secret();
        if now.epoch >= epoch {
            return if now.epoch > epoch || secret_hash(&now.secret) == hash {
                Ok(now.epoch)
            } else {
                Err(ApiError::new(ErrorCode::Conflict, "the epoch is in force with another secret"))
            };
        }
        let made = lock(&self.pending).iter().find(|secret| secret_hash(secret) == hash).cloned();
        let secret = match made {
            Some(secret) => EpochSecret { epoch, secret },
            None => fetch_epoch(&self.handle, voters, epoch, hash).await?,
        };
        let (dir, stored) = (self.dir.clone(), secret.clone());
        let done = self.tasks.blocking("store epoch", move || state::store_epoch(&dir, &stored)).await;
        done.map_err(ApiError::internal)??;
        self.handle.install_epoch(secret).await?;
        lock(&self.pending).clear();
        tracing::info!(epoch = epoch.0, "mesh epoch in force");
        Ok(epoch)
    }

    /// Keeps the secret for a joiner that the list has from this index on, and
    /// returns the one to tell it: that which is kept already, when its answer was
    /// lost and it asks again. The other voters may have that one by now.
    ///
    /// # Errors
    /// `StateDirUnusable`: the joiner must not be told yet.
    pub(crate) async fn learn(&self, secret: RejoinSecret, index: u64) -> Result<SecretBytes, ApiError> {
        let _turn = self.rejoin_writer.acquire().await.map_err(ApiError::internal)?;
        let RejoinSecret { node, secret } = secret;
        let mut rejoins = lock(&self.rejoins).clone();
        // Who left and joins again is let in with another one.
        self.forget_who_left(&mut rejoins);
        if let Some(known) = rejoins.get(&node) {
            return Ok(known.clone());
        }
        rejoins.insert(node, secret.clone());
        lock(&self.joining).insert(node, index);
        self.keep(rejoins).await?;
        Ok(secret)
    }

    /// Forgets the secrets of who is no member any more, and looks for those of
    /// new ones.
    ///
    /// # Errors
    /// `StateDirUnusable`: they are out of force and still on the disk; the same
    /// list again tries again.
    pub(crate) async fn members_changed(&self) -> Result<(), ApiError> {
        self.changed.notify_one();
        let _turn = self.rejoin_writer.acquire().await.map_err(ApiError::internal)?;
        let before = lock(&self.rejoins).clone();
        let now = self.handle.members().index;
        lock(&self.joining).retain(|_, index| *index > now);
        let mut rejoins = before.clone();
        self.forget_who_left(&mut rejoins);
        if rejoins.len() == before.len() {
            return Ok(());
        }
        self.handle.set_rejoin_secrets(&listed(&rejoins));
        self.keep(rejoins).await
    }

    async fn change(&self, change: impl FnOnce(&mut BTreeMap<NodeId, SecretBytes>)) -> Result<(), ApiError> {
        let _turn = self.rejoin_writer.acquire().await.map_err(ApiError::internal)?;
        let mut rejoins = lock(&self.rejoins).clone();
        change(&mut rejoins);
        self.keep(rejoins).await
    }

    /// Takes out the secrets of who is no member and not about to be one. The map has
    /// some after a write that failed.
    fn forget_who_left(&self, rejoins: &mut BTreeMap<NodeId, SecretBytes>) {
        let (now, joining) = (self.handle.members(), lock(&self.joining));
        rejoins.retain(|node, _| now.by_node(node).is_some() || joining.contains_key(node));
    }

    /// On disk first, then in force. The caller has its turn.
    async fn keep(&self, mut rejoins: BTreeMap<NodeId, SecretBytes>) -> Result<(), ApiError> {
        self.forget_who_left(&mut rejoins);
        let list = listed(&rejoins);
        let (dir, stored) = (self.dir.clone(), list.clone());
        let done = self.tasks.blocking("store rejoin secrets", move || state::store_rejoins(&dir, &stored)).await;
        done.map_err(ApiError::internal)??;
        self.handle.set_rejoin_secrets(&list);
        *lock(&self.rejoins) = rejoins;
        Ok(())
    }

    /// On a voter: fetches what it lacks from the other voters, until the stop.
    pub(crate) async fn share(self: Arc<Self>) {
        let stop = self.tasks.shutdown().token(Stage::RefuseNew);
        loop {
            if self.handle.local_role() == Some(Role::Voter) {
                self.fetch_missing().await;
            }
            tokio::select! {
                biased;
                // Cancel-safe: waiting for a token takes nothing.
                () = stop.cancelled() => return,
                // Cancel-safe: a permit that was not taken stays.
                () = self.changed.notified() => {}
                // Cancel-safe: a timer.
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    async fn fetch_missing(&self) {
        let members = self.handle.members();
        let voters = members.members.iter().filter(|member| member.role == Role::Voter).map(|member| member.node);
        for voter in voters.filter(|voter| *voter != self.handle.local_id()) {
            let missing: Vec<NodeId> = {
                let known = lock(&self.rejoins);
                let lacks = |node: &NodeId| *node != self.handle.local_id() && !known.contains_key(node);
                members.members.iter().map(|member| member.node).filter(lacks).collect()
            };
            if missing.is_empty() {
                return;
            }
            match fetch_rejoins(&self.handle, voter, &missing).await {
                Ok(found) if found.is_empty() => {}
                Ok(found) => {
                    // Who was revoked meanwhile leaves no secret here.
                    let handle = self.handle.clone();
                    let keep = move |rejoins: &mut BTreeMap<NodeId, SecretBytes>| {
                        let now = handle.members();
                        let members = found.into_iter().filter(|of| now.by_node(&of.node).is_some());
                        rejoins.extend(members.map(|of| (of.node, of.secret)));
                    };
                    if let Err(error) = self.change(keep).await {
                        tracing::warn!(code = %error.code, %error, "secrets of members not kept");
                    }
                }
                Err(error) => tracing::debug!(%voter, %error, "no secrets of members from this voter"),
            }
        }
    }
}

fn listed(rejoins: &BTreeMap<NodeId, SecretBytes>) -> Vec<RejoinSecret> {
    rejoins.iter().map(|(node, secret)| RejoinSecret { node: *node, secret: secret.clone() }).collect()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use osmoda_kit::clock::SystemClock;
    use osmoda_kit::shutdown::Shutdown;
    use osmoda_kit::testing::TempRoot;
    use osmoda_mesh::{Mesh, MeshConfig, Tuning};
    use osmoda_node_api::mesh::{Member, Members};
    use osmoda_types::NetworkId;

    use super::*;

    /// A keeper on a folder of its own, in a fleet of one, with these secrets on disk.
    fn keeper(root: &TempRoot, rejoins: Vec<RejoinSecret>) -> Arc<Keys> {
        let (tasks, dir) = (Tasks::new(Shutdown::new()), root.paths().state("mesh"));
        let identity = state::create_identity(&dir).unwrap();
        let own = Member {
            node: identity.node(),
            mesh_key: identity.mesh_key(),
            identity_key: identity.identity_key(),
            role: Role::Voter,
            name: "n-1".to_owned(),
            addresses: vec![],
        };
        let network = NetworkId::from_bytes([7; 32]);
        let secret = EpochSecret { epoch: MeshEpoch(1), secret: SecretBytes::new([8; 32]) };
        let members = Members { index: 1, epoch: MeshEpoch(1), members: vec![own] };
        let rejoin_secret = SecretBytes::new([9; 32]);
        let initial = state::Initial { network, secret: secret.clone(), rejoin_secret, members: members.clone() };
        state::write_initial(&dir, &initial).unwrap();
        state::store_rejoins(&dir, &rejoins).unwrap();
        let config = MeshConfig {
            identity,
            network,
            listen: ([127, 0, 0, 1], 0).into(),
            secrets: secret.into(),
            members,
            enroller: None,
            tuning: Tuning::default(),
        };
        let handle = Mesh::start(config, &tasks, SystemClock::shared()).unwrap();
        Keys::new(handle, dir, tasks, None, rejoins)
    }

    #[tokio::test]
    async fn who_left_does_not_come_back_with_the_next_secret_that_is_kept() {
        let [gone, again] = [5, 6].map(|n| NodeId::from_bytes([n; 32]));
        let secret = |node, n| RejoinSecret { node, secret: SecretBytes::new([n; 32]) };
        for fetches in [false, true] {
            let root = TempRoot::new();
            let keys = keeper(&root, vec![secret(gone, 1), secret(again, 2)]);
            // A folder where the file belongs: no write can replace it.
            let file = keys.dir.join("rejoins.json");
            std::fs::remove_file(&file).unwrap();
            std::fs::create_dir_all(file.join("taken")).unwrap();
            keys.members_changed().await.unwrap_err();
            std::fs::remove_dir_all(&file).unwrap();
            if fetches {
                keys.change(|_| ()).await.unwrap();
            } else {
                assert_eq!(keys.learn(secret(again, 3), 2).await.unwrap().bytes(), &[3; 32]);
            }
            let kept = state::load(&keys.dir).unwrap().secrets.rejoins;
            assert_eq!(kept.iter().map(|of| of.node).collect::<Vec<_>>(), if fetches { vec![] } else { vec![again] });
        }
    }
}
