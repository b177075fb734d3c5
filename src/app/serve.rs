//! `serve`: from a checked configuration to a running gateway, and to its end.
//!
//! The order matters. Everything that can be wrong is looked at before the first socket is opened;
//! sockets are bound before keys are loaded, so that a port in use is told at once; and nothing is
//! accepted as ready before the table answers.

use std::net::SocketAddr;
use std::num::NonZero;
use std::sync::Arc;
use std::thread;

use arc_swap::ArcSwap;
use prometheus::Registry;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::LocalSet;

use super::echo::Echo;
use super::error::AppError;
use super::process;
use super::reload::{Reloader, read_deny};
use super::watch::FileWatch;
use super::workers::{Workers, runtime};
use crate::clock::{Clock, SystemClock};
use crate::config::{Config, Environment, LogFormat};
use crate::listen::{Connections, ListenMetrics, Listening, bind};
use crate::ops::Ops;
use crate::proxy::{Gateway, ProxyMetrics, Shared};
use crate::ready::Readiness;
use crate::telemetry::{self, ProcessMetrics, start_log};
use crate::tls::{CertificateMetrics, Certificates};

/// What the command line adds to the configuration.
#[derive(Default)]
pub struct ServeOptions {
    /// Start from a snapshot that is older than one this gateway has known.
    pub accept_old_snapshot: bool,
    /// Where to start an upstream that echoes.
    pub echo: Option<SocketAddr>,
    /// Called once the gateway answers.
    pub on_ready: Option<Box<dyn FnOnce(&Bound)>>,
}
