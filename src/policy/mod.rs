//! Who may pass: routes, credentials, requirements, and the decision. Pure: nothing here awaits,
//! logs or reads a clock, and a request that is let through allocates nothing.
//!
//! The line a request walks: [`canonicalize`] its path, [`RouteTable::find`] its route,
//! [`find_credential`] its token, look the token up, [`decide`]. Only [`decide`] makes a
//! [`Permit`].
#![deny(clippy::wildcard_enum_match_arm)]

mod credential;
mod decide;
mod denial;
mod deny;
mod explain;
mod forward;
mod host;
mod matcher;
mod path;
mod permit;
mod requirement;
mod route;
#[cfg(test)]
mod testing;

pub use credential::{Credential, CredentialSource, find_credential, mark_credential, strip_credential};
pub use decide::{Presented, decide};
pub use denial::{Challenge, Code, Denial, DeniedStatus, Reason};
pub use deny::{DenyList, LineFault};
pub use explain::{Alternative, Explanation, Outcome, explain};
pub use forward::{Cors, FieldRules, Forward, HostForward, Prefix, StaleRule};
pub use host::{HostFault, HostPattern, normalize_host};
pub use matcher::{Allow, Captures, Found, RouteMatch, RouteTable};
pub use path::{CanonicalPath, EmptySegments, Feature, Features, Pass, PathFault, PathOptions, canonicalize};
pub use permit::{Permit, PermitKind};
pub use requirement::{Access, FlagTemplate, TemplateFault};
pub use route::{CAPTURES_MAX, PATTERN_SEGMENTS_MAX, PatternFault, Route, RouteFault, RouteProblem, RouteSpec, Shadow};
