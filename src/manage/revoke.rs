//! The end of keys: of one, of all that one replaced and was replaced by, or of one and all that it
//! minted.

use std::collections::HashSet;

use super::manager::{Asked, Done, First, Kept};
use super::may::Operation;
use super::plan::{self, Below, Ended};
use super::{Answered, Caller, ManageError, Manager, Once, RevokeScope, Revoked};
use crate::key::{KeyId, Subject};
use crate::store::{ReadRequest, Reading};

/// How many keys one mutation revokes of what a key minted. Of more the key itself is revoked first, and
/// then these many at a time, so that nothing else waits until all of them are.
pub const REVOKED_AT_ONCE_MAX: usize = 1000;
/// How many keys of a lineage, and how many of those that a key minted, are looked at for what else there is.
const RELATED_READ_MAX: usize = 1000;
/// How the audit log names it.
const REVOKE: &str = "revoke";
/// How often it is looked whether one of them has minted more meanwhile.
const PASSES_MAX: usize = 10;

impl Manager {
    /// Revokes keys for good, in one revision, unless what the key minted is more than
    /// [`REVOKED_AT_ONCE_MAX`] keys. Those that are revoked already stay as they are.
    ///
    /// # Errors
    /// When the key is not there, the caller may not, or the store fails. Of very many keys some may then
    /// be revoked.
    pub async fn revoke_key(&self, caller: &Caller, id: KeyId, scope: RevokeScope) -> Result<Revoked, ManageError> {
        let mut done = self.end_key(caller, id, scope).await?;
        // An operator may have minted a great many keys: they are looked for when the revocation is
        // in force, not before.
        done.related = self.related(caller, id).await.unwrap_or_default();
        Ok(done)
    }

    /// [`Manager::revoke_key`], for whoever does not ask what else there is: nothing is looked for
    /// afterwards, and [`Revoked::related`] is empty.
    ///
    /// # Errors
    /// As [`Manager::revoke_key`].
    pub async fn end_key(&self, caller: &Caller, id: KeyId, scope: RevokeScope) -> Result<Revoked, ManageError> {
        self.glance(caller, (REVOKE, Operation::Revoke), &Subject::Key(id), None).await?;
        if scope == RevokeScope::Descendants && self.is_prolific(id).await {
            let (mut all, last) = self.revoke_with_many(caller, id).await?;
            if !last.is_empty() {
                self.revoke_some(caller, id, &last, &mut all).await?;
            }
            return Ok(all);
        }
        let by = caller.clone();
        let plan = move |reading: &Reading| plan::revoke(&by, id, scope, reading);
        self.change(caller, revocation(caller, id, scope), plan, |done| revoked(done, vec![])).await
    }

    /// Revokes keys for good, once. `answer` makes the answer that is kept; it runs inside the
    /// transaction.
    ///
    /// # Errors
    /// As [`Manager::revoke_key`], and when the same was asked for before with other words.
    pub async fn revoke_key_once(
        &self,
        caller: &Caller,
        id: KeyId,
        scope: RevokeScope,
        once: Once,
        answer: impl Fn(&Revoked) -> Vec<u8> + Send + 'static,
    ) -> Result<Answered<Revoked>, ManageError> {
        // What was done before is not done again.
        let is_new = self.glance(caller, (REVOKE, Operation::Revoke), &Subject::Key(id), Some(once.key)).await?;
        let before = if is_new && scope == RevokeScope::Descendants && self.is_prolific(id).await {
            Some(self.revoke_with_many(caller, id).await?)
        } else {
            None
        };
        // The answer is kept by the mutation, which shall not read for long.
        let related = if is_new { self.related(caller, id).await.unwrap_or_default() } else { Vec::new() };
        let by = caller.clone();
        let last: Option<Vec<KeyId>> = before.as_ref().map(|(_, last)| last.iter().copied().chain([id]).collect());
        let asked = match &last {
            None => revocation(caller, id, scope),
            Some(last) => revocation_of(caller, id, last),
        };
        let plan = move |reading: &Reading| match &last {
            None => plan::revoke(&by, id, scope, reading),
            Some(last) => plan::revoke_these(&by, last, reading),
        };
        let finish = move |done: Done<Ended>| {
            let mut revoked = revoked(done, related.clone());
            if let Some((before, _)) = &before {
                revoked.keys.splice(0..0, before.keys.iter().cloned());
                revoked.out_of_reach = before.out_of_reach;
            }
            let ended: HashSet<KeyId> = revoked.keys.iter().map(|key| key.id).collect();
            revoked.related.retain(|kin| !ended.contains(kin));
            revoked
        };
        let kept = Kept { once, answer: Box::new(answer), key: |_: &Revoked| None };
        self.change_once(caller, asked, plan, finish, kept).await
    }

    /// Whether the key minted more than one mutation revokes, revoked ones included, for they would be
    /// read too. Where that cannot be found out, the mutation says why.
    async fn is_prolific(&self, id: KeyId) -> bool {
        let descendants_max = REVOKED_AT_ONCE_MAX + 1;
        let read = ReadRequest { descendants_of: Some(id), descendants_max, ..ReadRequest::default() };
        self.store.read(read).await.is_ok_and(|reading| reading.keys.len() > REVOKED_AT_ONCE_MAX)
    }

    /// Revokes the key, and then all that it minted, some at a time: whoever minted goes before what it
    /// minted, and what was minted meanwhile is found in the next pass. The caller's own key is left for
    /// last, and handed back, if it is one of them.
    async fn revoke_with_many(&self, caller: &Caller, id: KeyId) -> Result<(Revoked, Vec<KeyId>), ManageError> {
        let own = caller.key();
        let by = caller.clone();
        let plan = move |reading: &Reading| match own {
            // It is looked at whether the caller may, and no more.
            Some(own) if own == id => plan::revoke(&by, id, RevokeScope::Key, reading).map(|_| plan::nothing_ended()),
            Some(_) | None => plan::revoke(&by, id, RevokeScope::Key, reading),
        };
        let asked = revocation(caller, id, RevokeScope::Key);
        let mut all = self.change(caller, asked, plan, |done| revoked(done, vec![])).await?;
        let mut last: Vec<KeyId> = own.into_iter().filter(|own| *own == id).collect();
        let mut revoked_before = None;
        for _ in 0..PASSES_MAX {
            let keys = own.into_iter().chain([id]).collect();
            let read = ReadRequest { keys, descendants_of: Some(id), ..ReadRequest::default() };
            let Below { unrevoked: mut ids, revoked, hidden } =
                plan::minted_by(caller, id, &self.store.read(read).await?)?;
            all.out_of_reach = hidden;
            revoked_before.get_or_insert(revoked);
            if let Some(own) = own.filter(|own| ids.contains(own)) {
                ids.retain(|id| *id != own);
                last = vec![own];
            }
            if ids.is_empty() {
                break;
            }
            for some in ids.chunks(REVOKED_AT_ONCE_MAX) {
                self.revoke_some(caller, id, some, &mut all).await?;
            }
        }
        // What only gateways had revoked is revoked by this caller from here on.
        for some in revoked_before.unwrap_or_default().chunks(REVOKED_AT_ONCE_MAX) {
            let read = ReadRequest { keys: some.to_vec(), ended_by_gateways: true, ..ReadRequest::default() };
            if !self.store.read(read).await?.ended_by_gateways.is_empty() {
                self.revoke_some(caller, id, some, &mut all).await?;
            }
        }
        Ok((all, last))
    }

    /// Revokes `some` of what the key `id` minted, and adds them to `all`.
    async fn revoke_some(
        &self,
        caller: &Caller,
        id: KeyId,
        some: &[KeyId],
        all: &mut Revoked,
    ) -> Result<(), ManageError> {
        let (by, these) = (caller.clone(), some.to_vec());
        let plan = move |reading: &Reading| plan::revoke_these(&by, &these, reading);
        let done = self.change(caller, revocation_of(caller, id, some), plan, |done| revoked(done, vec![])).await?;
        all.keys.extend(done.keys);
        all.committed = done.committed;
        Ok(())
    }

    async fn related(&self, caller: &Caller, id: KeyId) -> Result<Vec<KeyId>, ManageError> {
        let read = ReadRequest {
            keys: caller.key().into_iter().chain([id]).collect(),
            lineage_of: Some(id),
            lineage_newest: RELATED_READ_MAX,
            descendants_of: Some(id),
            descendants_max: RELATED_READ_MAX,
            ..ReadRequest::default()
        };
        plan::related(caller, id, &self.store.read(read).await?)
    }
}

/// The revocation of what `scope` says, by a caller for whom [`Manager::glance`] was asked.
pub(super) fn revocation(caller: &Caller, id: KeyId, scope: RevokeScope) -> Asked {
    let read = ReadRequest {
        keys: vec![id],
        lineage_of: (scope == RevokeScope::Lineage).then_some(id),
        descendants_of: (scope == RevokeScope::Descendants).then_some(id),
        ended_by_gateways: !caller.is_gateway(),
        ..ReadRequest::default()
    };
    let asked = Asked::of(REVOKE, Some(Subject::Key(id)), read);
    Asked { first: First::Change, ..asked }
}

/// The revocation of `some`, on account of the key `id`.
fn revocation_of(caller: &Caller, id: KeyId, some: &[KeyId]) -> Asked {
    let ended_by_gateways = !caller.is_gateway();
    let read = ReadRequest { keys: some.to_vec(), ended_by_gateways, ..ReadRequest::default() };
    Asked { first: First::Change, ..Asked::of(REVOKE, Some(Subject::Key(id)), read) }
}

fn revoked(done: Done<Ended>, related: Vec<KeyId>) -> Revoked {
    let (Ended { mut keys, out_of_reach }, done) = done.apart();
    for (ordinal, key) in keys.iter_mut().enumerate() {
        done.settle_key(key, ordinal);
    }
    Revoked { keys, related, out_of_reach, committed: done.committed }
}
