//! `slowhttptest`, in its three modes: honest callers are served meanwhile, and it is rid of in time.

use std::process::{Command, Stdio};
use std::time::Duration;

use crate::harness::{Config, Http, Reply, Site, Stopwatch, Upstream, get, times, until};

/// Runs it with these arguments against a gateway that waits a second for anything.
fn attack(arguments: &[&str]) {
    let upstream = Upstream::answering(|request| match request.target.as_str() {
        "/public/large" => Reply::zeros(4 << 20),
        _ => Reply::text("hello"),
    });
    let patience = "timeouts = { first_byte = '1s', head = '1s', body_idle = '1s', idle = '1s' }";
    let site = Site::new(&Config::in_front_of(&upstream).gateway(patience).gateway("access_log = false"));
    let gateway = site.start();
    let size: u64 = times("KEYWARD_SLOWHTTPTEST", 100);
    let count = size.to_string();
    let tool = Command::new("slowhttptest")
        .args(["-c", &count, "-r", &count, "-l", "5", "-p", "3"])
        .args(arguments)
        .args(["-u", &format!("http://{}/public/large", gateway.address())])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("slowhttptest is installed: `make tools`");
    let mut tool = Tool(tool);
    let page = |name: &str| {
        let page = gateway.metrics();
        let line = page.lines().find_map(|line| line.strip_prefix(name).map(str::to_owned));
        line.and_then(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).unwrap_or_default()
    };
    until("the crowd", || page("keyward_connections_accepted_total{listener=\"gateway\"}") >= size);
    let watch = Stopwatch::start();
    let open = || page("keyward_connections_open{listener=\"gateway\"}");
    let mut honest = gateway.connect(Http::One);
    until("the end of the crowd", || {
        assert_eq!(honest.send(get("/public/x")).status, 200);
        // The honest one, and one with which the tool asks whether there is still service.
        open() <= 2
    });
    assert!(watch.elapsed() < Duration::from_secs(1 + 2), "shed after {:?}", watch.elapsed());
    let mut said = String::new();
    tool.0.wait().expect("a child process");
    if let Some(mut output) = tool.0.stdout.take() {
        std::io::Read::read_to_string(&mut output, &mut said).expect("text");
    }
    assert!(said.contains("YES") && !said.contains("NO"), "{said}");
}

/// The tool; it is killed when this is dropped.
struct Tool(std::process::Child);

impl Drop for Tool {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ended = self.0.kill();
        let _status = self.0.wait();
    }
}

#[test]
fn slow_heads_are_shed_and_disturb_nobody() {
    attack(&["-H", "-i", "1"]);
}

#[test]
fn slow_bodies_are_shed_and_disturb_nobody() {
    attack(&["-B", "-i", "1", "-s", "8192"]);
}

#[test]
fn slow_readers_are_shed_and_disturb_nobody() {
    attack(&["-X", "-n", "1", "-z", "5", "-w", "512", "-y", "1024"]);
}
