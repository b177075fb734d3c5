//! The composition root: builds every part from a checked configuration, binds, starts, reloads and
//! drains. It holds no rule of its own; it hands the parts to each other.

mod channel;
mod echo;
mod error;
mod examine;
mod init;
mod management;
mod moving;
mod opening;
mod process;
mod quickstart;
mod reassert;
mod reload;
mod rotation;
mod running;
mod secrets;
mod serve;
mod signals;
mod sockets;
mod supervisor;
mod upgrade;
mod watch;
mod workers;

pub use error::AppError;
pub use init::{Initialised, init};
pub use moving::{accept_restore, back_up, copy_store, restore, retold};
pub use opening::{Opened, open_store, remembers_a_store};
pub use process::keep_memory_private;
pub use quickstart::{Demo, Quickstart, prepare as prepare_quickstart};
pub use rotation::manager;
pub use secrets::{AddedSecret, SecretStanding, forget_secret, list_secrets, rotate_secrets};
pub use serve::{Bound, OnReady, ServeOptions, serve};
