//! The server is lost, and a replica that has not received its last commits takes its place: the same numbers mean other
//! changes from there on. Every gateway notices, refuses what it knows as revoked, and says so; what lives in both is let
//! through all the while.

use super::nodes::{Node, Nodes, Oracle, status};
use crate::harness::{Care, Cluster, Fault, Key, Link, Site, Upstream, times, until};

/// What only the lost server knew.
struct Tail {
    revoked: Key,
    replaced: Key,
    disabled: Key,
    minted: Key,
}

impl Tail {
    /// Changes that the gateways hear of, and that are acknowledged.
    fn write(nodes: &Nodes, (revoked, replaced, disabled): (Key, Key, Key)) -> Self {
        nodes.revoke(0, &revoked);
        nodes.desk.rotate(&replaced, "0s");
        nodes.desk.keys(&["update", &disabled.id, "--disable"]);
        for ended in [&revoked, &replaced, &disabled] {
            nodes.until_all_answer(ended, 401);
        }
        let minted = nodes.known_key();
        Self { revoked, replaced, disabled, minted }
    }
}

/// A line of each gateway's log that has all of these in it.
fn all_say(nodes: &Nodes, wanted: &[&str]) {
    for (number, Node { gateway, .. }) in nodes.nodes.iter().enumerate() {
        until(&format!("{wanted:?} in the log of gateway {number}"), || {
            gateway.log().lines().any(|line| wanted.iter().all(|word| line.contains(word)))
        });
    }
}

/// A line of one gateway's log that has all of these in it: what one has told the store, the next finds there.
fn one_says(nodes: &Nodes, wanted: &[&str]) {
    until(&format!("{wanted:?} in the log of a gateway"), || {
        nodes.gateways().any(|gateway| gateway.log().lines().any(|line| wanted.iter().all(|word| line.contains(word))))
    });
}

#[test]
fn a_replica_that_lost_the_last_commits_revives_no_key() {
    for _ in 0..times("KEYWARD_SOAK_PROMOTIONS", 1) {
        promote();
    }
}

fn promote() {
    let upstream = Upstream::start();
    let mut primary = Cluster::start(Care::Fast);
    let between = Link::to(primary.port());
    let standby = primary.standby(between.port());
    let nodes = Nodes::start(2, &upstream, &primary, |config| config);
    let oracle = Oracle::default();
    let [live, ended, revoked, replaced, disabled] = [(); 5].map(|()| nodes.known_key());
    // The more there are, the less it is that is lost.
    let others: Vec<Key> = (0..20).map(|number| nodes.key(number % 2)).collect();
    nodes.revoke(1, &ended);
    nodes.until_all_answer(&ended, 401);
    for key in others.iter().chain([&live]) {
        nodes.until_all_answer(key, 200);
        oracle.lives(key);
    }
    oracle.ended(&ended);
    let newest = "SELECT revision FROM keyward.counter";
    until("the replica", || standby.sql(newest) == primary.sql(newest));

    oracle.watch(nodes.gateways(), || {
        between.suffer(Fault::Held);
        let tail = Tail::write(&nodes, (revoked, replaced, disabled));
        for key in [&tail.revoked, &tail.replaced] {
            oracle.ended(key);
        }
        let lost: u64 = primary.sql(newest).parse().expect("a number");
        primary.kill();
        // Nobody asks a replica, so nothing of it is taken before it is promoted.
        nodes.nodes.iter().for_each(|node| node.link.suffer(Fault::Refused));
        standby.promote();
        // The numbers of the tail are used again, and more, before any gateway looks.
        nodes.desk.write_config(&crate::harness::Config::in_front_of(&upstream).postgres(&standby.url(), ""));
        let mut since = Vec::new();
        while standby.sql(newest).parse::<u64>().expect("a number") <= lost {
            since.push(nodes.desk.key(&[]));
        }
        for Node { link, .. } in &nodes.nodes {
            link.move_to(standby.port());
            link.heal();
        }
        for key in &since {
            nodes.until_all_answer(key, 200);
            oracle.lives(key);
        }
        all_say(&nodes, &["\"ERROR\"", "the store's history is another"]);
        for key in [&tail.revoked, &tail.replaced] {
            one_says(&nodes, &["\"ERROR\"", "stays refused here", &key.id]);
        }
        // What they know is told to the store again.
        until("the store to know it too", || {
            [&tail.revoked, &tail.replaced].iter().all(|key| shown(&nodes.desk, key)["status"] == "revoked")
        });
        assert_eq!(standby.sql("SELECT count(*) > 0 FROM keyward.events WHERE actor = 'local:gateway'"), "t");
        // What was switched off and can be switched on again is as the store has it, and is named.
        nodes.until_all_answer(&tail.disabled, 200);
        all_say(&nodes, &["\"ERROR\"", "works again", &tail.disabled.id]);
        // What was minted is in no store any more.
        nodes.until_all_answer(&tail.minted, 401);
        all_say(&nodes, &["\"ERROR\"", "is not in the store any more", &tail.minted.id]);
    });
    for gateway in nodes.gateways() {
        assert!(
            gateway.metrics().contains("keyward_divergence_alarms_total{kind=\"history\"} 1"),
            "{}",
            gateway.metrics()
        );
        assert_eq!(status(gateway, &live.token), 200);
    }
}

fn shown(desk: &Site, key: &Key) -> serde_json::Value {
    desk.keys(&["show", &key.id, "--json"]).json()
}
