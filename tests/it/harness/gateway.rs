//! The running program: its addresses, its log, its process.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::Value;

use super::call::{Answer, Call, Connection, Http, client_config, get};
use super::site::Site;
use super::wait::until;

/// `keyward serve`. It is killed when this is dropped.
pub(crate) struct Gateway {
    child: Child,
    /// The process that serves, where it is no longer the child.
    successor: Mutex<Option<Pid>>,
    log: Log,
    stdout: Log,
    address: SocketAddr,
    ops: SocketAddr,
    certificate: Option<CertificateDer<'static>>,
    trusted_file: PathBuf,
}

/// What a process prints, line by line as it comes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<String>>>);

/// What `curl` saw.
#[derive(Debug)]
pub(crate) struct Curl {
    pub(crate) status: String,
    pub(crate) version: String,
    pub(crate) body: String,
}

impl Gateway {
    /// Starts it, and waits until it can decide requests.
    pub(crate) fn start(site: &Site) -> Self {
        let mut gateway = Self::start_unready(site);
        gateway.until_it_says("ready");
        gateway
    }

    /// Starts it with these environment variables, and waits until it can decide requests.
    pub(crate) fn start_with(site: &Site, environment: &[(&str, &str)]) -> Self {
        let mut command = site.command(["serve", "-c", "keyward.toml"]);
        command.envs(environment.iter().copied());
        Self::start_by(site, command)
    }

    /// Starts it, and waits until it listens.
    pub(crate) fn start_unready(site: &Site) -> Self {
        Self::launch(site, &[])
    }

    /// Runs a command that serves, and waits until it can decide requests.
    pub(crate) fn start_by(site: &Site, command: Command) -> Self {
        let mut gateway = Self::of_command(site, command);
        gateway.until_it_says("ready");
        gateway
    }

    fn launch(site: &Site, environment: &[(&str, &str)]) -> Self {
        let mut command = site.command(["serve", "-c", "keyward.toml"]);
        command.envs(environment.iter().copied());
        Self::of_command(site, command)
    }

    fn of_command(site: &Site, command: Command) -> Self {
        let (child, log, stdout) = spawn(command);
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let certificate = site.certificate().cloned();
        let trusted_file = site.path("tls/chain.pem");
        let mut gateway = Self {
            child,
            successor: Mutex::default(),
            log,
            stdout,
            address: nowhere,
            ops: nowhere,
            certificate,
            trusted_file,
        };
        gateway.address = gateway.until_it_listens("gateway");
        gateway.ops = gateway.until_it_listens("ops");
        gateway
    }

    fn until_it_listens(&mut self, listener: &str) -> SocketAddr {
        let wanted = |line: &Value| said(line) == "listening" && field(line, "listener") == listener;
        let line = self.until_a_line(listener, wanted);
        field(&line, "address").parse().expect("an address")
    }

    fn until_it_says(&mut self, message: &str) {
        self.until_a_line(message, |line| said(line) == message);
    }

    fn until_a_line(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let mut found = None;
        until(what, || {
            let ended = self.child.try_wait().expect("a child process");
            assert!(ended.is_none(), "serve ended with {ended:?}:\n{}", self.log.text());
            found = self.log.find(&wanted);
            found.is_some()
        });
        found.expect("it was found")
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether callers reach it over TLS.
    pub(crate) fn is_tls(&self) -> bool {
        self.certificate.is_some()
    }

    /// What its TLS listener shows, where it has one.
    pub(crate) fn certificate(&self) -> Option<&CertificateDer<'static>> {
        self.certificate.as_ref()
    }

    /// A connection to the gateway's listener.
    pub(crate) fn connect(&self, http: Http) -> Connection {
        Connection::open(self.address, self.certificate.as_ref(), http)
    }

    /// Whether a client that trusts this certificate alone comes through the handshake.
    pub(crate) fn shows(&self, certificate: &CertificateDer<'static>) -> bool {
        let name = ServerName::try_from("localhost").expect("a name");
        let config = client_config(certificate, Http::One);
        let mut tls = rustls::ClientConnection::new(config, name).expect("a client");
        let mut stream = TcpStream::connect(self.address).expect("the gateway accepts connections");
        stream.set_read_timeout(Some(Duration::from_secs(5))).expect("a socket");
        while tls.is_handshaking() {
            if tls.complete_io(&mut stream).is_err() {
                return false;
            }
        }
        true
    }

    /// Whether it still takes connections.
    pub(crate) fn accepts(&self) -> bool {
        TcpStream::connect(self.address).is_ok()
    }

    /// One call on a connection of its own, over HTTP/1.1.
    pub(crate) fn send(&self, call: Call) -> Answer {
        self.connect(Http::One).send(call)
    }

    /// Sends bytes on a connection in clear, and what comes back: until there is an answer of a
    /// known length, or the gateway closes the connection.
    pub(crate) fn raw(&self, bytes: impl AsRef<[u8]>) -> String {
        let mut stream = TcpStream::connect(self.address).expect("the gateway accepts connections");
        stream.set_read_timeout(Some(Duration::from_secs(5))).expect("a socket");
        // The gateway may answer and close before it has read everything.
        let _cut_short = stream.write_all(bytes.as_ref());
        let (mut answer, mut chunk) = (Vec::new(), [0; 4096]);
        while !is_whole(&answer) {
            match stream.read(&mut chunk) {
                Ok(0) | Err(_) => break,
                Ok(length) => answer.extend_from_slice(&chunk[..length]),
            }
        }
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// Runs `curl` against the gateway with these arguments.
    pub(crate) fn curl(&self, arguments: &[&str], path: &str) -> Curl {
        let scheme = if self.certificate.is_some() { "https" } else { "http" };
        let output = Command::new("curl")
            .args(["--silent", "--show-error", "--max-time", "30", "--write-out", "\n%{http_code} %{http_version}"])
            .arg("--cacert")
            .arg(&self.trusted_file)
            .args(["--resolve", &format!("localhost:{}:127.0.0.1", self.address.port())])
            .args(arguments)
            .arg(format!("{scheme}://localhost:{}{path}", self.address.port()))
            .output()
            .expect("curl is installed");
        let text = String::from_utf8_lossy(&output.stdout);
        let (body, seen) = text.rsplit_once('\n').expect("curl writes out the last line");
        let (status, version) = seen.split_once(' ').expect("curl writes out two words");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Curl { status: status.to_owned(), version: version.to_owned(), body: body.to_owned() }
    }

    /// What the operations listener answers.
    pub(crate) fn ops(&self, path: &str) -> Answer {
        Connection::open(self.ops, None, Http::One).send(get(path))
    }

    /// Where one of the further listeners is: `admin` or `self`.
    pub(crate) fn listener(&self, name: &str) -> SocketAddr {
        let line = self.log.find(|line| said(line) == "listening" && field(line, "listener") == name);
        let line = line.unwrap_or_else(|| panic!("{name} does not listen:\n{}", self.log.text()));
        field(&line, "address").parse().expect("an address")
    }

    /// What the management API answers.
    pub(crate) fn api(&self, call: Call) -> Answer {
        Connection::open(self.listener("admin"), None, Http::One).send(call)
    }

    pub(crate) fn metrics(&self) -> String {
        let address = self.ops;
        let mut stream = TcpStream::connect(address).expect("the operations listener accepts connections");
        write!(stream, "GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").expect("a request");
        let mut page = String::new();
        stream.read_to_string(&mut page).expect("a page of metrics");
        page
    }

    /// Everything logged so far.
    pub(crate) fn log(&self) -> String {
        self.log.text()
    }

    /// What was printed on standard output, which should be nothing.
    pub(crate) fn stdout(&self) -> String {
        self.stdout.text()
    }

    /// How many lines were logged so far, to look only at later ones.
    pub(crate) fn log_mark(&self) -> usize {
        self.log.look(|lines| lines.len())
    }

    /// Waits for a line after `mark` that has `needle` in it.
    pub(crate) fn until_logged(&self, mark: usize, needle: &str) -> String {
        let mut found = String::new();
        until(&format!("{needle:?} in the log"), || {
            let line = self.log.look(|lines| lines.iter().skip(mark).find(|line| line.contains(needle)).cloned());
            let is_there = line.is_some();
            found = line.unwrap_or_default();
            is_there
        });
        found
    }

    /// Asks for the new binary, and waits until it serves alone.
    pub(crate) fn upgrade(&self) {
        let mark = self.log_mark();
        self.ask_for_upgrade();
        let line: Value = serde_json::from_str(&self.until_logged(mark, "the new process is ready")).expect("JSON");
        let process = line["process"].as_i64().or_else(|| line["fields"]["process"].as_i64()).expect("a process id");
        *self.successor.lock().unwrap_or_else(PoisonError::into_inner) =
            Pid::from_raw(i32::try_from(process).expect("process ids are small"));
    }

    /// Asks for the new binary, whatever comes of it.
    pub(crate) fn ask_for_upgrade(&self) {
        self.signal(Signal::USR2);
    }

    /// The process that serves.
    pub(crate) fn process(&self) -> Pid {
        let child = i32::try_from(self.child.id()).expect("process ids are small");
        let successor = *self.successor.lock().unwrap_or_else(PoisonError::into_inner);
        successor.or_else(|| Pid::from_raw(child)).expect("process ids are positive")
    }

    /// Waits until the process that serves, which is not the first any more, has ended.
    pub(crate) fn successor_ended(&self) {
        let process = format!("/proc/{}", self.process().as_raw_nonzero());
        // Nobody here can wait for a grandchild: it may stay as a zombie. What it holds is free once the last
        // of its threads has ended.
        let threads = || fs::read_dir(format!("{process}/task")).map_or(0, Iterator::count);
        until("the end of the process", || {
            fs::read_to_string(format!("{process}/stat"))
                .map_or(true, |text| text.rsplit(") ").next().is_some_and(|it| it.starts_with('Z')) && threads() <= 1)
        });
    }

    pub(crate) fn hang_up(&self) {
        self.signal(Signal::HUP);
    }

    /// Asks it to stop; [`Gateway::ended`] tells how that went.
    pub(crate) fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Waits for the process to end by itself.
    pub(crate) fn ended(&mut self) -> ExitStatus {
        let mut status = None;
        until("the end of the process", || {
            status = self.child.try_wait().expect("a child process");
            status.is_some()
        });
        status.expect("it has ended")
    }

    /// Ends it at once, as a crash does.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("a child process");
        self.child.wait().expect("a child process");
    }

    /// Lets it have so many more open files than it has now.
    pub(crate) fn leave_files(&self, more: u64) {
        let pid = self.child.id();
        let open = fs::read_dir(format!("/proc/{pid}/fd")).expect("a live process").count();
        let limit = Some(u64::try_from(open).expect("few") + more);
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
        prlimit(pid, Resource::Nofile, Rlimit { current: limit, maximum: limit }).expect("our own child");
    }

    /// The time it has spent on the processor, in ticks of a hundredth of a second.
    pub(crate) fn cpu_ticks(&self) -> u64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).expect("a live process");
        let after_name = stat.rsplit(')').next().expect("Linux names the program");
        // The 14th and 15th of all: in the program, and in the system for it.
        after_name.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<u64>().expect("a number")).sum()
    }

    /// The most memory it has held at a time, in KiB.
    pub(crate) fn resident_kib_max(&self) -> u64 {
        self.memory_kib("VmHWM:")
    }

    /// The memory that it holds of its own, apart from files, in KiB.
    pub(crate) fn resident_kib(&self) -> u64 {
        self.memory_kib("RssAnon:")
    }

    fn memory_kib(&self, name: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("a live process");
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("Linux tells it");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }

    fn signal(&self, signal: Signal) {
        kill_process(self.process(), signal).expect("a live process");
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // They may have ended by themselves.
        if let Some(successor) = self.successor.get_mut().unwrap_or_else(PoisonError::into_inner) {
            let _ended = kill_process(*successor, Signal::KILL);
        }
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
        if std::thread::panicking() {
            let lines = self.log.lines();
            eprintln!("--- the gateway's last words ---\n{}", lines[lines.len().saturating_sub(40)..].join("\n"));
        }
    }
}

/// Whether an answer has come with all the bytes that its head promises.
fn is_whole(answer: &[u8]) -> bool {
    let text = String::from_utf8_lossy(answer).to_ascii_lowercase();
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    length.is_some_and(|length| length.trim().parse().is_ok_and(|length: usize| body.len() >= length))
}

/// Starts a command and listens to both its outputs.
pub(crate) fn spawn(mut command: Command) -> (Child, Log, Log) {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts");
    let stdout = Log::follow(child.stdout.take().expect("a pipe"));
    let stderr = Log::follow(child.stderr.take().expect("a pipe"));
    (child, stderr, stdout)
}

impl Log {
    fn follow(output: impl Read + Send + 'static) -> Self {
        let log = Self::default();
        let lines = log.clone();
        std::thread::Builder::new()
            .name("log".into())
            .spawn(move || {
                for line in BufReader::new(output).lines().map_while(Result::ok) {
                    lines.0.lock().unwrap_or_else(PoisonError::into_inner).push(line);
                }
            })
            .expect("a thread");
        log
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.look(<[String]>::to_vec)
    }

    /// Looks at the lines where they are: a long run has millions.
    fn look<T>(&self, at: impl FnOnce(&[String]) -> T) -> T {
        at(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn text(&self) -> String {
        self.lines().join("\n")
    }

    fn find(&self, wanted: impl Fn(&Value) -> bool) -> Option<Value> {
        self.lines().iter().filter_map(|line| serde_json::from_str(line).ok()).find(|line| wanted(line))
    }
}

/// What a log line is about.
fn said(line: &Value) -> &str {
    field(line, "message")
}

/// A field of a log line; empty where it has none.
fn field<'l>(line: &'l Value, name: &str) -> &'l str {
    line[name].as_str().or_else(|| line["fields"][name].as_str()).unwrap_or_default()
}
