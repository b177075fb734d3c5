//! Several gateways on one store: which there are, how far each has come, and where a change is in force.

mod api;
mod leaving;
mod upgrading;
mod waiting;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::harness::{Config, Gateway, Key, Ran, Site, get, until};

/// A store, and gateways that follow it, each with a configuration and a state folder of its own.
struct Fleet {
    site: Site,
    gateways: Vec<Gateway>,
}

impl Fleet {
    /// `count` gateways of this configuration.
    fn of(count: usize, config: &Config) -> Self {
        let configs = vec![config.clone(); count];
        Self::of_each(&configs)
    }

    /// A gateway of each of these configurations.
    fn of_each(configs: &[Config]) -> Self {
        let site = Site::new(&configs[0]);
        for (number, config) in configs.iter().enumerate().skip(1) {
            let config = config.clone().sync(&format!("state_dir = '{number}.state'"));
            site.replace(&format!("{number}.toml"), &config.to_toml());
        }
        let mut fleet = Self { site, gateways: Vec::new() };
        for number in 0..configs.len() {
            let gateway = fleet.start(number);
            fleet.gateways.push(gateway);
        }
        fleet
    }

    /// Starts a gateway, for the first time or again.
    fn start(&self, number: usize) -> Gateway {
        let file = if number == 0 { "keyward.toml".to_owned() } else { format!("{number}.toml") };
        Gateway::start_by(&self.site, self.site.command(["serve", "-c", &file]))
    }

    /// A key that every gateway lets through.
    fn key(&self) -> Key {
        let key = self.site.key(&[]);
        for gateway in &self.gateways {
            assert_eq!(status(gateway, &key), 200);
        }
        key
    }

    /// Revokes a key, and waits this long for it to be confirmed.
    fn revoke(&self, key: &Key, wait: &str) -> Ran {
        self.site.try_run(["keys", "revoke", "-c", "keyward.toml", &key.id, "--wait", wait])
    }

    /// What `keyward gateways` says of each process.
    fn listed(&self) -> Vec<Value> {
        let list = self.site.run(["gateways", "-c", "keyward.toml", "--json"]).json();
        list.as_array().expect("a list").clone()
    }

    /// What it says of this process.
    fn listed_as(&self, process: Pid) -> Value {
        let is_it = |listed: &Value| listed["pid"] == process.as_raw_nonzero().get();
        self.listed().into_iter().find(is_it).unwrap_or_else(|| panic!("{process:?} is not in {:?}", self.listed()))
    }

    /// The id of the gateway of this process.
    fn id_of(&self, process: Pid) -> String {
        self.listed_as(process)["id"].as_str().expect("an id").to_owned()
    }
}

/// What a gateway answers to the holder of a key.
fn status(gateway: &Gateway, key: &Key) -> u16 {
    gateway.send(get("/any/x").bearer(&key.token)).status
}

/// Makes a process stand still, but not while it has the store locked, which would then be so for everybody.
fn stop(process: Pid) {
    let writes = || {
        let locks = std::fs::read_to_string("/proc/locks").expect("the locks of all processes");
        let pid = process.as_raw_nonzero().to_string();
        locks.lines().any(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            words.contains(&"POSIX") && words.contains(&"WRITE") && words.contains(&pid.as_str())
        })
    };
    let stands = || {
        let said = std::fs::read_to_string(format!("/proc/{}/stat", process.as_raw_nonzero()));
        said.expect("a live process").rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('T'))
    };
    until("a moment at which it writes nothing", || {
        kill_process(process, Signal::STOP).expect("a live process");
        until("the process to stand", stands);
        let may_stay = !writes();
        if !may_stay {
            go_on(process);
        }
        may_stay
    });
}

/// Makes it go on.
fn go_on(process: Pid) {
    kill_process(process, Signal::CONT).expect("a live process");
}
