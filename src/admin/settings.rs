//! What the management API is told by the configuration.

/// What can be changed by a reload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where it is reached from outside, without a slash at the end: what links begin with.
    pub public_url: Option<String>,
    /// Whether the keys of users manage those users' keys.
    pub self_service: bool,
    /// How many keys a user may have that manages them itself.
    pub keys_per_user_max: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { public_url: None, self_service: false, keys_per_user_max: 50 }
    }
}

/// Which endpoints a listener has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Surface {
    /// All of them.
    Whole,
    /// Those that a key uses for itself and its user: it may be reached from outside the management
    /// network.
    OwnKeys,
}

impl Surface {
    /// The listener's name in logs and metrics.
    #[must_use]
    pub const fn listener(self) -> &'static str {
        match self {
            Self::Whole => "admin",
            Self::OwnKeys => "self",
        }
    }
}
