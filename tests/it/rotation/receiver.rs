//! A receiver of webhooks, in Python, with the library of Standard Webhooks.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver as Heard, channel};
use std::time::Duration;

use serde_json::Value;

use crate::harness::Site;

/// How long a message may take to come.
const PATIENCE: Duration = Duration::from_secs(30);

/// A receiver over TLS, for `localhost`. It is killed when this is dropped.
pub(super) struct Receiver {
    child: Child,
    port: u16,
    heard: Heard<Value>,
}

impl Receiver {
    /// Makes the receiver's certificate, `receiver.pem`, in the site's folder, and starts it. It answers
    /// this status until it is told another.
    pub(super) fn start(site: &Site, status: u16) -> Self {
        let pair = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
        fs::write(site.path("receiver.pem"), pair.cert.pem()).expect("a file");
        fs::write(site.path("receiver.key"), pair.signing_key.serialize_pem()).expect("a file");
        fs::write(site.path("receiver.secrets"), "").expect("a file");
        Self::answers(site, status);
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let python = root.join("target/peers/bin/python");
        assert!(python.exists(), "target/peers is not there: run `make tools`, which installs what this test needs");
        let mut command = Command::new(python);
        command.env("PYTHONPYCACHEPREFIX", root.join("target/peers/cache"));
        command.args(["-m", "webhooks.receiver"]).current_dir(root.join("tests/peers"));
        command
            .args(["receiver.pem", "receiver.key", "receiver.secrets", "receiver.status"].map(|name| site.path(name)));
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("the receiver starts");
        let output = child.stdout.take().expect("a pipe");
        let (tell, heard) = channel();
        let mut lines = BufReader::new(output).lines().map_while(Result::ok);
        let port = lines.next().expect("its port").parse().expect("a port");
        std::thread::spawn(move || {
            for line in lines {
                // The test may have ended.
                let _gone = tell.send(serde_json::from_str(&line).expect("a line of JSON"));
            }
        });
        Self { child, port, heard }
    }

    pub(super) fn url(&self) -> String {
        format!("https://localhost:{}/hook", self.port)
    }

    /// Lets it verify with these secrets.
    pub(super) fn knows(site: &Site, secrets: &[&str]) {
        site.replace("receiver.secrets", &secrets.join("\n"));
    }

    /// Lets it answer this status.
    pub(super) fn answers(site: &Site, status: u16) {
        site.replace("receiver.status", &status.to_string());
    }

    /// The next message.
    pub(super) fn next(&self) -> Value {
        self.heard.recv_timeout(PATIENCE).expect("a message comes")
    }

    /// What has come already and was not looked at.
    pub(super) fn rest(&self) -> Vec<Value> {
        self.heard.try_iter().collect()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}
