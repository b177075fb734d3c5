//! A hundred of each kind at once, for every way in which a permission ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::frames::Frame;
use super::peers::{Kind, Outcome, Service, now, runtime, stay};
use crate::harness::{Config, Gateway, Key, Site, until};

const EACH: usize = 100;
const CUT_WITHIN: Duration = Duration::from_secs(1);

fn config(service: &Service, access: &str) -> Config {
    Config::to(service.address())
        .gateway("deny_file = 'deny.txt'")
        .route(&format!("name = 'stream'\npath = '/s/{{*rest}}'\nupgrades = ['websocket']\n{access}"))
        .route("name = 'other'\npath = '/other'\nany_key = true")
}

/// How a permission ends.
struct End {
    access: &'static str,
    /// Made before the gateway starts.
    key: fn(&Site) -> Key,
    /// Ends the permission and tells when that was.
    end: fn(&Site, &Gateway, &Service, &Key, Instant) -> Instant,
    /// What the log and the metric say.
    reason: &'static str,
    /// What an upload is answered.
    status: &'static str,
    /// Whether it ends for all keys.
    everybody: bool,
}

const FLAGS: &str = "any_flags = ['stream.use']";

fn cut_all(end: &End) {
    let runtime = runtime();
    let service = Service::start(&runtime);
    let site = Site::new(&config(&service, end.access));
    site.replace("deny.txt", "");
    let gateway = site.start();
    let stranger = site.key(&["stream.use"]);
    let key = (end.key)(&site);
    let made = now();
    let mark = gateway.log_mark();

    let (address, token) = (gateway.address(), key.token.clone());
    let open = Arc::new(AtomicUsize::new(0));
    let mut callers = runtime.block_on(async {
        let mut callers = JoinSet::new();
        for kind in [Kind::Socket, Kind::Events, Kind::Upload] {
            for _ in 0..EACH {
                callers.spawn(stay(address, token.clone(), kind, Arc::clone(&open)));
            }
        }
        callers
    });
    let mut bystander = runtime.block_on(async {
        let mut bystander = JoinSet::new();
        bystander.spawn(stay(address, stranger.token.clone(), Kind::Socket, Arc::clone(&open)));
        bystander
    });
    // A stream is there once its caller has seen it begin; before that it is a request under way.
    until("all streams", || service.begun() == 3 * EACH + 1 && open.load(Ordering::SeqCst) == 2 * EACH + 1);

    let at = (end.end)(&site, &gateway, &service, &key, made);
    let outcomes: Vec<Outcome> = runtime.block_on(async {
        let mut outcomes = Vec::new();
        while let Some(outcome) = callers.join_next().await {
            outcomes.push(outcome.expect("a caller"));
        }
        outcomes
    });
    let mut delays: Vec<Duration> = outcomes.iter().map(|outcome| outcome.at.saturating_duration_since(at)).collect();
    delays.sort_unstable();
    assert!(delays[delays.len() - 1] < CUT_WITHIN, "{}: the last took {:?}", end.reason, delays[delays.len() - 1]);
    for outcome in &outcomes {
        assert_cut_well(outcome, end);
    }
    until("the upstream's ends", || service.ended() >= 3 * EACH);
    assert_eq!(service.seen.whole.load(Ordering::SeqCst), 0, "an upload was ended as if it were whole");

    gateway.until_logged(mark, &format!("\"reason\":\"{}\"", end.reason));
    let line = format!("keyward_streams_cut_total{{reason=\"{}\"}} ", end.reason);
    let metrics = gateway.metrics();
    let counted = metrics.lines().find_map(|found| found.strip_prefix(&line)?.parse::<usize>().ok());
    if end.everybody {
        assert_eq!(counted, Some(3 * EACH + 1), "{}", end.reason);
    } else {
        assert_eq!(counted, Some(3 * EACH), "{}", end.reason);
        assert!(bystander.try_join_next().is_none(), "{}: another key's stream was cut too", end.reason);
    }
    runtime.shutdown_background();
}

fn assert_cut_well(outcome: &Outcome, end: &End) {
    let shown = || format!("{}: {:?} {} {:?}", end.reason, outcome.kind, outcome.head, outcome.body.len());
    match outcome.kind {
        Kind::Socket => {
            let (frames, whole) = Frame::all(&outcome.body);
            assert!(whole, "cut inside a frame: {}", shown());
            assert_eq!(frames.last().and_then(Frame::status), Some(1008), "{}", shown());
        }
        Kind::Events => {
            assert!(outcome.head.starts_with("HTTP/1.1 200"), "{}", shown());
            assert!(!outcome.body.ends_with(b"0\r\n\r\n"), "ended as if it were whole: {}", shown());
        }
        Kind::Upload => assert!(outcome.head.starts_with(&format!("HTTP/1.1 {}", end.status)), "{}", shown()),
    }
}

#[test]
fn revoked_keys_streams_are_cut() {
    cut_all(&End {
        access: FLAGS,
        key: |site| site.key(&["stream.use"]),
        end: |site, _, _, key, _| {
            site.revoke(key);
            now()
        },
        reason: "revoked",
        status: "401",
        everybody: false,
    });
}

#[test]
fn a_disabled_users_streams_are_cut() {
    cut_all(&End {
        access: FLAGS,
        key: |site| {
            site.run(["users", "set", "alice", "-c", "keyward.toml", "--flag", "stream.use"]);
            site.key_with(&["--user", "alice", "--inherit"])
        },
        end: |site, _, _, _, _| {
            site.run(["users", "set", "alice", "-c", "keyward.toml", "--disabled"]);
            now()
        },
        reason: "user_disabled",
        status: "401",
        everybody: false,
    });
}

#[test]
fn streams_of_a_key_that_lost_its_flag_are_cut() {
    cut_all(&End {
        access: FLAGS,
        key: |site| site.key(&["stream.use"]),
        end: |site, _, _, key, _| {
            site.keys(&["update", &key.id, "--flag", "another"]);
            now()
        },
        reason: "lacks_flags",
        status: "403",
        everybody: false,
    });
}

#[test]
fn an_expired_keys_streams_are_cut() {
    const LIVES: Duration = Duration::from_secs(4);
    cut_all(&End {
        access: FLAGS,
        key: |site| site.key_with(&["--flag", "stream.use", "--expires-in", "4s"]),
        end: |_, _, _, _, made| {
            assert!(now() < made + LIVES, "opening the streams took longer than the key lives");
            made + LIVES
        },
        reason: "expired",
        status: "401",
        everybody: false,
    });
}

#[test]
fn streams_of_a_route_that_changed_are_cut() {
    cut_all(&End {
        access: "any_key = true",
        key: |site| site.key(&["stream.read"]),
        end: |site, gateway, service, _, _| {
            site.write_config(&config(service, FLAGS));
            gateway.hang_up();
            now()
        },
        reason: "lacks_flags",
        status: "403",
        everybody: false,
    });
}

#[test]
fn streams_of_a_route_that_went_away_are_cut() {
    cut_all(&End {
        access: "any_key = true",
        key: |site| site.key(&[]),
        end: |site, gateway, service, _, _| {
            site.write_config(&Config::to(service.address()).route("name = 'other'\npath = '/other'\nany_key = true"));
            gateway.hang_up();
            now()
        },
        reason: "no_route",
        status: "404",
        everybody: true,
    });
}

#[test]
fn streams_of_a_key_on_the_deny_list_are_cut() {
    cut_all(&End {
        access: "any_key = true",
        key: |site| site.key(&[]),
        end: |site, gateway, _, key, _| {
            site.replace("deny.txt", &format!("{}\n", key.id));
            gateway.hang_up();
            now()
        },
        reason: "listed",
        status: "401",
        everybody: false,
    });
}
