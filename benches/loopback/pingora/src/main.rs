//! A proxy on Pingora that lets through who has one of the known keys: SHA-512 of the bearer token, looked up
//! in a set. Called by `make bench` with: threads, port in clear text, port with TLS, port of the service,
//! file of tokens, certificate chain, private key.

use std::collections::HashSet;
use std::sync::Arc;

use async_trait::async_trait;
use pingora::http::RequestHeader;
use pingora::listeners::tls::TlsSettings;
use pingora::prelude::{HttpPeer, ProxyHttp, Result, Session, http_proxy_service};
use pingora::server::Server;
use pingora::server::configuration::ServerConf;
use sha2::{Digest, Sha512};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

struct Gate {
    keys: Arc<HashSet<[u8; 64]>>,
    service: String,
}

#[async_trait]
impl ProxyHttp for Gate {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn request_filter(&self, session: &mut Session, _ctx: &mut ()) -> Result<bool> {
        let field = session.req_header().headers.get("authorization");
        let token = field.and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
        if token.is_some_and(|token| self.keys.contains(&<[u8; 64]>::from(Sha512::digest(token)))) {
            return Ok(false);
        }
        session.respond_error(401).await?;
        Ok(true)
    }

    async fn upstream_peer(&self, _session: &mut Session, _ctx: &mut ()) -> Result<Box<HttpPeer>> {
        Ok(Box::new(HttpPeer::new(&*self.service, false, String::new())))
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        _ctx: &mut (),
    ) -> Result<()> {
        request.remove_header("authorization");
        if let Some(address) = session.client_addr().and_then(|address| address.as_inet()) {
            request.insert_header("x-forwarded-for", address.ip().to_string())?;
        }
        Ok(())
    }
}

fn main() {
    let given: Vec<String> = std::env::args().skip(1).collect();
    let [threads, clear, tls, service, keys, chain, private] = given.as_slice() else {
        panic!("expected seven arguments, found {}", given.len());
    };
    let keys = std::fs::read_to_string(keys).expect("a file of tokens");
    let keys = Arc::new(keys.lines().map(|token| <[u8; 64]>::from(Sha512::digest(token))).collect());
    let threads = threads.parse().expect("a number of threads");
    let conf = ServerConf { threads, upstream_keepalive_pool_size: 2048, ..ServerConf::default() };
    let mut server = Server::new_with_opt_and_conf(None, conf);
    server.bootstrap();
    let mut proxy = http_proxy_service(&server.configuration, Gate { keys, service: format!("127.0.0.1:{service}") });
    proxy.add_tcp(&format!("127.0.0.1:{clear}"));
    let mut settings = TlsSettings::intermediate(chain, private).expect("a certificate");
    settings.enable_h2();
    proxy.add_tls_with_settings(&format!("127.0.0.1:{tls}"), None, settings);
    server.add_service(proxy);
    server.run_forever();
}
