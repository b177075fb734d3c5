//! Every endpoint, one line each and what it is called.

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;

use super::answer::Answer;
use super::dialects::{flag_keys, user_keys};
use super::endpoint::{Endpoint, ask, delete, forget, get, patch, post, put};
use super::handler::Parts;
use super::jwks;
use super::openapi;
use super::operator::context;
use super::problem::{Code, Refusal};
use super::settings::Surface;
use super::v1::{ChangedKey, KeyShape, KeyWhole, Minted, NewWebhookSecret, Replacement, Revocation, UserShape};
use super::v1::{ConfirmationShape, GatewayShape};
use super::v1::{events, gateways, keys, refusals, users, verify};

const KEYS: &str = "keys";
const USERS: &str = "users";
const AUDIT: &str = "audit";
const GATEWAYS: &str = "gateways";
const FLAG_KEYS: &str = "flag keys";
const USER_KEYS: &str = "user keys";
const ABOUT: &str = "about";

/// What the endpoints belong to, and what that is.
pub(super) const TAGS: &[(&str, &str)] = &[
    (KEYS, "Keys: who may call the services behind the gateway."),
    (USERS, "Users own keys, and bound what those may do."),
    (AUDIT, "Who changed what, and when."),
    (GATEWAYS, "Which gateways there are, and where a change is in force."),
    (FLAG_KEYS, "Keys in the shape of a map of flags."),
    (USER_KEYS, "A user's key manages that user's keys, where `[admin] self_service` is on."),
    (ABOUT, "The API itself."),
];

/// The endpoints of `surface`.
#[rustfmt::skip]
pub(super) fn endpoints(surface: Surface) -> Vec<Endpoint> {
    let rotate = post("/v1/api-keys/{id}/rotate", keys::rotate)
        .named("rotateKey", KEYS, "Replaces a key; the id `self` stands for the calling key, where that may rotate itself")
        .may_take::<keys::ToRotate>().answers::<Replacement<'_>>(200, "The key was replaced.")
        .refuses(&[Code::NotFound, Code::NotRotatable, Code::AlreadyRotated, Code::RotationUnsettled, Code::RotatedTooOften]).once();
    let mut own_keys = vec![
        rotate,
        post("/api/data/api-keys", user_keys::create).named("createUserKey", USER_KEYS, "Makes a key of the caller's user, and shows its token this once")
            .may_take::<user_keys::ToMake>().answers::<user_keys::UserKey<'_>>(200, "The key was made.")
            .refuses(&[Code::NotOneself, Code::NoRoute, Code::TooManyKeys, Code::MadeTooOften]).once(),
        get("/api/data/api-keys", user_keys::list).named("listUserKeys", USER_KEYS, "Lists the keys of the caller's user")
            .answers::<user_keys::UserKeys<'_>>(200, "The keys.").refuses(&[Code::NotOneself, Code::NoRoute]),
        patch("/api/data/api-keys/{id}", user_keys::update).named("updateUserKey", USER_KEYS, "Changes a key of the caller's user")
            .takes::<user_keys::Changes>().answers::<user_keys::UserKey<'_>>(200, "The key as it is now.")
            .refuses(&[Code::NotOneself, Code::NoRoute, Code::NotFound, Code::ChangedTooOften]),
        delete("/api/data/api-keys/{id}", user_keys::delete).named("deleteUserKey", USER_KEYS, "Revokes a key of the caller's user for good")
            .answers::<user_keys::UserKey<'_>>(200, "The key, revoked.").refuses(&[Code::NotOneself, Code::NoRoute, Code::NotFound]),
    ];
    if surface == Surface::OwnKeys {
        return own_keys;
    }
    let mut whole = vec![
        get("/v1/api-keys", keys::list).named("listKeys", KEYS, "Lists keys, newest first")
            .asks::<keys::Filter>().lists::<KeyShape<'_>>("A page of keys."),
        post("/v1/api-keys", keys::create).named("createKey", KEYS, "Makes a key, and shows its token this once")
            .takes::<keys::ToMake>().where_all(keys::ToMake::rules()).answers::<Minted<'_>>(201, "The key was made.")
            .refuses(&[Code::ConflictingField, Code::FormatNotAvailable, Code::WebhooksNotAvailable]).once(),
        get("/v1/api-keys/{id}", keys::show).named("getKey", KEYS, "Reads a key, its use, and which keys replaced which")
            .answers::<KeyWhole<'_>>(200, "The key.").refuses(&[Code::NotFound]),
        patch("/v1/api-keys/{id}", keys::update).named("updateKey", KEYS, "Changes a key")
            .takes::<keys::Changes>().where_all(keys::Changes::rules()).answers::<ChangedKey<'_>>(200, "The key as it is now.")
            .refuses(&[Code::NotFound, Code::ConflictingField, Code::KeyRevoked, Code::WebhooksNotAvailable]),
        delete("/v1/api-keys/{id}", keys::delete).named("deleteKey", KEYS, "Revokes a key for good")
            .leaves_nothing("The key is revoked.").refuses(&[Code::NotFound]),
        post("/v1/api-keys/{id}/revoke", keys::revoke).named("revokeKey", KEYS, "Revokes a key, its lineage, or it and what it minted")
            .may_take::<keys::ToRevoke>().answers::<Revocation>(200, "What was revoked, and what was not.").refuses(&[Code::NotFound]).once(),
        post("/v1/api-keys/{id}/webhook-secret/rotate", keys::rotate_webhook_secret)
            .named("rotateWebhookSecret", KEYS, "Changes the secret that the receiver of a key's webhook verifies with; for 24 hours both sign")
            .answers::<NewWebhookSecret<'_>>(200, "The new secret.")
            .refuses(&[Code::NotFound, Code::ConflictingField, Code::KeyRevoked, Code::WebhooksNotAvailable]).once(),
        get("/v1/users", users::list).named("listUsers", USERS, "Lists users by id")
            .asks::<users::Filter>().lists::<UserShape<'_>>("A page of users."),
        get("/v1/users/{id}", users::show).named("getUser", USERS, "Reads a user")
            .answers::<UserShape<'_>>(200, "The user.").refuses(&[Code::UserNotFound]),
        put("/v1/users/{id}", users::set).named("setUser", USERS, "Makes a user, or replaces what is known of it")
            .takes::<users::ToSet>().where_all(users::ToSet::rules())
            .answers::<UserShape<'_>>(200, "The user as it is now.").answers::<UserShape<'_>>(201, "The user was made.")
            .refuses(&[Code::UserNotFound, Code::ConflictingField, Code::UserDeleted]),
        patch("/v1/users/{id}", users::update).named("updateUser", USERS, "Changes a user, or makes one that there is not")
            .takes::<users::Changes>().where_all(users::Changes::rules())
            .answers::<UserShape<'_>>(200, "The user as it is now.").answers::<UserShape<'_>>(201, "The user was made.")
            .refuses(&[Code::UserNotFound, Code::ConflictingField, Code::UserDeleted]),
        delete("/v1/users/{id}", users::delete).named("deleteUser", USERS, "Deletes a user and revokes its keys; its id is never used again")
            .leaves_nothing("The user is deleted.").refuses(&[Code::UserNotFound]),
        get("/v1/events", events::list).named("listEvents", AUDIT, "Lists changes, oldest first; all of them as JSON lines")
            .asks::<events::Filter>().lists::<events::EventShape>("A page of changes.").exports(events::JSON_LINES)
            .refuses(&[Code::ConflictingField]),
        get("/v1/refusals", refusals::list).named("listRefusals", AUDIT, "Lists refused attempts to change something, newest first")
            .asks::<refusals::Filter>().lists::<refusals::Shape<'_>>("A page of refused attempts."),
        get("/v1/gateways", gateways::list).named("listGateways", GATEWAYS, "Lists every process of every gateway, and how far each has come")
            .answers_many::<GatewayShape<'_>>("The gateways.").refuses(&[Code::GatewaysNotKnown]),
        forget("/v1/gateways/{id}", gateways::forget).named("forgetGateway", GATEWAYS, "Forgets a gateway that is gone, so that nobody waits for it any more")
            .leaves_nothing("The gateway is forgotten.").refuses(&[Code::GatewayNotFound, Code::GatewaysNotKnown]),
        get("/v1/revisions/{revision}", gateways::confirmation).named("getRevision", GATEWAYS, "Tells which gateways decide by a revision, and which may not yet")
            .answers::<ConfirmationShape<'_>>(200, "Where it is in force.").refuses(&[Code::RevisionNotFound, Code::GatewaysNotKnown]),
        ask("/v1/verify", verify::verify).named("verifyKey", AUDIT, "Decides on a key as the gateway would, and says why")
            .takes::<verify::ToVerify>().where_all(verify::ToVerify::rules()).answers::<verify::Verdict>(200, "What would be decided.").refuses(&[Code::UnknownRoute]),
        post("/apikey", flag_keys::create).named("createFlagKey", FLAG_KEYS, "Makes a key, and shows its token this once")
            .takes::<flag_keys::ToMake>().where_all(flag_keys::ToMake::rules()).answers::<flag_keys::FlagKey<'_>>(200, "The key was made.").once(),
        get("/apikey/{keyid}", flag_keys::show).named("getFlagKey", FLAG_KEYS, "Reads a key")
            .answers::<flag_keys::FlagKey<'_>>(200, "The key.").refuses(&[Code::NotFound]),
        patch("/apikey/{keyid}", flag_keys::update).named("updateFlagKey", FLAG_KEYS, "Changes a key")
            .takes::<flag_keys::Changes>().answers::<flag_keys::FlagKey<'_>>(200, "The key as it is now.")
            .refuses(&[Code::NotFound, Code::ConflictingField, Code::KeyRevoked]),
        delete("/apikey/{keyid}", flag_keys::delete).named("deleteFlagKey", FLAG_KEYS, "Revokes a key for good")
            .answers::<flag_keys::FlagKey<'_>>(200, "The key, revoked.").refuses(&[Code::NotFound]),
        get("/openapi.json", openapi::show).named("getDescription", ABOUT, "This description")
            .open().answers::<openapi::Description>(200, "The description of the API: OpenAPI 3.1."),
        get("/.well-known/jwks.json", jwks::show).named("getPublicKeys", ABOUT, "The public keys of what is signed here")
            .open().answers::<jwks::KeySet>(200, "The public keys: a JWK set."),
    ];
    whole.append(&mut own_keys);
    whole
}

/// What answers the requests of a listener.
pub(super) fn router(surface: Surface, parts: Arc<Parts>) -> Router {
    let mut router = Router::new();
    for endpoint in endpoints(surface) {
        router = router.route(endpoint.path, endpoint.on);
    }
    router.fallback(nothing).method_not_allowed_fallback(other_method).with_state(parts)
}

async fn nothing() -> Answer {
    Err(Refusal::new(
        Code::NoRoute,
        "there is no such endpoint here; /openapi.json of the management listener lists those there are",
    ))
}

async fn other_method(request: Request) -> Answer {
    context(&request.into_parts().0)?;
    Err(Refusal::new(Code::MethodNotAllowed, "the path has no such method; Allow has those there are"))
}
