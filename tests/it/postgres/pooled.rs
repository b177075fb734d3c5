//! Through `PgBouncer`, which gives a connection to somebody else after every transaction: everything
//! works but hearing of commits, which says so.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Stdio};

use crate::harness::{Care, Cluster, Config, Site, Upstream, as_somebody, get, give, until};

/// `pgbouncer` in front of a server. It is killed when this is dropped.
struct Pooler {
    child: Child,
    port: u16,
    _folder: tempfile::TempDir,
}

impl Pooler {
    fn before(cluster: &Cluster) -> Self {
        let folder = tempfile::Builder::new().prefix("kwpb").tempdir_in("/tmp").expect("a folder");
        let free = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a free port");
        // Two connections for everybody: each transaction gets another one.
        let settings = format!(
            "[databases]\nkeyward = host=127.0.0.1 port={} dbname=keyward\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
             listen_port = {}\nauth_type = any\npool_mode = transaction\ndefault_pool_size = 2\nmax_client_conn = 100\n\
             unix_socket_dir =\nlogfile = {}/log\n",
            cluster.port(),
            free.port(),
            folder.path().display()
        );
        let settings = settings.replace("dbname=keyward", "dbname=keyward user=keyward");
        let file = folder.path().join("pgbouncer.ini");
        fs::write(&file, settings).expect("a file");
        give(folder.path());
        let program = std::path::Path::new("/usr/sbin/pgbouncer");
        let mut command = as_somebody(&["--pdeathsig", "KILL"], program);
        command.arg(&file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().expect("pgbouncer starts: make tools");
        until("the pooler", || TcpStream::connect(free).is_ok());
        Self { child, port: free.port(), _folder: folder }
    }

    fn url(&self) -> String {
        format!("postgres://keyward@127.0.0.1:{}/keyward", self.port)
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _ended = self.child.wait();
    }
}

#[test]
fn all_but_hearing_works_through_a_pooler_and_hearing_goes_past_it() {
    let (upstream, cluster) = (Upstream::start(), Cluster::start(Care::Fast));
    let pooler = Pooler::before(&cluster);
    let site = Site::new(&Config::in_front_of(&upstream).postgres(&pooler.url(), ""));
    let gateway = site.start();
    let keys: Vec<_> = (0..5).map(|_| site.key(&["keyring.read"])).collect();
    let status = |gateway: &crate::harness::Gateway, token: &str| gateway.send(get("/keyrings/a").bearer(token)).status;
    for key in &keys {
        assert_eq!(status(&gateway, &key.token), 200);
    }
    until("that it says so", || gateway.log().contains("are found by polling"));
    site.revoke(&keys[0]);
    until("the revocation", || status(&gateway, &keys[0].token) == 401);
    assert_eq!(gateway.log().matches("are found by polling").count(), 1, "once");

    // Another gateway listens past the pooler, and hears: polling alone would take an hour.
    let listen = format!("listen_url = '{}'", cluster.url());
    let config = Config::in_front_of(&upstream).postgres(&pooler.url(), &listen);
    let other = site.beside(&config.sync("poll = '1h'").sync("max_staleness = '2h'"));
    let hearing = other.start();
    assert_eq!(status(&hearing, &keys[1].token), 200);
    site.revoke(&keys[1]);
    until("the revocation", || status(&hearing, &keys[1].token) == 401);
    assert!(!hearing.log().contains("are found by polling"));
}
