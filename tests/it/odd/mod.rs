//! Requests that nobody sends by accident: each reaches the service as one request that can be read in
//! one way only, or not at all.

mod attacks;
mod caps;
mod corpus;
mod frames;
mod http2;
mod identity;
mod mutants;
mod paths;
mod recorder;
mod requests;
mod slow;
mod strict;

use crate::harness::{Config, Gateway, Key, Site};
use recorder::Recorder;

/// A gateway in front of a recorder, and a key that may do everything but what is the admins'.
struct Scene {
    recorder: Recorder,
    gateway: Gateway,
    key: Key,
    _site: Site,
}

impl Scene {
    /// Routes tell in the path they forward which of them matched.
    fn new(timeouts: &str) -> Self {
        let recorder = Recorder::start();
        let site = Site::new(&Self::config(&recorder, timeouts));
        let key = site.key(&["keyring.comms.read"]);
        let gateway = site.start();
        recorder.expect_key(&key);
        Self { recorder, gateway, key, _site: site }
    }

    fn config(recorder: &Recorder, timeouts: &str) -> Config {
        let lax = "encoded_slashes = 'forward'\npath_parameters = 'forward'\nencoded_percent = 'forward'\n\
                   non_ascii = 'forward'\nempty_segments = 'merge'";
        Config::to(recorder.address())
            .gateway("access_log = false")
            .gateway(timeouts)
            .route("name = 'public'\npath = '/public/{*rest}'\npublic = true\nrewrite_prefix = '/r-public'")
            .route("name = 'any'\npath = '/any/{*rest}'\nany_key = true\nrewrite_prefix = '/r-any'")
            .route(
                "name = 'ring'\npath = '/keyrings/{ring}'\nmethods = ['GET']\nany_flags = ['keyring.{ring}.read']\n\
                 rewrite_prefix = '/r-ring'",
            )
            .route(
                "name = 'field'\npath = '/field/{*rest}'\nany_key = true\ncredential = [{ header = 'x-api-key' }]\n\
                 rewrite_prefix = '/r-field'",
            )
            .route(&format!("name = 'lax'\npath = '/lax/{{*rest}}'\npublic = true\nrewrite_prefix = '/r-lax'\n{lax}"))
            .route("name = 'admin'\npath = '/public/admin/{*rest}'\nall_flags = ['admin']\nrewrite_prefix = '/r-admin'")
            .route("name = 'admin2'\npath = '/any/admin/{*rest}'\nall_flags = ['admin']\nrewrite_prefix = '/r-admin'")
            .route("name = 'admin3'\npath = '/lax/admin/{*rest}'\nall_flags = ['admin']\nrewrite_prefix = '/r-admin'")
    }
}
