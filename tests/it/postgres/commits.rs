//! The connection breaks while a change is committed. It is acknowledged and there; or it is not acknowledged, and asked
//! for again with its Idempotency-Key it is made no second time.
//!
//! `KEYWARD_SOAK_COMMITS` says how often, with a cut at every message of a change in turn; `KEYWARD_SOAK_STUCK` how often
//! a commit is stuck and not cut, which takes half a minute each time.

use super::nodes::{Nodes, key_named, minted, status};
use crate::harness::{Answer, Care, Cluster, Fault, Key, Stopwatch, Upstream, post, times, until};

/// Asks for the one key of this name.
fn create(nodes: &Nodes, name: &str) -> Answer {
    let once = format!("the one request for {name}");
    nodes.asks(0, post("/v1/api-keys").json(&key_named(name)).header("idempotency-key", &once))
}

/// Makes a key while this happens, and asks until it is acknowledged. What was answered first.
fn make(nodes: &Nodes, cluster: &Cluster, name: &str, fault: Fault) -> u16 {
    let link = &nodes.nodes[0].link;
    link.suffer(fault);
    let first = create(nodes, name);
    let acknowledged = minted(&first);
    assert!([201, 503].contains(&first.status), "{fault:?}: {} {}", first.status, first.text());
    if matches!(fault, Fault::CommitLost | Fault::AnswerLost | Fault::CommitHeld | Fault::AnswerHeld) {
        assert_eq!(link.met(), 1, "{fault:?} was not met");
    }
    if acknowledged.is_some() {
        let there = format!("SELECT count(*) FROM keyward.keys WHERE name = '{name}'");
        assert_eq!(cluster.sql(&there), "1", "{fault:?}: what was acknowledged is not there");
    }
    link.heal();
    let mut last = None;
    until("an acknowledgement", || {
        last = minted(&create(nodes, name));
        last.is_some()
    });
    let Key { id, token } = last.expect("it is there");
    if let Some(acknowledged) = acknowledged {
        assert_eq!((&acknowledged.id, &acknowledged.token), (&id, &token), "{fault:?}: it was made twice");
    }
    assert_eq!(status(&nodes.nodes[0].gateway, &token), 200);
    let made = format!("SELECT count(*), min(id::text) IS NOT NULL FROM keyward.keys WHERE name = '{name}'");
    assert_eq!(cluster.sql(&made), "1|t", "{fault:?}: it was made twice");
    first.status
}

#[test]
fn a_commit_that_is_cut_is_made_once_or_not_acknowledged() {
    let (upstream, cluster) = (Upstream::start(), Cluster::start(Care::Durable));
    let nodes = Nodes::start(1, &upstream, &cluster, |config| config);
    let link = &nodes.nodes[0].link;
    assert_eq!(make(&nodes, &cluster, "before", Fault::CommitLost), 503, "nothing was committed");
    assert_eq!(make(&nodes, &cluster, "after", Fault::AnswerLost), 201, "it was committed, and that is found out");
    let mut count = times("KEYWARD_SOAK_COMMITS", 6);
    let (mut lost, all) = (0, Stopwatch::start());
    for number in 0..count {
        // A change, what is read for it and what it sets off take some forty messages.
        let fault = Fault::CutAfter((number * 7) % 60);
        lost += usize::from(make(&nodes, &cluster, &format!("cut-{number}"), fault) != 201);
    }
    // The server is given as long as a statement may take, and the network five seconds more.
    for number in 0..times("KEYWARD_SOAK_STUCK", 0) {
        for fault in [Fault::CommitHeld, Fault::AnswerHeld] {
            let watch = Stopwatch::start();
            let status = make(&nodes, &cluster, &format!("stuck-{number}-{fault:?}"), fault);
            eprintln!("{fault:?}: {status} in {:?}", watch.elapsed());
            assert_eq!(status == 201, fault == Fault::AnswerHeld);
        }
        count += 2;
    }
    eprintln!("{count} cuts, {lost} of them not acknowledged at first, in {:?}", all.elapsed());
    link.heal();
    let told = "SELECT count(*) FROM keyward.keys k JOIN keyward.events e ON e.key_id = k.id WHERE k.project = 'acme'";
    assert_eq!(cluster.sql(told), (count + 2).to_string(), "each with the one event that tells of it");
}
