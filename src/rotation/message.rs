//! What is announced, as JSON. Thin on purpose: enough to know which key, and where to rotate it.

use serde::Serialize;

use crate::clock::Timestamp;
use crate::key::{KeyId, ProjectId};
use crate::store::{Notice, NoticeKind};

#[derive(Serialize)]
struct Message<'a> {
    r#type: &'static str,
    timestamp: Timestamp,
    data: Data<'a>,
}

#[derive(Serialize)]
struct Data<'a> {
    id: KeyId,
    project_id: Option<&'a ProjectId>,
    name: &'a str,
    key_prefix: Option<&'a str>,
    next_rotation_at: Option<Timestamp>,
    rotate_url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    replaced_by_key_id: Option<KeyId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    grace_expires_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    revoked_at: Option<Timestamp>,
}

/// The body of `notice`, made at `now`, for receivers that reach the management API at `public_url`.
pub(super) fn body(notice: &Notice, public_url: &str, now: Timestamp) -> String {
    let Notice { kind, key, at } = notice;
    let can_rotate = matches!(kind, NoticeKind::RotationDue | NoticeKind::Expiring);
    let is = |wanted: NoticeKind| *kind == wanted;
    let data = Data {
        id: key.id,
        project_id: key.project.as_ref(),
        name: &key.name,
        key_prefix: key.shown_prefix.as_deref(),
        next_rotation_at: key.rotation.next_at,
        rotate_url: can_rotate.then(|| format!("{public_url}/v1/api-keys/{}/rotate", key.id)),
        expires_at: key.expires_at.filter(|_| is(NoticeKind::Expiring)),
        replaced_by_key_id: key.replaced_by.filter(|_| is(NoticeKind::Rotated)),
        grace_expires_at: key.grace_expires_at.filter(|_| is(NoticeKind::Rotated)),
        revoked_at: key.revoked_at.filter(|_| is(NoticeKind::Revoked)),
    };
    // A date that came is told of when it is noticed; an event, when it happened.
    let timestamp = if can_rotate { now } else { *at };
    let message = Message { r#type: kind.as_str(), timestamp, data };
    serde_json::to_string(&message).expect("texts and times are always JSON")
}
