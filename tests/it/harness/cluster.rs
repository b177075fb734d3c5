//! A PostgreSQL server of a test's own: started from a template that is made once, on a free port, as
//! somebody who is not root, and gone with the test, however that ends.
//!
//! The tests of the store inside the library use this file too, so it needs nothing of the harness.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

/// How long a server may take for anything.
const PATIENCE: u32 = 3000;
const MOMENT: Duration = Duration::from_millis(10);
/// Who runs the server where root runs the tests: it refuses root.
const NOBODY: u32 = 65534;

/// A running PostgreSQL server. It is killed when this is dropped.
pub(crate) struct Cluster {
    folder: tempfile::TempDir,
    programs: PathBuf,
    settings: Vec<String>,
    port: u16,
    server: Option<Child>,
}

/// How careful a server is with its disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Care {
    /// As by default: what it acknowledged is on the disk.
    Durable,
    /// As fast as it goes, for tests that lose nothing.
    Fast,
}

impl Cluster {
    /// A server that holds one empty database, `keyward`, of a user of that name.
    pub(crate) fn start(care: Care) -> Self {
        Self::start_with(care, &programs(), |_folder| Vec::new())
    }

    /// A server of the programs in a folder, with settings such as `ssl=on`; `settings` is given the data
    /// folder, and may put files there.
    pub(crate) fn start_with(care: Care, programs: &Path, settings: impl FnOnce(&Path) -> Vec<String>) -> Self {
        let folder = tempfile::Builder::new().prefix("kwpg").tempdir_in("/tmp").expect("a temporary folder");
        let data = folder.path().join("data");
        copy(&template(programs), &data);
        let mut settings = settings(&data);
        if care == Care::Fast {
            settings.extend(["fsync=off", "full_page_writes=off", "synchronous_commit=off"].map(str::to_owned));
        }
        give(folder.path());
        let mut cluster = Self { folder, programs: programs.to_owned(), settings, port: 0, server: None };
        cluster.launch();
        cluster.sql_of("postgres", "CREATE DATABASE keyward");
        cluster
    }

    /// Where its database is, for whoever may come.
    pub(crate) fn url(&self) -> String {
        format!("postgres://keyward@127.0.0.1:{}/keyward", self.port)
    }

    pub(crate) const fn port(&self) -> u16 {
        self.port
    }

    /// Its data folder.
    pub(crate) fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Runs statements in its database, and answers what they say, a row a line.
    pub(crate) fn sql(&self, statements: &str) -> String {
        self.sql_of("keyward", statements)
    }

    fn sql_of(&self, database: &str, statements: &str) -> String {
        let mut psql = Command::new(client("psql"));
        psql.args(["-X", "-q", "-t", "-A", "-v", "ON_ERROR_STOP=1", "-h"]).arg(self.folder.path());
        psql.args(["-p", &self.port.to_string(), "-U", "keyward", "-d", database, "-c", statements]);
        let ran = psql.output().expect("psql runs");
        assert!(ran.status.success(), "{statements}: {}", String::from_utf8_lossy(&ran.stderr));
        String::from_utf8_lossy(&ran.stdout).trim().to_owned()
    }

    /// Its major version.
    pub(crate) fn version(&self) -> u32 {
        version_of(&self.programs.join("postgres"))
    }

    /// Another server that follows this one through `source`, a port of this machine. This one is stopped while its
    /// data are copied, and started again.
    pub(crate) fn standby(&mut self, source: u16) -> Self {
        self.end(Signal::INT);
        let folder = tempfile::Builder::new().prefix("kwpg").tempdir_in("/tmp").expect("a temporary folder");
        let data = folder.path().join("data");
        copy(&self.data(), &data);
        self.restart();
        File::create(data.join("standby.signal")).expect("a file");
        give(folder.path());
        let mut settings = self.settings.clone();
        settings.push(format!(
            "primary_conninfo=host=127.0.0.1 port={source} user=keyward sslmode=disable gssencmode=disable"
        ));
        let mut standby = Self { folder, programs: self.programs.clone(), settings, port: 0, server: None };
        standby.launch();
        standby
    }

    /// Makes a standby a server of its own, with what it has.
    pub(crate) fn promote(&self) {
        assert_eq!(self.sql_of("postgres", "SELECT pg_promote()"), "t", "{}", self.log());
    }

    /// Ends it as somebody does who cannot wait: its parts are told to stop where they are.
    pub(crate) fn end_at_once(&mut self) {
        self.end(Signal::QUIT);
    }

    /// Kills its main process alone: its parts notice that, some of them after the commit that they were at.
    pub(crate) fn kill_main(&mut self) {
        self.end(Signal::KILL);
    }

    /// Kills it as a crash would: all of its processes, and nothing is written any more.
    pub(crate) fn kill(&mut self) {
        let Some(server) = &self.server else { return };
        // Held first, so that no process comes while they are counted: one that is left over may still commit.
        let main = Pid::from_child(server);
        kill_process(main, Signal::STOP).expect("it runs");
        let parts = children(server.id());
        self.end(Signal::KILL);
        for part in &parts {
            let _gone = Pid::from_raw(*part).map(|part| kill_process(part, Signal::KILL));
        }
        for part in parts {
            for _moment in 0..PATIENCE {
                if state_of(part).is_none_or(|state| state == 'Z') {
                    break;
                }
                sleep(MOMENT);
            }
        }
        let socket = format!(".s.PGSQL.{}", self.port);
        for name in [socket.clone(), format!("{socket}.lock")] {
            let _gone = fs::remove_file(self.folder.path().join(name));
        }
    }

    /// Starts it again, on the same port.
    pub(crate) fn restart(&mut self) {
        assert!(self.server.is_none(), "it runs");
        let mut tried = 0;
        // After a crash it waits for the last of its children to be gone.
        while !self.try_launch(self.port) {
            tried += 1;
            assert!(tried < 100, "it does not start again: {}", self.log());
            sleep(Duration::from_millis(50));
        }
    }

    fn end(&mut self, signal: Signal) {
        if let Some(mut server) = self.server.take() {
            let _gone = kill_process(Pid::from_child(&server), signal);
            server.wait().expect("it was a child");
        }
    }

    fn launch(&mut self) {
        for _attempt in 0..20 {
            let free = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a free port");
            if self.try_launch(free.port()) {
                return;
            }
        }
        panic!("it does not start: {}", self.log());
    }

    fn try_launch(&mut self, port: u16) -> bool {
        let log = File::options().create(true).append(true).open(self.log_file()).expect("a log");
        // Whatever kills the test, the server hears of it.
        let mut command = as_somebody(&["--pdeathsig", "QUIT"], &self.programs.join("postgres"));
        command.arg("-D").arg(self.data()).arg("-k").arg(self.folder.path());
        let port_text = port.to_string();
        command.args(["-p", &port_text, "-c", "listen_addresses=127.0.0.1", "-c", "shared_buffers=16MB"]);
        command.args(["-c", "jit=off", "-c", "max_connections=60", "-c", "autovacuum_naptime=600"]);
        for setting in &self.settings {
            command.args(["-c", setting]);
        }
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a log")).stderr(log);
        let mut server = command.spawn().expect("the server starts");
        for _moment in 0..PATIENCE {
            if server.try_wait().expect("a child").is_some() {
                return false;
            }
            let status = fs::read_to_string(self.data().join("postmaster.pid")).unwrap_or_default();
            let ours = status.lines().next().and_then(|pid| pid.parse().ok()) == Some(server.id());
            if ours && status.lines().nth(7).is_some_and(|line| line.starts_with("ready")) {
                (self.port, self.server) = (port, Some(server));
                return true;
            }
            sleep(MOMENT);
        }
        panic!("it is never ready: {}", self.log());
    }

    fn log_file(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    /// All that it has said.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // At once: nothing of it is wanted any more.
        self.end(Signal::QUIT);
    }
}

/// The processes that one has started and that run.
fn children(parent: u32) -> Vec<i32> {
    let processes = fs::read_dir("/proc").expect("the system's processes").flatten();
    let numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    numbers.filter(|process| status_of(*process).is_some_and(|(_, of)| of == parent)).collect()
}

fn state_of(process: i32) -> Option<char> {
    status_of(process).map(|(state, _)| state)
}

/// A process's state and its parent.
fn status_of(process: i32) -> Option<(char, u32)> {
    let line = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // Its name, in brackets, may hold anything.
    let mut fields = line.rsplit_once(") ")?.1.split(' ');
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

/// The folder of the server's programs: what `KEYWARD_POSTGRES_BIN` names, else of the newest that this machine has.
#[expect(clippy::disallowed_methods, reason = "where the tests of every version choose theirs")]
pub(crate) fn programs() -> PathBuf {
    std::env::var_os("KEYWARD_POSTGRES_BIN").map_or_else(installed, PathBuf::from)
}

/// One of the server's clients. It need not be of the server's version.
pub(crate) fn client(name: &str) -> PathBuf {
    let beside = programs().join(name);
    if beside.exists() { beside } else { installed().join(name) }
}

/// The major version of a program of PostgreSQL.
pub(crate) fn version_of(program: &Path) -> u32 {
    let ran = Command::new(program).arg("--version").output().expect("it runs");
    let said = String::from_utf8_lossy(&ran.stdout);
    let number = said.split_whitespace().find_map(|word| word.split('.').next()?.parse().ok());
    number.unwrap_or_else(|| panic!("{} is of no version: {said}", program.display()))
}

fn installed() -> PathBuf {
    let installed = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let version = |path: &Path| path.file_name()?.to_str()?.parse::<u32>().ok();
    let newest = installed.map(|entry| entry.path()).max_by_key(|path| version(path));
    newest.expect("PostgreSQL is installed: make tools").join("bin")
}

/// A command that is run as somebody who is not root, with options of `setpriv`.
pub(crate) fn as_somebody(options: &[&str], program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    if is_root() {
        let (user, group) = (format!("--reuid={NOBODY}"), format!("--regid={NOBODY}"));
        command.args([&user, &group, "--clear-groups"]);
    }
    command.args(options).arg("--").arg(program).current_dir("/tmp").env_clear().env("LC_ALL", "C.UTF-8");
    command
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Makes a folder and all in it the server's.
pub(crate) fn give(path: &Path) {
    if is_root() {
        let metadata = fs::symlink_metadata(path).expect("it is there");
        chown(path, Some(NOBODY), Some(NOBODY)).expect("root may");
        if metadata.is_dir() {
            for entry in fs::read_dir(path).expect("a folder") {
                give(&entry.expect("an entry").path());
            }
        }
    }
}

/// A data folder as it is after the server's own preparation, made by whichever test comes first.
fn template(programs: &Path) -> PathBuf {
    let this = std::env::current_exe().expect("the test program");
    let beside = this.ancestors().nth(2).expect("it lies in target/…/deps");
    let version = Command::new(programs.join("postgres")).arg("--version").output().expect("postgres runs");
    let version: String =
        String::from_utf8_lossy(&version.stdout).chars().filter(char::is_ascii_digit).take(8).collect();
    let template = beside.join(format!("postgres-template-{version}"));
    if template.exists() {
        return template;
    }
    let lock = File::create(beside.join(format!("postgres-template-{version}.lock"))).expect("a lock file");
    lock.lock().expect("the lock");
    if template.exists() {
        return template;
    }
    let scratch = tempfile::Builder::new().prefix("kwpg").tempdir_in("/tmp").expect("a temporary folder");
    give(scratch.path());
    let made = scratch.path().join("data");
    let mut initdb = as_somebody(&[], &programs.join("initdb"));
    initdb.arg("-D").arg(&made).args(["-U", "keyward", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8"]);
    let ran = initdb.args(["--no-sync", "--wal-segsize=1"]).output().expect("initdb runs");
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    let new = template.with_extension("new");
    match fs::remove_dir_all(&new) {
        Err(error) if error.kind() != ErrorKind::NotFound => panic!("{}: {error}", new.display()),
        Ok(()) | Err(_) => {}
    }
    copy(&made, &new);
    fs::rename(&new, &template).expect("a rename");
    template
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).expect("a new folder");
    fs::set_permissions(to, fs::Permissions::from_mode(0o700)).expect("the folder is ours");
    for entry in fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("a kind").is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), &target).expect("a copy");
        }
    }
}
