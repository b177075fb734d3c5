//! A leaked key is killed by a local file, with or without a store.

use crate::harness::{Config, Site, Upstream, get, until};

#[test]
fn a_listed_key_is_refused_with_the_store_gone_and_a_fault_in_the_configuration() {
    let upstream = Upstream::start();
    let config = Config::in_front_of(&upstream).gateway("deny_file = 'deny.txt'");
    let site = Site::new(&config);
    site.replace("deny.txt", "");
    let (leaked, other) = (site.key(&[]), site.key(&[]));
    let gateway = site.start();
    let status = |token: &str| gateway.send(get("/any/x").bearer(token)).status;
    assert_eq!((status(&leaked.token), status(&other.token)), (200, 200));

    site.hide_store();
    site.replace("keyward.toml", "this is no TOML");
    site.replace("deny.txt", &format!("# leaked on Tuesday\nnot an id at all\n{}\n", leaked.id));
    gateway.hang_up();
    until("the deny list", || status(&leaked.token) == 401);
    assert_eq!(status(&other.token), 200);

    site.replace("deny.txt", "");
    gateway.hang_up();
    until("the empty deny list", || status(&leaked.token) == 200);
}

#[test]
fn a_listed_lineage_is_refused_with_all_that_replaced_it() {
    let upstream = Upstream::start();
    let site = Site::new(&Config::in_front_of(&upstream).gateway("deny_file = 'deny.txt'"));
    let (old, other) = (site.key(&[]), site.key(&[]));
    let shown = site.keys(&["show", &old.id, "--json"]).json();
    site.replace("deny.txt", &format!("{}\n", shown["lineage_id"].as_str().expect("a lineage")));
    let new = site.rotate(&old, "1h");
    let gateway = site.start();
    let status = |token: &str| gateway.send(get("/any/x").bearer(token)).status;
    assert_eq!((status(&old.token), status(&new.token), status(&other.token)), (401, 401, 200));
}

#[test]
fn a_list_is_read_when_it_is_named_and_when_it_changes() {
    let upstream = Upstream::start();
    let config = || Config::in_front_of(&upstream);
    let site = Site::new(&config());
    let (leaked, other) = (site.key(&[]), site.key(&[]));
    site.replace("deny.txt", &format!("{}\n", leaked.id));
    let gateway = site.start();
    let status = |token: &str| gateway.send(get("/any/x").bearer(token)).status;
    assert_eq!(status(&leaked.token), 200);

    site.write_config(&config().gateway("deny_file = 'deny.txt'"));
    gateway.hang_up();
    until("the list that the new configuration names", || status(&leaked.token) == 401);
    assert_eq!(status(&other.token), 200);
    site.replace("deny.txt", &format!("{}\n{}\n", leaked.id, other.id));
    until("the changed list", || status(&other.token) == 401);
}
