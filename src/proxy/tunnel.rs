//! A WebSocket once both sides have agreed to it: bytes both ways until either side ends, or until
//! what let it through no longer does.

use std::rc::Rc;

use http::Response;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::copy_bidirectional;

use super::account::Account;
use super::streams::Streams;
use super::upstream::{AnyLink, Connector, Lease, Link};
use crate::listen::Peer;

/// The two ends of a WebSocket.
#[derive(Debug)]
pub(super) struct Tunnel {
    /// The client, once its 101 was written.
    pub(super) client: OnUpgrade,
    /// The upstream's 101.
    pub(super) response: Response<Incoming>,
    /// The upstream's connection, closed with the tunnel.
    pub(super) lease: Lease<Connector>,
}

impl Tunnel {
    /// Runs beside the worker's requests, and settles the account at the end.
    pub(super) fn run(self, peer: &Peer, account: Box<Account>, streams: &Rc<Streams>) {
        let open = streams.open(&account);
        peer.spawn(async move {
            let mut account = account;
            tokio::select! {
                biased;
                () = async {
                    match &open {
                        Some(open) => open.until_cut().await,
                        None => std::future::pending().await,
                    }
                } => account.broke_off(crate::policy::Code::InvalidKey),
                sent = self.carry() => account.sent = sent,
            }
        });
    }

    /// Carries bytes both ways; how many went to the client. That one side broke off concerns only
    /// the other, which sees its connection end.
    async fn carry(self) -> u64 {
        let Self { client, response, lease } = self;
        let (client, upstream) = tokio::join!(client, AnyLink::tunnel(response));
        let (Ok(client), Ok(mut upstream)) = (client, upstream) else { return 0 };
        let mut client = TokioIo::new(client);
        let carried = copy_bidirectional(&mut client, &mut upstream).await;
        drop(lease);
        carried.map_or(0, |(_received, sent)| sent)
    }
}
