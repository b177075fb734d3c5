//! A folder with a configuration, and the commands that are run in it.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustls::pki_types::CertificateDer;
use serde_json::Value;
use tempfile::TempDir;

use super::config::Config;
use super::gateway::Gateway;

/// The folder. It is deleted when this is dropped.
pub(crate) struct Site {
    folder: TempDir,
    certificate: Option<CertificateDer<'static>>,
    operator: String,
}

const STORE_FILES: [&str; 3] = ["keyward.db", "keyward.db-wal", "keyward.db-shm"];

/// A key as the command that minted it printed it.
#[derive(Debug, Clone)]
pub(crate) struct Key {
    pub(crate) id: String,
    pub(crate) token: String,
}

/// What a command did.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|fault| panic!("{fault} in {self:?}"))
    }
}

impl Site {
    /// A folder with this configuration, a certificate where it wants one, and what
    /// `keyward init` makes.
    pub(crate) fn new(config: &Config) -> Self {
        let folder = TempDir::with_prefix("keyward-it-").expect("a folder");
        let mut site = Self { folder, certificate: None, operator: String::new() };
        fs::create_dir(site.path("data")).expect("a folder");
        if config.is_tls() {
            fs::create_dir(site.path("tls")).expect("a folder");
            site.new_certificate();
        }
        site.write_config(config);
        let printed = site.run(["init", "-c", "keyward.toml"]).stdout;
        let token = printed.split_whitespace().find(|word| word.starts_with("kw_"));
        site.operator = token.expect("init prints the first operator's token").to_owned();
        site
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Replaces the configuration, as an editor does: a new file is moved over the old one.
    pub(crate) fn write_config(&self, config: &Config) {
        self.replace("keyward.toml", &config.to_toml());
    }

    /// Moves a new file over the old one.
    pub(crate) fn replace(&self, name: &str, content: &str) {
        let fresh = self.path(&format!("{name}.new"));
        fs::write(&fresh, content).expect("a file");
        fs::rename(fresh, self.path(name)).expect("a file");
    }

    /// Makes a certificate for `localhost` and puts it where the configuration says.
    pub(crate) fn new_certificate(&mut self) {
        let pair = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
        self.replace("tls/key.pem", &pair.signing_key.serialize_pem());
        self.replace("tls/chain.pem", &pair.cert.pem());
        self.certificate = Some(pair.cert.der().clone());
    }

    pub(crate) fn certificate(&self) -> Option<&CertificateDer<'static>> {
        self.certificate.as_ref()
    }

    /// The token of the operator that `init` made.
    pub(crate) fn operator(&self) -> &str {
        &self.operator
    }

    /// Moves the store's files away, as if the disk had gone.
    pub(crate) fn hide_store(&self) {
        let away = self.path("away");
        fs::create_dir_all(&away).expect("a folder");
        for file in STORE_FILES {
            // The log beside the database is there only while somebody has it open.
            let _absent = fs::rename(self.path("data").join(file), away.join(file));
        }
    }

    /// Brings them back.
    pub(crate) fn restore_store(&self) {
        for file in STORE_FILES.iter().rev() {
            let _absent = fs::rename(self.path("away").join(file), self.path("data").join(file));
        }
    }

    /// The program with these arguments, to be run in this folder.
    pub(crate) fn command<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_keyward"));
        command.args(arguments).current_dir(self.folder.path()).stdin(Stdio::null());
        for name in ["KEYWARD_LOG", "KEYWARD_MASTER_SECRET", "KEYWARD_TOKEN", "RUST_LOG"] {
            command.env_remove(name);
        }
        command
    }

    /// Runs the program to its end, whatever that is.
    pub(crate) fn try_run<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Ran {
        let output = self.command(arguments).output().expect("the program starts");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("the program prints UTF-8");
        Ran { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    /// Runs the program, which must succeed.
    pub(crate) fn run<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Ran {
        let ran = self.try_run(arguments);
        assert_eq!(ran.code, Some(0), "{ran:?}");
        ran
    }

    /// A fresh key of project `acme` with these flags.
    pub(crate) fn key(&self, flags: &[&str]) -> Key {
        self.key_with(&flags.iter().flat_map(|flag| ["--flag", flag]).collect::<Vec<_>>())
    }

    /// A fresh key of project `acme`, made with these further arguments.
    pub(crate) fn key_with(&self, arguments: &[&str]) -> Key {
        let fixed = ["keys", "create", "-c", "keyward.toml", "--project", "acme", "--name", "a key", "--json"];
        let made = self.run(fixed.iter().chain(arguments)).json();
        let text = |name: &str| made[name].as_str().unwrap_or_else(|| panic!("no {name} in {made}")).to_owned();
        Key { id: text("id"), token: text("key") }
    }

    /// `keyward keys …` with the configuration, which must succeed.
    pub(crate) fn keys(&self, arguments: &[&str]) -> Ran {
        self.run(["keys"].iter().chain(arguments).chain(&["-c", "keyward.toml"]))
    }

    pub(crate) fn revoke(&self, key: &Key) {
        self.keys(&["revoke", &key.id]);
    }

    /// Replaces a key, with a grace such as `2s`.
    pub(crate) fn rotate(&self, key: &Key, grace: &str) -> Key {
        let rotated = self.keys(&["rotate", &key.id, "--grace", grace, "--json"]).json();
        let text = |name: &str| rotated[name].as_str().unwrap_or_else(|| panic!("no {name} in {rotated}")).to_owned();
        Key { id: text("new_key_id"), token: text("key") }
    }

    /// Serves, and waits until it is ready.
    pub(crate) fn start(&self) -> Gateway {
        Gateway::start(self)
    }

    /// Serves with these environment variables, and waits until it is ready.
    pub(crate) fn start_with(&self, environment: &[(&str, &str)]) -> Gateway {
        Gateway::start_with(self, environment)
    }

    /// Serves, and waits only until it listens.
    pub(crate) fn start_unready(&self) -> Gateway {
        Gateway::start_unready(self)
    }

    /// Every file below the folder.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
            for entry in fs::read_dir(folder).expect("a folder") {
                let path = entry.expect("a folder").path();
                if path.is_dir() {
                    collect(&path, files);
                } else {
                    files.push(path);
                }
            }
        }
        let mut files = Vec::new();
        collect(self.folder.path(), &mut files);
        files
    }
}
