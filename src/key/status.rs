//! Whether a key works at an instant, and why not.
//!
//! States are true at every time, so no slow clock can revive a key; times decide only ends that
//! lie in the future. A window is half-open: at its end instant the key is refused.

use serde::Serialize;

use crate::clock::Timestamp;

/// What is true of a key whatever the time is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct States {
    /// Revoked for good.
    pub revoked: bool,
    /// Switched off, until it is switched on again.
    pub disabled: bool,
    /// Replaced by a rotation that gave no grace, or whose grace was cut short for good.
    pub superseded: bool,
}

impl States {
    /// Whether no later change can make the key work again.
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        self.revoked || self.superseded
    }
}

/// How a key's user stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum UserStanding {
    /// The key has no user.
    None,
    /// The key has a user, and it is active.
    Active,
    /// The key has a user that is disabled, deleted or unknown.
    Disabled,
}

/// All that a key's status follows from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Standing {
    /// What is true at every time.
    pub states: States,
    /// How the user stands.
    pub user: UserStanding,
    /// From this instant on the key is refused.
    pub expires_at: Option<Timestamp>,
    /// The key was replaced, and from this instant on it is refused.
    pub grace_expires_at: Option<Timestamp>,
}

/// What a key is at an instant: the first that applies, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// On this gateway's deny list.
    Listed,
    /// Revoked for good.
    Revoked,
    /// Switched off.
    Disabled,
    /// Its user is disabled, deleted or unknown.
    UserDisabled,
    /// Past its expiry.
    Expired,
    /// Replaced, and past its grace.
    Superseded,
    /// Replaced, and still usable.
    Grace,
    /// Usable.
    Active,
}

impl Status {
    /// Every status, in the order in which they apply.
    pub const ALL: [Self; 8] = [
        Self::Listed,
        Self::Revoked,
        Self::Disabled,
        Self::UserDisabled,
        Self::Expired,
        Self::Superseded,
        Self::Grace,
        Self::Active,
    ];

    /// Whether a key of this status is let through.
    #[must_use]
    pub const fn is_usable(self) -> bool {
        match self {
            Self::Grace | Self::Active => true,
            Self::Listed | Self::Revoked | Self::Disabled | Self::UserDisabled | Self::Expired | Self::Superseded => {
                false
            }
        }
    }

    /// The name in API, log and metric.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Listed => "listed",
            Self::Revoked => "revoked",
            Self::Disabled => "disabled",
            Self::UserDisabled => "user_disabled",
            Self::Expired => "expired",
            Self::Superseded => "superseded",
            Self::Grace => "grace",
            Self::Active => "active",
        }
    }
}

impl Standing {
    /// The status at `now`. `listed` says whether the deny list names the key or its lineage.
    #[must_use]
    pub fn status(&self, listed: bool, now: Timestamp) -> Status {
        if listed {
            Status::Listed
        } else if self.states.revoked {
            Status::Revoked
        } else if self.states.disabled {
            Status::Disabled
        } else if self.user == UserStanding::Disabled {
            Status::UserDisabled
        } else if self.expires_at.is_some_and(|end| now >= end) {
            Status::Expired
        } else if self.states.superseded || self.grace_expires_at.is_some_and(|end| now >= end) {
            Status::Superseded
        } else if self.grace_expires_at.is_some() {
            Status::Grace
        } else {
            Status::Active
        }
    }

    /// The instant at which the key stops working by the clock alone: the earlier of expiry and
    /// the end of grace.
    #[must_use]
    pub fn ends_at(&self) -> Option<Timestamp> {
        match (self.expires_at, self.grace_expires_at) {
            (Some(expiry), Some(grace)) => Some(expiry.min(grace)),
            (end, None) | (None, end) => end,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FRESH: Standing = Standing {
        states: States { revoked: false, disabled: false, superseded: false },
        user: UserStanding::None,
        expires_at: None,
        grace_expires_at: None,
    };

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_seconds(seconds)
    }

    #[test]
    fn a_window_is_half_open() {
        let key = Standing { expires_at: Some(at(10)), ..FRESH };
        assert_eq!(key.status(false, Timestamp::from_nanos(at(10).nanos() - 1)), Status::Active);
        assert_eq!(key.status(false, at(10)), Status::Expired);
        let key = Standing { grace_expires_at: Some(at(10)), ..FRESH };
        assert_eq!(key.status(false, at(9)), Status::Grace);
        assert_eq!(key.status(false, at(10)), Status::Superseded);
    }

    #[test]
    fn grace_never_outlives_the_expiry() {
        let key = Standing { expires_at: Some(at(5)), grace_expires_at: Some(at(10)), ..FRESH };
        assert_eq!(key.status(false, at(4)), Status::Grace);
        assert_eq!(key.status(false, at(5)), Status::Expired);
        assert_eq!(key.ends_at(), Some(at(5)));
    }

    fn standing() -> impl Strategy<Value = Standing> {
        let user = prop_oneof![Just(UserStanding::None), Just(UserStanding::Active), Just(UserStanding::Disabled)];
        let end = || proptest::option::of((0i64..20).prop_map(at));
        (any::<[bool; 3]>(), user, end(), end()).prop_map(
            |([revoked, disabled, superseded], user, expires_at, grace_expires_at)| Standing {
                states: States { revoked, disabled, superseded },
                user,
                expires_at,
                grace_expires_at,
            },
        )
    }

    proptest! {
        #[test]
        fn a_state_holds_at_every_time(key in standing(), now in 0i64..20, later in 0i64..20) {
            let states = [Status::Listed, Status::Revoked, Status::Disabled, Status::UserDisabled];
            for listed in [false, true] {
                let status = key.status(listed, at(now));
                if states.contains(&status) {
                    prop_assert_eq!(key.status(listed, at(later)), status);
                }
                if key.states.is_terminal() {
                    prop_assert!(!status.is_usable());
                }
            }
        }

        #[test]
        fn a_key_that_ended_by_the_clock_never_works_again(key in standing(), now in 0i64..20, more in 0i64..20) {
            if !key.status(false, at(now)).is_usable() {
                prop_assert!(!key.status(false, at(now + more)).is_usable());
            }
        }

        #[test]
        fn a_usable_key_is_used_up_exactly_at_its_end(key in standing()) {
            if let Some(end) = key.ends_at() {
                prop_assert!(!key.status(false, end).is_usable());
            }
        }
    }
}
