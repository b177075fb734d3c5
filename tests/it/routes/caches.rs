//! A real cache in front of the gateway, and one behind it.

use std::fmt::Write as _;
use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::harness::{Answer, Call, Config, Connection, Http, Reply, Site, Upstream, get, until};

/// A caching nginx in front of `target`. It ends when this is dropped.
struct Nginx {
    child: Child,
    address: SocketAddr,
    _folder: TempDir,
}

impl Nginx {
    fn start(target: SocketAddr, cache_key: &str) -> Self {
        let folder = TempDir::with_prefix("keyward-nginx-").expect("a folder");
        let address = TcpListener::bind("127.0.0.1:0").and_then(|probe| probe.local_addr()).expect("a free port");
        fs::write(folder.path().join("nginx.conf"), configuration(folder.path(), address, target, cache_key))
            .expect("a file");
        let child = Command::new("nginx")
            .arg("-p")
            .arg(folder.path())
            .args(["-c", "nginx.conf", "-e", "error.log"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("nginx is installed");
        let nginx = Self { child, address, _folder: folder };
        until("nginx", || TcpStream::connect(nginx.address).is_ok());
        nginx
    }

    fn send(&self, call: Call) -> Answer {
        Connection::open(self.address, None, Http::One).send(call)
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // One process, so nothing of it is left.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

fn configuration(folder: &Path, listen: SocketAddr, target: SocketAddr, cache_key: &str) -> String {
    let mut text = String::from("daemon off; master_process off; worker_processes 1; pid nginx.pid;\n");
    let folder = folder.display();
    writeln!(text, "events {{ worker_connections 64; }}\nhttp {{\naccess_log off;").expect("text grows");
    for temporary in ["client_body", "fastcgi", "uwsgi", "scgi", "proxy"] {
        writeln!(text, "{temporary}_temp_path {folder}/{temporary};").expect("text grows");
    }
    write!(
        text,
        "proxy_cache_path {folder}/cache keys_zone=all:1m;\n\
         server {{ listen {listen};\n location / {{ proxy_pass http://{target}; proxy_http_version 1.1; \
         proxy_set_header Host $host; proxy_cache all; proxy_cache_key \"{cache_key}\"; \
         proxy_cache_valid any 10m; add_header x-cache $upstream_cache_status always; }} }}\n}}\n"
    )
    .expect("text grows");
    text
}

/// A service that tells each caller who it is, with what the path says about caches.
fn whoami() -> Upstream {
    Upstream::answering(|request| {
        let who = request.header("keyward-key-id").unwrap_or("nobody").to_owned();
        let reply = Reply::text(who);
        match request.target.rsplit('/').next().unwrap_or_default() {
            "lasting" => reply.header("cache-control", "max-age=600"),
            "expiring" => reply.header("expires", "Thu, 31 Dec 2037 23:55:55 GMT"),
            "public" => reply.header("cache-control", "public, max-age=600"),
            "shared" => reply.header("cache-control", "s-maxage=600"),
            "varied" => reply.header("cache-control", "max-age=600").header("vary", "keyward-key-id"),
            _ => reply,
        }
    })
}

fn config(target: SocketAddr) -> Config {
    Config::to(target)
        .route("name = 'any'\npath = '/any/{*rest}'\nany_key = true")
        .route(
            "name = 'two'\npath = '/two/{*rest}'\nany_key = true\nshared_cache = true\n\
             credential = ['bearer', { header = 'x-api-key' }]",
        )
        .route("name = 'public'\npath = '/public/{*rest}'\npublic = true")
}

#[test]
fn a_cache_in_front_never_serves_one_keys_answer_to_another() {
    let upstream = whoami();
    let site = Site::new(&config(upstream.address()));
    let keys = [site.key(&[]), site.key(&[])];
    let gateway = site.start();
    let cache = Nginx::start(gateway.address(), "$scheme$host$request_uri");
    for route in ["any", "two"] {
        for kind in ["plain", "lasting", "expiring", "public", "shared", "varied"] {
            let path = format!("/{route}/{kind}");
            for _ in 0..3 {
                for key in &keys {
                    let answer = cache.send(get(&path).bearer(&key.token));
                    assert_eq!((answer.status, answer.text()), (200, key.id.clone()), "{path}");
                    if route == "two" {
                        let answer = cache.send(get(&path).header("x-api-key", &key.token));
                        assert_eq!((answer.status, answer.text()), (200, key.id.clone()), "{path} by x-api-key");
                    }
                }
                // A refusal is not kept for the next, nor does somebody without a key get what is kept.
                assert_eq!(cache.send(get(&path)).status, 401, "{path}");
                assert_eq!(cache.send(get(&path).bearer("kw_live_nonsense")).status, 401, "{path}");
            }
        }
    }
    // Nothing is kept that nobody said may be shared, and what may be is.
    let hit = |path: &str| {
        let sent = || cache.send(get(path).bearer(&keys[0].token));
        sent();
        sent().header("x-cache") == Some("HIT")
    };
    for kind in ["plain", "lasting", "expiring"] {
        assert!(!hit(&format!("/any/{kind}")), "{kind} was kept");
    }
    for path in ["/any/public", "/any/shared", "/two/lasting", "/public/lasting"] {
        assert!(hit(path), "{path} was not kept");
    }
}

#[test]
fn a_key_that_was_refused_is_let_in_once_it_may_although_there_is_a_cache() {
    let upstream = whoami();
    let site = Site::new(&config(upstream.address()));
    let key = site.key(&[]);
    site.keys(&["update", &key.id, "--disable"]);
    let gateway = site.start();
    let cache = Nginx::start(gateway.address(), "$scheme$host$request_uri");
    let send = || cache.send(get("/any/public").bearer(&key.token));
    let refused = send();
    assert_eq!((refused.status, refused.header("cache-control")), (401, Some("no-store")));
    site.keys(&["update", &key.id, "--enable"]);
    until("the key to be on", || send().status == 200);
}

#[test]
fn a_cache_behind_tells_keys_apart_by_their_id() {
    let upstream = whoami();
    // By the service's word, or by the cache's own key.
    for (cache_key, path) in [("$request_uri", "/any/varied"), ("$request_uri $http_keyward_key_id", "/any/lasting")] {
        let cache = Nginx::start(upstream.address(), cache_key);
        let site = Site::new(&config(cache.address));
        let keys = [site.key(&[]), site.key(&[])];
        let gateway = site.start();
        for round in 0..3 {
            for key in &keys {
                // No caller can say that it is another.
                let answer = gateway.send(get(path).bearer(&key.token).header("keyward-key-id", &keys[0].id));
                assert_eq!((answer.status, answer.text()), (200, key.id.clone()), "{path}");
                assert_eq!(answer.header("x-cache"), Some(if round == 0 { "MISS" } else { "HIT" }), "{path}");
            }
        }
        assert_eq!(gateway.send(get(path)).status, 401);
    }
}
