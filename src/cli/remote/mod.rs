//! Operations over a running gateway's management API, by an operator.

mod bodies;
mod http;
mod query;
mod refusal;
mod token;
mod url;

use std::path::Path;
use std::time::Duration;

use ::http::header::LINK;
use ::http::{Method, StatusCode};
use data_encoding::HEXLOWER;
use serde::Serialize;
use serde::de::DeserializeOwned;

use self::bodies::{Changes, ToMake, ToRevoke, ToRotate, UserChanges};
use self::http::{Again, Answer, Api, Ask};
use self::query::{Target, next_page};
use self::url::ApiUrl;
use super::documents::{
    self, Confirmation, DeletedUser, Event, Gateway, Key, NewWebhookSecret, Replacement, Revocation, Token, Told, User,
    WebhookSecret, WholeKey,
};
use super::failure::Failure;
use super::operations::{DamagedRow, Hashes, Names, Operations, Revoked, Take, UserSet};
use super::output;
use super::place::clock;
use crate::key::{KeyId, ProjectId, Stamp, Status, Subject, UserId};
use crate::manage::{KeyChange, NewKey, RevokeScope, UserPatch};
use crate::secret;
use crate::store::{EventQuery, GatewayId, KeyQuery};

const KEYS: &str = "/v1/api-keys";
const USERS: &str = "/v1/users";
const EVENTS: &str = "/v1/events";
const GATEWAYS: &str = "/v1/gateways";
const REVISIONS: &str = "/v1/revisions";
/// How often it is asked where a change is in force.
const CONFIRMED_EVERY: Duration = Duration::from_millis(100);
/// The most that a page holds.
const PAGE: usize = 200;
/// Of how many revoked keys the name is asked for.
const NAMES_TOLD: usize = 20;
/// How often news is asked for.
const NEWS_EVERY: Duration = Duration::from_secs(1);
/// The fields that tell of a change's revision, and whether the gateway decides by it.
const REVISION: &str = "keyward-revision";
const APPLIED: &str = "keyward-applied";

/// A running gateway.
#[derive(Debug)]
pub(super) struct Remote(Api);

impl Remote {
    /// The gateway whose management API is at `url`, asked with the token in `token_file` or in the
    /// environment.
    pub(super) fn open(url: &str, token_file: Option<&Path>, ca: Option<&Path>) -> Result<Self, Failure> {
        let url = ApiUrl::parse(url).map_err(|fault| Failure::usage(format_args!("--admin: the URL {fault}")))?;
        let token = token::token(token_file)?;
        Api::new(url, token, ca).map(Self)
    }

    /// What is answered where it is no refusal.
    fn send(&self, ask: &Ask) -> Result<Answer, Failure> {
        self.accepted(self.0.send(ask)?)
    }

    fn accepted(&self, answer: Answer) -> Result<Answer, Failure> {
        if answer.status.is_success() {
            return Ok(answer);
        }
        Err(refusal::of(&self.0.url, answer.status, &answer.headers, &answer.body))
    }

    fn document<T: DeserializeOwned>(&self, answer: &Answer) -> Result<T, Failure> {
        documents::read(&answer.body).map_err(|error| self.foreign(&error))
    }

    fn told<T: DeserializeOwned>(&self, answer: &Answer) -> Result<Told<T>, Failure> {
        documents::read_told(&answer.body).map_err(|error| self.foreign(&error))
    }

    /// An answer that is not what this program's API answers.
    fn foreign(&self, error: &serde_json::Error) -> Failure {
        let url = &self.0.url;
        // Where it stands, and nothing of what stands there: it may be a token.
        let place = format!("line {} column {}", error.line(), error.column());
        Failure::failed(format_args!("{url} answers something else than a gateway of this version, at {place}"))
    }

    fn get<T: DeserializeOwned>(&self, target: Target) -> Result<T, Failure> {
        self.document(&self.send(&Ask::get(target.finish()))?)
    }

    /// Makes a change, and says where the gateway itself does not decide by it yet.
    fn change(&self, method: Method, target: Target, body: Option<Vec<u8>>, again: Again) -> Result<Answer, Failure> {
        let answer = self.send(&Ask::change(method, target.finish(), body, again))?;
        let field = |name| answer.headers.get(name).and_then(|value| value.to_str().ok());
        if let (Some(revision), Some("false")) = (field(REVISION), field(APPLIED)) {
            output::note(&format!("revision {revision} is stored, and the gateway does not decide by it yet"));
        }
        Ok(answer)
    }

    fn post(&self, target: Target, body: &impl Serialize) -> Result<Answer, Failure> {
        self.change(Method::POST, target, Some(written(body)?), once()?)
    }

    /// Hands over every item of a list, page by page.
    fn each<T: DeserializeOwned>(&self, first: Target, take: Take<'_, T>, mut left: usize) -> Result<(), Failure> {
        let mut target = first.finish();
        loop {
            let answer = self.send(&Ask::get(target.clone()))?;
            let page: Vec<T> = self.document(&answer)?;
            for item in page {
                if left == 0 {
                    return Ok(());
                }
                left -= 1;
                take(item)?;
            }
            let link = answer.headers.get(LINK).and_then(|link| link.to_str().ok());
            match link.and_then(|link| next_page(&target, link)) {
                Some(next) if left > 0 => target = next,
                Some(_) | None => return Ok(()),
            }
        }
    }

    /// A user's flags for people, or why they are not known.
    fn flags_of_user(&self, id: &str) -> Result<String, Failure> {
        let answer = self.0.send(&Ask::get(Target::path(USERS).segment(id).finish()))?;
        match answer.status {
            StatusCode::NOT_FOUND => Ok("(no such user)".to_owned()),
            StatusCode::FORBIDDEN => Ok("(not for this token to read)".to_owned()),
            _ => Ok(self.document::<User>(&self.accepted(answer)?)?.flags.join(" ")),
        }
    }

    /// What a key is called, where this token may read it.
    fn name_of(&self, id: KeyId) -> Option<String> {
        self.get::<Key>(Target::path(KEYS).segment(id)).ok().map(|key| key.name)
    }

    fn revision_of(&self, answer: &Answer) -> Result<u64, Failure> {
        let text = answer.headers.get(REVISION).and_then(|value| value.to_str().ok());
        text.and_then(|text| text.parse().ok())
            .ok_or_else(|| Failure::failed(format_args!("{} did it, and does not say in which revision", self.0.url)))
    }
}

impl Operations for Remote {
    fn create_key(&self, new: NewKey) -> Result<Told<Token>, Failure> {
        self.told(&self.post(Target::path(KEYS), &ToMake::of(&new, clock().now()))?)
    }

    fn each_key(&self, query: KeyQuery, hashes: Hashes, take: Take<'_, Key>) -> Result<Vec<DamagedRow>, Failure> {
        if hashes == Hashes::Told {
            return Err(Failure::usage(
                "--hashes: the management API tells no hashes; give -c FILE in place of --admin",
            ));
        }
        let left = if query.limit == 0 { usize::MAX } else { query.limit };
        let target = Target::path(KEYS)
            .with("project_id", query.project)
            .with("environment_id", query.environment)
            .with("user_id", query.user)
            .with("status", query.status.map(Status::as_str))
            .with("expires_within_days", query.expires_within_days)
            .with("unused_for_days", query.unused_for_days)
            .with("q", query.text)
            .with("limit", Some(left.min(PAGE)));
        self.each(target, take, left)?;
        Ok(Vec::new())
    }

    fn key(&self, id: KeyId) -> Result<WholeKey, Failure> {
        let mut whole: WholeKey = self.get(Target::path(KEYS).segment(id))?;
        whole.flags_of_user = whole.key.user_id.as_deref().map(|user| self.flags_of_user(user)).transpose()?;
        Ok(whole)
    }

    fn update_key(&self, id: KeyId, change: KeyChange) -> Result<Told<WebhookSecret>, Failure> {
        // Asked again, a webhook that is set already has no secret to tell any more.
        let again = if change.rotation_webhook_url.is_some() { Again::Never } else { Again::Harmless };
        let body = written(&Changes::of(&change, clock().now()))?;
        self.told(&self.change(Method::PATCH, Target::path(KEYS).segment(id), Some(body), again)?)
    }

    fn rotate_key(&self, id: KeyId, grace: Duration) -> Result<Replacement, Failure> {
        let body = ToRotate::with(grace)?;
        self.document(&self.post(Target::path(KEYS).segment(id).segment("rotate"), &body)?)
    }

    fn rotate_webhook_secret(&self, id: KeyId) -> Result<NewWebhookSecret, Failure> {
        let target = Target::path(KEYS).segment(id).segment("webhook-secret").segment("rotate");
        self.document(&self.change(Method::POST, target, None, once()?)?)
    }

    fn revoke_key(&self, id: KeyId, scope: RevokeScope, names: Names) -> Result<Revoked, Failure> {
        let target = Target::path(KEYS).segment(id).segment("revoke");
        let document: Revocation = self.document(&self.post(target, &ToRevoke::with(scope))?)?;
        let told = if names == Names::Told { NAMES_TOLD } else { 0 };
        let names = document.revoked.iter().take(told).map(|id| self.name_of(*id)).collect();
        Ok(Revoked { document, names })
    }

    fn users(&self, project: Option<ProjectId>) -> Result<Vec<User>, Failure> {
        let mut users = Vec::new();
        let target = Target::path(USERS).with("project_id", project).with("limit", Some(PAGE));
        self.each(
            target,
            &mut |user| {
                users.push(user);
                Ok(())
            },
            usize::MAX,
        )?;
        Ok(users)
    }

    fn user(&self, id: UserId) -> Result<User, Failure> {
        self.get(Target::path(USERS).segment(id))
    }

    fn set_user(&self, patch: UserPatch) -> Result<UserSet, Failure> {
        // One request, so that nobody else's change comes between a look at the user and this one.
        let target = Target::path(USERS).segment(&patch.id);
        let body = written(&UserChanges::of(patch))?;
        let answer = self.change(Method::PATCH, target, Some(body), Again::Harmless)?;
        let revision = self.revision_of(&answer)?;
        Ok(UserSet { user: self.document(&answer)?, is_new: answer.status == StatusCode::CREATED, revision })
    }

    fn delete_user(&self, id: UserId) -> Result<DeletedUser, Failure> {
        // Asked again, there is no such user any more.
        let answer = self.change(Method::DELETE, Target::path(USERS).segment(&id), None, Again::Never)?;
        let revision = self.revision_of(&answer)?;
        // Nothing changes a revoked key, so those of this revision are those that went with the user.
        let mut revoked = Vec::new();
        let query = KeyQuery { user: Some(id.clone()), status: Some(Status::Revoked), ..KeyQuery::default() };
        let listed = self.each_key(query, Hashes::Kept, &mut |key| {
            revoked.extend((key.revision == revision).then_some(key.id));
            Ok(())
        });
        if listed.is_err() {
            output::note("its keys are revoked with it; this token cannot list them");
        }
        Ok(DeletedUser { id: id.to_string(), revoked, revision })
    }

    fn each_event(&self, query: EventQuery, take: Take<'_, Event>) -> Result<Stamp, Failure> {
        let (key, user) = match query.subject {
            Some(Subject::Key(id)) => (Some(id), None),
            Some(Subject::User(id)) => (None, Some(id)),
            None => (None, None),
        };
        let target = Target::path(EVENTS)
            .with("after", Some(query.after.revision))
            .with("key_id", key)
            .with("user_id", user)
            .with("limit", Some(PAGE));
        // A revision is there whole or not at all, so the next read goes on after the last one.
        let mut last = query.after.revision;
        let mut taken = |event: Event| {
            last = event.revision;
            take(event)
        };
        self.each(target, &mut taken, usize::MAX)?;
        Ok(Stamp { revision: last, ordinal: u32::MAX })
    }

    fn gateways(&self) -> Result<Vec<Gateway>, Failure> {
        self.get(Target::path(GATEWAYS))
    }

    fn forget_gateway(&self, id: GatewayId) -> Result<usize, Failure> {
        let known = self.gateways()?.iter().filter(|gateway| gateway.id == id.to_string()).count();
        self.change(Method::DELETE, Target::path(GATEWAYS).segment(id), None, Again::Never)?;
        Ok(known)
    }

    fn confirmation(&self, revision: u64, at_most: Duration) -> Result<Confirmation, Failure> {
        let clock = clock();
        let begun = clock.monotonic();
        loop {
            let confirmation: Confirmation = self.get(Target::path(REVISIONS).segment(revision))?;
            if confirmation.confirmed || clock.monotonic().saturating_duration_since(begun) >= at_most {
                return Ok(confirmation);
            }
            self.0.pause(CONFIRMED_EVERY);
        }
    }

    fn wait_for_news(&self, at_most: Duration) {
        self.0.pause(at_most.min(NEWS_EVERY));
    }
}

/// A body.
fn written(body: &impl Serialize) -> Result<Vec<u8>, Failure> {
    serde_json::to_vec(body).map_err(|error| Failure::because(&error))
}

/// What makes one request known: nobody else has it, and it is never shown, for it opens the kept answer.
fn once() -> Result<Again, Failure> {
    let random: [u8; 24] = secret::random().map_err(|error| Failure::because(&error))?;
    Ok(Again::Known(HEXLOWER.encode(&random)))
}
