//! A real nginx behind the gateway.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::peer::Authority;
use crate::harness::{Config, Http, Site, get, post, until};

/// nginx in a folder of its own. It is killed when this is dropped.
struct Nginx {
    child: Child,
    _folder: tempfile::TempDir,
    port: u16,
}

impl Nginx {
    fn start(authority: &Authority) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("a file");
        let shown = authority.issue("localhost");
        write("chain.pem", &shown.chain);
        write("key.pem", &shown.key);
        let port = free_port();
        let at = folder.path().display();
        write(
            "nginx.conf",
            &format!(
                "daemon off; worker_processes 1; pid {at}/pid; error_log {at}/error.log;\n\
                 events {{ worker_connections 256; }}\n\
                 http {{ access_log off; client_body_temp_path {at}/body; proxy_temp_path {at}/proxy;\n\
                 fastcgi_temp_path {at}/f; uwsgi_temp_path {at}/u; scgi_temp_path {at}/s;\n\
                 keepalive_requests 50; client_max_body_size 0;\n\
                 server {{ listen 127.0.0.1:{port} ssl; ssl_certificate {at}/chain.pem; ssl_certificate_key {at}/key.pem;\n\
                 location / {{ return 200 \"$server_protocol $host $connection_requests\"; }}\n\
                 location /public/large {{ root {at}; }} }} }}\n"
            ),
        );
        let child = Command::new("nginx")
            .args(["-e", "stderr", "-c"])
            .arg(folder.path().join("nginx.conf"))
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("nginx is installed");
        let nginx = Self { child, _folder: folder, port };
        until("nginx", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
        nginx
    }

    fn folder(&self) -> &Path {
        self._folder.path()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // The master ends its worker on this.
        let id = i32::try_from(self.child.id()).expect("process ids are small");
        let id = rustix::process::Pid::from_raw(id).expect("process ids are positive");
        let _gone = rustix::process::kill_process(id, rustix::process::Signal::TERM);
        let _ended = self.child.wait();
    }
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}

#[test]
fn nginx_over_tls_answers_over_kept_connections_and_loses_none_when_it_closes_them() {
    let authority = Authority::new();
    let nginx = Nginx::start(&authority);
    let service = format!("targets = ['https://localhost:{}']\n[upstreams.service.tls]\nca = 'ca.pem'", nginx.port);
    let site = Site::new(&Config::towards(&service).gateway_workers(1));
    site.replace("ca.pem", &authority.pem());
    std::fs::create_dir(nginx.folder().join("public")).expect("a folder");
    std::fs::write(nginx.folder().join("public/large"), vec![b'x'; 3 << 20]).expect("a file");
    let gateway = site.start();
    let mut connection = gateway.connect(Http::One);
    let first = connection.send(get("/public/x").host("api.example"));
    assert_eq!(first.text(), "HTTP/1.1 api.example 1");
    // It closes a connection after 50 requests.
    for turn in 0..200 {
        let call = if turn % 2 == 0 { get("/public/x") } else { post("/public/x").text("body") };
        assert_eq!(connection.send(call).status, 200, "turn {turn}");
    }
    let large = connection.send(get("/public/large"));
    assert_eq!((large.body.bytes, large.body.broken), (3 << 20, None));
    // 8 handshakes at most for 202 requests.
    let metrics = gateway.metrics();
    let made = super::sum(&metrics, "keyward_upstream_connections_total");
    assert!((1.0..9.0).contains(&made), "{made}");
}
