//! When a key was last used finds its way back into the store.

use crate::harness::{Config, Site, Upstream, get, until};

#[test]
fn the_last_use_of_a_key_is_written_back() {
    let upstream = Upstream::start();
    let site = Site::new(&Config::in_front_of(&upstream).sync("usage_flush = '1s'"));
    let (used, unused) = (site.key(&[]), site.key(&[]));
    let gateway = site.start();
    assert_eq!(gateway.send(get("/any/x").bearer(&used.token)).status, 200);
    let last_use = |id: &str| site.keys(&["show", id, "--json"]).json()["last_used_at"].clone();
    until("the use in the store", || last_use(&used.id).is_string());
    assert!(last_use(&unused.id).is_null());
}
