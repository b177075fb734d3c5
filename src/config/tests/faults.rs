//! Every line that a configuration says when it is wrong.

use std::path::Path;

use proptest::prelude::*;

use super::examples::{header_of, section_and_name};
use super::{BASE, SECRET, base_but, base_with, config_in, faults_of, lines, parse, repository};
use crate::config::schema::KEYS;
use crate::config::{Config, Environment, Fault, master_secrets};

/// Each fault, alone in a configuration that is otherwise right: where it is added, what is added,
/// and the line that is printed.
#[test]
fn each_fault_has_its_line() {
    let cases: &[(usize, &str, &str)] = &[
        (
            9,
            "[routes.request_headers]\nset = { Connection = \"x\" }",
            "keyward.toml:11: routes[0].request_headers.set.Connection: connection is the gateway's own to decide about: remove it",
        ),
        (
            9,
            "[routes.request_headers]\nadd = { x_forwarded_for = \"x\" }",
            "keyward.toml:11: routes[0].request_headers.add.x_forwarded_for: x_forwarded_for is the gateway's own to decide about: remove it",
        ),
        (
            9,
            "[routes.request_headers]\nset = { host = \"x\" }",
            "keyward.toml:11: routes[0].request_headers.set.host: host is the gateway's own to decide about: remove it",
        ),
        (
            9,
            "[routes.response_headers]\nremove = [\"Keyward_User\"]",
            "keyward.toml:11: routes[0].response_headers.remove[0]: keyward_user is the gateway's own to decide about: remove it",
        ),
        (
            9,
            "[routes.response_headers]\nset = { \"a b\" = \"x\" }",
            "keyward.toml:11: routes[0].response_headers.set.\"a b\": \"a b\" is not the name of a field",
        ),
        (
            9,
            "[routes.response_headers]\nset = { a = \"x\\ny\" }",
            "keyward.toml:11: routes[0].response_headers.set.a: is no value that a field can have",
        ),
        (
            9,
            "[routes.response_headers]\nset = { a = \"x\", A = \"y\" }",
            "keyward.toml:11: routes[0].response_headers.set.A: a is there twice: keep one",
        ),
        (
            9,
            "[routes.request_headers]\nset = { a = { environment = \"x\" } }",
            "keyward.toml:11: routes[0].request_headers.set.a: found a table, expected text, { env = \"NAME\" } or { file = \"PATH\" }",
        ),
        (
            9,
            "[routes.request_headers]\nset = { a = { env = \"NOT_THERE\" } }",
            "keyward.toml:11: routes[0].request_headers.set.a.env: the environment has no \"NOT_THERE\"",
        ),
        (
            9,
            "[routes.upstream_credential]\nprefix = \"x\"",
            "keyward.toml:10: routes[0].upstream_credential.file: is missing: add file = \"…\", which holds the secret",
        ),
        (
            9,
            "[routes.upstream_credential]\nfile = \"no-such-file\"",
            "keyward.toml:11: routes[0].upstream_credential.file: no file no-such-file: put the secret there, mode 0600",
        ),
        (
            9,
            "[routes.cors]\norigins = [\"https://a.example/\"]",
            "keyward.toml:11: routes[0].cors.origins[0]: found \"https://a.example/\", expected an origin such as \"https://app.example.com\", as a browser sends it: lower case, no path, no default port",
        ),
        (
            9,
            "[routes.cors]\norigins = [\"*\"]\ncredentials = true",
            "keyward.toml:11: routes[0].cors.origins[0]: \"*\" cannot stand beside credentials = true: name the origins",
        ),
        (
            9,
            "[routes.cors]\ncredentials = true",
            "keyward.toml:10: routes[0].cors.origins: is missing: add origins = [\"https://app.example.com\"], or [\"*\"] for any",
        ),
        (2, "worker = 4", "keyward.toml:3: gateway.worker: unknown key; did you mean workers?"),
        (
            2,
            r#"colour = "red""#,
            "keyward.toml:3: gateway.colour: unknown key; known here: listen, listen_cleartext, workers, cleartext, access_log, denied_status, reveal_reason, trusted_proxies, proxy_protocol, realm, token_prefix, issuer, jwks, credential, expiry_notice, deny_file, requests_max, connections_max, connections_per_client, encoded_slashes, path_parameters, encoded_percent, non_ascii, empty_segments, failure_limit, tls, timeouts, limits",
        ),
        (
            2,
            r#"head = "1s""#,
            "keyward.toml:3: gateway.head: unknown key; it belongs in [gateway.timeouts] or [gateway.limits]",
        ),
        (
            2,
            r#"connect_timeout = "1s""#,
            "keyward.toml:3: gateway.connect_timeout: unknown key; it belongs in [upstreams.NAME] or [store.postgres]",
        ),
        (9, "[gatway]\nx = 1", "keyward.toml:10: gatway: unknown key; did you mean gateway?"),
        (
            9,
            "\"a\\nb\" = 1",
            "keyward.toml:10: routes[0].\"a\\nb\": unknown key; known here: name, host, path, methods, any_flags, all_flags, any_key, public, projects, environments, credential, shadow, shadow_until, denied_status, upstream, strip_prefix, rewrite_prefix, host_rewrite, forward_credential, assertion, upgrades, upgrade_idle, stream_idle, body_max, shared_cache, on_stale, keep_override_headers, encoded_slashes, path_parameters, encoded_percent, non_ascii, empty_segments, request_headers, response_headers, upstream_credential, cors",
        ),
        (
            2,
            r#"workers = "4""#,
            r#"keyward.toml:3: gateway.workers: found "4", expected a whole number from 0 to 1024"#,
        ),
        (
            2,
            "workers = -1",
            "keyward.toml:3: gateway.workers: found the number -1, expected a whole number from 0 to 1024",
        ),
        (
            2,
            "workers = 4000",
            "keyward.toml:3: gateway.workers: found the number 4000, expected a whole number from 0 to 1024",
        ),
        (
            2,
            "workers = 99999999999999999999999999",
            "keyward.toml:3: gateway.workers: found the number 999999999999999999999999, expected a whole number from 0 to 1024",
        ),
        (
            2,
            "workers = 1.5",
            "keyward.toml:3: gateway.workers: found the number 1.5, expected a whole number from 0 to 1024",
        ),
        (2, r#"access_log = "yes""#, r#"keyward.toml:3: gateway.access_log: found "yes", expected true or false"#),
        (
            2,
            "expiry_notice = 14",
            r#"keyward.toml:3: gateway.expiry_notice: found the number 14, expected a duration: a whole number and one of ms s m h d, such as "30s""#,
        ),
        (
            2,
            r#"expiry_notice = "2 weeks""#,
            r#"keyward.toml:3: gateway.expiry_notice: found "2 weeks", expected a duration: a whole number and one of ms s m h d, such as "30s""#,
        ),
        (
            2,
            r#"expiry_notice = "9999d""#,
            r#"keyward.toml:3: gateway.expiry_notice: found "9999d", expected a duration from 0s to 3650d"#,
        ),
        (
            2,
            r#"limits = { head = "64KB" }"#,
            r#"keyward.toml:3: gateway.limits.head: found "64KB", expected a size: a whole number of bytes, or one with KiB MiB GiB, such as "64KiB""#,
        ),
        (
            2,
            r#"limits = { head = "2GiB" }"#,
            r#"keyward.toml:3: gateway.limits.head: found "2GiB", expected a size from 1KiB to 1MiB"#,
        ),
        (
            2,
            "limits = { head = true }",
            r#"keyward.toml:3: gateway.limits.head: found true, expected a size: a whole number of bytes, or one with KiB MiB GiB, such as "64KiB""#,
        ),
        (
            2,
            r#"limits = { target = "64KiB" }"#,
            "keyward.toml:3: gateway.limits.target: is larger than head, which holds it",
        ),
        (2, "limits = 5", "keyward.toml:3: gateway.limits: found the number 5, expected a table"),
        (
            2,
            r#"timeouts = { head = "0s" }"#,
            r#"keyward.toml:3: gateway.timeouts.head: found "0s", expected a duration from 1ms to 1d"#,
        ),
        (2, "workers = 1\nworkers = 2", r#"keyward.toml:4: "workers" is there twice: keep one"#),
        (2, "denied_status = 404", "keyward.toml:3: gateway.denied_status: found the number 404, expected 401 or 403"),
        (2, r#"denied_status = "401""#, r#"keyward.toml:3: gateway.denied_status: found "401", expected 401 or 403"#),
        (
            2,
            r#"non_ascii = "merge""#,
            r#"keyward.toml:3: gateway.non_ascii: found "merge", expected "reject" or "forward""#,
        ),
        (
            2,
            r#"trusted_proxies = ["10.0.0.1/8"]"#,
            r#"keyward.toml:3: gateway.trusted_proxies[0]: 10.0.0.1/8 names an address inside a network: write "10.0.0.0/8""#,
        ),
        (
            2,
            "proxy_protocol = true",
            "keyward.toml:3: gateway.proxy_protocol: is true, and nobody is believed: add trusted_proxies, the balancers' networks",
        ),
        (
            2,
            r#"trusted_proxies = ["lan"]"#,
            r#"keyward.toml:3: gateway.trusted_proxies[0]: found "lan", expected a network such as "10.0.0.0/8" or one address"#,
        ),
        (
            2,
            r#"trusted_proxies = "10.0.0.0/8""#,
            r#"keyward.toml:3: gateway.trusted_proxies: found "10.0.0.0/8", expected a list of networks such as "10.0.0.0/8""#,
        ),
        (
            2,
            "issuer = \"https://a b\"",
            "keyward.toml:3: gateway.issuer: found \"https://a b\", expected 1 to 256 characters of ! to ~",
        ),
        (
            2,
            "realm = \"a\\\"b\"",
            "keyward.toml:3: gateway.realm: found \"a\\\"b\", expected printable ASCII without \" and \\",
        ),
        (
            2,
            r#"token_prefix = "K_W""#,
            r#"keyward.toml:3: gateway.token_prefix: "K_W" is no token prefix: expected 1 to 16 of a-z 0-9"#,
        ),
        (
            2,
            "credential = []",
            r#"keyward.toml:3: gateway.credential: is empty, expected "bearer" or { header = "x-api-key" }"#,
        ),
        (
            2,
            r#"credential = ["basic"]"#,
            r#"keyward.toml:3: gateway.credential[0]: found "basic", expected "bearer" or { header = "x-api-key" }"#,
        ),
        (
            2,
            r#"credential = [{ header = "authorization" }]"#,
            r#"keyward.toml:3: gateway.credential[0]: found the field authorization: write "bearer""#,
        ),
        (
            2,
            r#"credential = [{ header = "host" }]"#,
            "keyward.toml:3: gateway.credential[0]: the field host has another use: choose one such as x-api-key",
        ),
        (
            2,
            r#"credential = [{ header = "a b" }]"#,
            r#"keyward.toml:3: gateway.credential[0]: found "a b", expected a field name"#,
        ),
        (2, r#"credential = ["bearer", "bearer"]"#, "keyward.toml:3: gateway.credential[1]: is there twice: keep one"),
        (
            2,
            r#"credential = [{ cookie = "a" }]"#,
            r#"keyward.toml:3: gateway.credential[0]: found a table, expected "bearer" or { header = "x-api-key" }"#,
        ),
        (2, r#"deny_file = """#, r#"keyward.toml:3: gateway.deny_file: found "", expected the path of a file"#),
        (
            2,
            "failure_limit = { prefix_v4 = 33 }",
            "keyward.toml:3: gateway.failure_limit.prefix_v4: found the number 33, expected a whole number from 1 to 32",
        ),
        (
            2,
            "cleartext = true\ntls = { certificates = [{ chain = \"c\", key = \"k\" }] }",
            "keyward.toml:3: gateway.cleartext: is true beside [gateway.tls]: remove one of them",
        ),
        (
            2,
            "listen_cleartext = [\"127.0.0.1:8090\"]",
            "keyward.toml:3: gateway.listen_cleartext: stands beside no [gateway.tls]: move the addresses to listen",
        ),
        (
            2,
            "listen_cleartext = [\"0.0.0.0:8090\"]\ntls = { certificates = [{ chain = \"c\", key = \"k\" }] }",
            "keyward.toml:3: gateway.listen_cleartext[0]: 0.0.0.0:8090 is not loopback: add cleartext = true if something else protects the way, or move it to listen",
        ),
        (
            2,
            "tls = { certificates = [] }",
            r#"keyward.toml:3: gateway.tls.certificates: is empty, expected at least one { chain = "…", key = "…" }"#,
        ),
        (
            2,
            "tls = {}",
            r#"keyward.toml:3: gateway.tls.certificates: is missing: add certificates = [{ chain = "tls/api.pem", key = "tls/api.key" }]"#,
        ),
        (
            2,
            r#"tls = { certificates = [{ chain = "c" }] }"#,
            "keyward.toml:3: gateway.tls.certificates[0].key: is missing: a certificate is a pair of files, chain and key",
        ),
        (
            2,
            r#"tls = { certificates = ["c"] }"#,
            r#"keyward.toml:3: gateway.tls.certificates[0]: found "c", expected a table"#,
        ),
        (
            2,
            r#"tls = { min_version = "1.1", certificates = [{ chain = "c", key = "k" }] }"#,
            r#"keyward.toml:3: gateway.tls.min_version: found "1.1", expected "1.2" or "1.3""#,
        ),
        (
            9,
            "[admin]\nlisten = \"0.0.0.0:9443\"",
            "keyward.toml:11: admin.listen: 0.0.0.0:9443 is not loopback and has no TLS: add [admin.tls]",
        ),
        (
            9,
            "[admin]\nlisten = \"127.0.0.1:8080\"",
            "keyward.toml:11: admin.listen: 127.0.0.1:8080 is taken by gateway.listen[0]: choose another port",
        ),
        (9, "[ops]\nlisten = 9464", "keyward.toml:11: ops.listen: found the number 9464, expected text in quotes"),
        (
            9,
            "[ops]\nlisten = \"localhost:9464\"",
            r#"keyward.toml:11: ops.listen: found "localhost:9464", expected an address and a port such as "127.0.0.1:8443" or "[::]:8443""#,
        ),
        (
            9,
            "[ops]\nlisten = \"127.0.0.1\"",
            r#"keyward.toml:11: ops.listen: found "127.0.0.1", expected an address and a port such as "127.0.0.1:8443" or "[::]:8443""#,
        ),
        (
            9,
            "[admin]\npublic_url = \"keys.example.com\"",
            "keyward.toml:11: admin.public_url: found \"keys.example.com\", expected an address such as \"https://keys.example.com\"",
        ),
        (
            9,
            "[self]\nlisten = \"0.0.0.0:9444\"",
            "keyward.toml:11: self.listen: 0.0.0.0:9444 is not loopback and has no TLS: add [self.tls]",
        ),
        (
            9,
            "[store.postgres]\nurl = \"postgres://u:hunter2@h/d?sslmode=prefer\"",
            "keyward.toml:11: store.postgres.url: sslmode falls back to clear text where somebody is in the way: expected \"verify-full\", or \"disable\" for clear text",
        ),
        (
            9,
            "[rotation]\nretries = [\"5m\", \"soon\"]",
            r#"keyward.toml:11: rotation.retries[1]: found "soon", expected a duration: a whole number and one of ms s m h d, such as "30s", and at most 30d"#,
        ),
        (9, "[sync]\npoll = \"2h\"", r#"keyward.toml:11: sync.poll: found "2h", expected a duration from 10ms to 1h"#),
        (
            9,
            "[sync]\npoll = \"1h\"\nmax_staleness = \"1h\"",
            "keyward.toml:12: sync.max_staleness: is 1h, expected more than poll, which is 1h",
        ),
        (
            9,
            "[sync]\non_stale = \"panic\"",
            r#"keyward.toml:11: sync.on_stale: found "panic", expected "serve" or "deny""#,
        ),
        (
            9,
            "[sync]\nreload_drop_max = 101",
            "keyward.toml:11: sync.reload_drop_max: found the number 101, expected a whole number from 0 to 100",
        ),
        (
            9,
            "[log]\nlevel = \"verbose\"",
            r#"keyward.toml:11: log.level: found "verbose", expected one of error, warn, info, debug, trace, off; or target=level, joined by commas"#,
        ),
        (9, "[log]\nformat = \"xml\"", r#"keyward.toml:11: log.format: found "xml", expected "json" or "text""#),
        (9, "[log]\nlevel = 3", "keyward.toml:11: log.level: found the number 3, expected text in quotes"),
        (
            9,
            "[secrets]\nmaster_file = \"00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\"",
            "keyward.toml:11: secrets.master_file: looks like the secret itself, expected the path of a file that holds it",
        ),
        (9, "[secrets]\nmaster = \"x\"", "keyward.toml:11: secrets.master: unknown key; did you mean master_file?"),
        (
            4,
            "colour = 3",
            "keyward.toml:5: upstreams.api.colour: unknown key; known here: targets, balance, connect_timeout, head_timeout, idle_timeout, total_timeout, pool_idle, pool_size, connection_age, http2_streams, resolve_every, slow_start, tls, health, ejection, retries",
        ),
        (
            4,
            r#"balance = "random""#,
            r#"keyward.toml:5: upstreams.api.balance: found "random", expected "round_robin" or "least_requests""#,
        ),
        (4, "tls = {}", "keyward.toml:5: upstreams.api.tls: is of no use: no target begins with https://"),
        (
            4,
            "[upstreams.web]\ntargets = [\"https://web\"]\ntls = { certificate = \"a.pem\" }",
            r#"keyward.toml:7: upstreams.web.tls.key: is missing: add key = "…", the private key of certificate"#,
        ),
        (
            4,
            "[upstreams.web]\ntargets = [\"https://web\"]\ntls = { server_name = \"a b\" }",
            r#"keyward.toml:7: upstreams.web.tls.server_name: found "a b", expected a host name or an address"#,
        ),
        (
            4,
            "health = { path = \"/up\" }",
            r#"keyward.toml:5: upstreams.api.health.kind: is missing: add kind = "http", "grpc" or "tcp""#,
        ),
        (
            4,
            r#"health = { kind = "http", path = "up" }"#,
            r#"keyward.toml:5: upstreams.api.health.path: found "up", expected a path such as "/healthz""#,
        ),
        (
            4,
            r#"health = { kind = "tcp", path = "/up" }"#,
            r#"keyward.toml:5: upstreams.api.health.path: is for kind = "http" only; remove it"#,
        ),
        (
            4,
            r#"health = { kind = "grpc" }"#,
            r#"keyward.toml:5: upstreams.api.health.kind: is "grpc", which needs HTTP/2: 127.0.0.1:9000 is none of h2c:// and https://"#,
        ),
        (
            4,
            r#"ejection = { base = "2m" }"#,
            "keyward.toml:5: upstreams.api.ejection.max: is 1m, expected at least base, which is 2m",
        ),
        (
            4,
            r#"head_timeout = "1""#,
            r#"keyward.toml:5: upstreams.api.head_timeout: found "1", expected a duration: a whole number and one of ms s m h d, such as "30s""#,
        ),
        (
            4,
            "[upstreams.\"a b\"]\ntargets = [\"http://a\"]",
            r#"keyward.toml:5: upstreams."a b": is no name, expected 1 to 64 of A-Z a-z 0-9 _ . -"#,
        ),
        (4, "[upstreams]\nweb = \"http://a\"", r#"keyward.toml:6: upstreams.web: found "http://a", expected a table"#),
        (
            4,
            "[upstreams.web]\ntargets = [\"ftp://web:443\"]",
            r#"keyward.toml:6: upstreams.web.targets[0]: found "ftp://web:443", expected "http://host:port", https://, h2c:// or "unix:/path""#,
        ),
        (
            4,
            "[upstreams.web]\ntargets = [\"unix:run/web.sock\"]",
            r#"keyward.toml:6: upstreams.web.targets[0]: found "unix:run/web.sock", expected "unix:/path" of at most 107 bytes, from the root on"#,
        ),
        (
            4,
            "[upstreams.web]\ntargets = [\"http://me:pw@web\"]",
            r#"keyward.toml:6: upstreams.web.targets[0]: holds a user or password, expected "http://host:port", https://, h2c:// or "unix:/path""#,
        ),
        (
            4,
            "[upstreams.web]\ntargets = [\"web:80\"]",
            r#"keyward.toml:6: upstreams.web.targets[0]: found "web:80", expected "http://host:port", https://, h2c:// or "unix:/path""#,
        ),
        (
            4,
            "[upstreams.web]\ntargets = [\"http://web/v1\"]",
            r#"keyward.toml:6: upstreams.web.targets[0]: found "http://web/v1", expected "http://host:port", https://, h2c:// or "unix:/path" without a path: use rewrite_prefix on the route"#,
        ),
        (
            4,
            "[upstreams.web]\ntargets = []",
            r#"keyward.toml:6: upstreams.web.targets: is empty, expected at least one such as "http://127.0.0.1:9000""#,
        ),
        (
            4,
            "[upstreams.web]\ntargets = \"http://web\"",
            r#"keyward.toml:6: upstreams.web.targets: found "http://web", expected a list of "http://host:port", https://, h2c:// (HTTP/2 without TLS) and "unix:/path""#,
        ),
        (
            4,
            "[upstreams.web]\ntargets = [\"http://a\", \"http://A:80/\"]",
            "keyward.toml:6: upstreams.web.targets[1]: a:80 is there twice: keep one",
        ),
        (9, r#"flags = ["a"]"#, "keyward.toml:10: routes[0].flags: unknown key; did you mean any_flags?"),
        (
            9,
            r#"any_flags = ["a"]"#,
            "keyward.toml:5: routes[0]: says in more than one way who may use it: keep one of any_flags or all_flags, any_key = true, public = true",
        ),
        (
            9,
            "public = true",
            "keyward.toml:5: routes[0]: says in more than one way who may use it: keep one of any_flags or all_flags, any_key = true, public = true",
        ),
        (
            9,
            r#"methods = ["get"]"#,
            r#"keyward.toml:10: routes[0].methods[0]: found "get", and methods are case-sensitive: write "GET""#,
        ),
        (9, r#"methods = ["TRACE"]"#, "keyward.toml:10: routes[0].methods[0]: TRACE is never forwarded: remove it"),
        (9, r#"methods = ["GET", "GET"]"#, "keyward.toml:10: routes[0].methods[1]: GET is there twice: keep one"),
        (9, "methods = []", "keyward.toml:10: routes[0].methods: is empty: name a method, or remove it for any method"),
        (9, r#"methods = ["G T"]"#, r#"keyward.toml:10: routes[0].methods[0]: found "G T", expected a method"#),
        (
            9,
            r#"host = "example.com:8443""#,
            r#"keyward.toml:10: routes[0].host: "example.com:8443" names a port, and ports take no part in matching: write "example.com""#,
        ),
        (
            9,
            r#"host = "*""#,
            r#"keyward.toml:10: routes[0].host: "*" is no host: expected a name, an address, or a name after *."#,
        ),
        (
            9,
            "projects = []",
            "keyward.toml:10: routes[0].projects: is empty and would let nobody through: name one, or remove it",
        ),
        (
            9,
            r#"projects = ["a b"]"#,
            r#"keyward.toml:10: routes[0].projects[0]: "a b" is no project id: expected 1 to 64 of A-Z a-z 0-9 . _ -"#,
        ),
        (
            9,
            r#"projects = ["all"]"#,
            r#"keyward.toml:10: routes[0].projects: project "all" is reserved; leave projects out to allow every project"#,
        ),
        (
            9,
            r#"environments = ["Live"]"#,
            r#"keyward.toml:10: routes[0].environments[0]: "Live" is no environment: expected 1 to 16 of a-z 0-9"#,
        ),
        (
            9,
            r#"shadow_until = "2027-01-31T00:00:00Z""#,
            "keyward.toml:10: routes[0].shadow_until: has no meaning without shadow = true",
        ),
        (
            9,
            "shadow = true\nshadow_until = \"tomorrow\"",
            r#"keyward.toml:11: routes[0].shadow_until: found "tomorrow", expected an RFC 3339 time such as "2027-01-31T00:00:00Z""#,
        ),
        (
            9,
            "shadow = true\nshadow_until = 2027-01-31",
            r#"keyward.toml:11: routes[0].shadow_until: found the time 2027-01-31, expected an RFC 3339 time such as "2027-01-31T00:00:00Z""#,
        ),
        (
            9,
            r#"strip_prefix = "api""#,
            r#"keyward.toml:10: routes[0].strip_prefix: found "api", expected a path that begins with /"#,
        ),
        (
            9,
            r#"strip_prefix = "/api""#,
            r#"keyward.toml:10: routes[0].strip_prefix: path "/{*rest}" does not begin with the segments of "/api""#,
        ),
        (
            9,
            r#"rewrite_prefix = "/a/../b""#,
            r#"keyward.toml:10: routes[0].rewrite_prefix: "/a/../b" is no canonical path"#,
        ),
        (
            9,
            r#"host_rewrite = "a b""#,
            r#"keyward.toml:10: routes[0].host_rewrite: found "a b", expected "target" or a host"#,
        ),
        (9, r#"upgrades = ["h2c"]"#, r#"keyward.toml:10: routes[0].upgrades[0]: found "h2c", expected "websocket""#),
        (
            9,
            r#"body_max = "10 MiB""#,
            r#"keyward.toml:10: routes[0].body_max: found "10 MiB", expected a size: a whole number of bytes, or one with KiB MiB GiB, such as "64KiB""#,
        ),
        (
            9,
            r#"on_stale = "refuse""#,
            r#"keyward.toml:10: routes[0].on_stale: found "refuse", expected "serve" or "deny""#,
        ),
        (
            9,
            r#"keep_override_headers = ["x-method-overide"]"#,
            r#"keyward.toml:10: routes[0].keep_override_headers[0]: found "x-method-overide", which is not stripped anyway; did you mean x-method-override?"#,
        ),
        (
            9,
            r#"keep_override_headers = ["x-user"]"#,
            r#"keyward.toml:10: routes[0].keep_override_headers[0]: found "x-user", which is not stripped anyway; expected one of x-original-url, x-rewrite-url, x-http-method-override, x-http-method, x-method-override, x-original-method"#,
        ),
        (
            9,
            "[[routes]]\nname = \"all\"\npath = \"/x\"\nany_key = true\nupstream = \"api\"",
            r#"keyward.toml:11: routes[1].name: "all" is the name of routes[0] too: choose another"#,
        ),
        (
            9,
            "[[routes]]\nname = \"a b\"\npath = \"/x\"\nany_key = true\nupstream = \"api\"",
            r#"keyward.toml:11: routes[1].name: found "a b", expected 1 to 64 of A-Z a-z 0-9 _ . -"#,
        ),
        (
            9,
            "[[routes]]\nname = \"x\"\npath = \"x\"\nany_key = true\nupstream = \"api\"",
            r#"keyward.toml:12: routes[1].path: path "x" does not begin with a slash"#,
        ),
        (
            9,
            "[[routes]]\nname = \"x\"\npath = \"/%41\"\nany_key = true\nupstream = \"api\"",
            r#"keyward.toml:12: routes[1].path: path "/%41" is not canonical: write "/A""#,
        ),
        (
            9,
            "[[routes]]\nname = \"x\"\npath = \"/x{y}\"\nany_key = true\nupstream = \"api\"",
            r#"keyward.toml:12: routes[1].path: path "/x{y}" has the segment "x{y}": a capture is a whole segment, {name} or a final {*name}, with a name of a-z A-Z 0-9 _"#,
        ),
        (
            9,
            "[[routes]]\nname = \"x\"\npath = \"/x\"\nany_key = true\nupstream = \"apl\"",
            r#"keyward.toml:14: routes[1].upstream: no upstream "apl"; defined: api"#,
        ),
        (
            9,
            "[[routes]]\nname = \"x\"\npath = \"/x\"\nupstream = \"api\"",
            "keyward.toml:10: routes[1]: says nobody may use it: add one of any_flags or all_flags, any_key = true, public = true",
        ),
        (
            9,
            "[[routes]]\nname = \"x\"\npath = \"/x\"\nupstream = \"api\"\nany_key = 1",
            "keyward.toml:14: routes[1].any_key: found the number 1, expected true or false",
        ),
        (
            9,
            "[[routes]]\nname = \"x\"\npath = \"/x\"\nupstream = \"api\"\nany_flags = []",
            "keyward.toml:14: routes[1].any_flags: is empty and would let nobody through: name a flag, or remove it",
        ),
        (
            9,
            "[[routes]]\nname = \"x\"\npath = \"/x\"\nupstream = \"api\"\nany_flags = [\"a b\"]",
            r#"keyward.toml:14: routes[1].any_flags[0]: required flag "a b" has the segment "a b": expected 1 to 64 of A-Z a-z 0-9 _ : -, or a whole {capture}; a requirement has no wildcards"#,
        ),
        (
            9,
            "[[routes]]\nname = \"x\"\npath = \"/x\"\nupstream = \"api\"\nany_flags = [\"keyward.keys.read\"]",
            r#"keyward.toml:14: routes[1].any_flags[0]: required flag "keyward.keys.read" begins with the reserved segment keyward, which opens no route"#,
        ),
        (
            9,
            "[[routes]]\nname = \"x\"\npath = \"/x/{a}\"\nupstream = \"api\"\nany_flags = [\"x.{b}\"]",
            r#"keyward.toml:14: routes[1].any_flags: required flag "x.{b}" uses {b}, which path "/x/{a}" has not"#,
        ),
        (
            9,
            "[[routes]]\nname = \"x\"\npath = \"/x\"\nupstream = \"api\"\nany_flags = [\"a\", \"a\"]",
            r#"keyward.toml:14: routes[1].any_flags[1]: "a" is there twice: keep one"#,
        ),
        (
            9,
            "[[routes]]\nname = \"x\"\npath = \"/x\"\nupstream = \"api\"\npublic = true\nprojects = [\"p\"]",
            "keyward.toml:15: routes[1].projects: has no meaning on a public route",
        ),
        (
            9,
            "[[routes]]\nname = \"x\"\npath = \"/x\"\nupstream = \"api\"\npublic = true\nassertion = true",
            "keyward.toml:15: routes[1].assertion: is true on a public route, where there is no key to tell of: remove one of them",
        ),
        (
            9,
            "[[routes]]\nname = \"x\"\npath = \"/x\"\nupstream = \"h2\"\nany_key = true\nupgrades = [\"websocket\"]\n\
             [upstreams.h2]\ntargets = [\"http://b:9000\", \"h2c://a:9000\"]",
            r#"keyward.toml:15: routes[1].upgrades: has "websocket", which needs HTTP/1.1, and h2c://a:9000 of upstream "h2" speaks HTTP/2 alone: use http:// or https:// there, or an upstream of its own for this route"#,
        ),
    ];
    for (line, added, expected) in cases {
        assert_eq!(faults_of(&base_with(*line, added)), [*expected], "{added}");
    }
}

#[test]
fn what_is_left_out_is_named_with_a_remedy() {
    let cases: &[(usize, &str)] = &[
        (2, r#"keyward.toml:1: gateway.listen: is missing: add listen = ["127.0.0.1:8443"]"#),
        (4, r#"keyward.toml:3: upstreams.api.targets: is missing: add targets = ["http://127.0.0.1:9000"]"#),
        (6, r#"keyward.toml:5: routes[0].name: is missing: add name = "…"; logs and metrics show it"#),
        (7, r#"keyward.toml:5: routes[0].path: is missing: add path = "/…"; "/{*rest}" is every path"#),
        (
            8,
            "keyward.toml:5: routes[0]: says nobody may use it: add one of any_flags or all_flags, any_key = true, public = true",
        ),
        (
            9,
            r#"keyward.toml:5: routes[0].upstream: is missing: add upstream = "…", the name of one of [upstreams.NAME]"#,
        ),
    ];
    for (line, expected) in cases {
        assert_eq!(faults_of(&base_but(*line, "")), [*expected], "line {line}");
    }
    assert_eq!(
        faults_of(""),
        [
            r#"keyward.toml:1: gateway.listen: is missing: add listen = ["127.0.0.1:8443"]"#,
            "keyward.toml:1: routes: is missing: add [[routes]] with name, path, upstream, and one of any_flags, any_key, public",
        ]
    );
}

#[test]
fn ten_faults_are_ten_lines_in_file_order() {
    let text = r#"[gateway]
listen = ["0.0.0.0:8443", "nowhere"]
worker = 4
expiry_notice = "a fortnight"

[gateway.limits]
head = "64KB"

[upstreams.billing]
targets = ["ftp://billing"]

[[routes]]
name = "one"
path = "/a/{x}"
any_flags = ["a.{y}"]
upstream = "bill"

[[routes]]
name = "two"
path = "/b"
upstream = "billing"

[store.postgres]
url = "keyward:hunter2@db/keyward"
"#;
    assert_eq!(
        faults_of(text),
        [
            "keyward.toml:2: gateway.listen[0]: 0.0.0.0:8443 is not loopback and has no TLS: add [gateway.tls], or cleartext = true if something in front speaks TLS",
            r#"keyward.toml:2: gateway.listen[1]: found "nowhere", expected an address and a port such as "127.0.0.1:8443" or "[::]:8443""#,
            "keyward.toml:3: gateway.worker: unknown key; did you mean workers?",
            r#"keyward.toml:4: gateway.expiry_notice: found "a fortnight", expected a duration: a whole number and one of ms s m h d, such as "30s""#,
            r#"keyward.toml:7: gateway.limits.head: found "64KB", expected a size: a whole number of bytes, or one with KiB MiB GiB, such as "64KiB""#,
            r#"keyward.toml:10: upstreams.billing.targets[0]: found "ftp://billing", expected "http://host:port", https://, h2c:// or "unix:/path""#,
            r#"keyward.toml:15: routes[0].any_flags: required flag "a.{y}" uses {y}, which path "/a/{x}" has not"#,
            r#"keyward.toml:16: routes[0].upstream: no upstream "bill"; defined: billing"#,
            "keyward.toml:18: routes[1]: says nobody may use it: add one of any_flags or all_flags, any_key = true, public = true",
            "keyward.toml:24: store.postgres.url: is no URL such as postgres://user:password@host:5432/database",
        ]
    );
}

#[test]
fn a_route_with_several_faults_has_each_of_them_told() {
    let text = format!("{BASE}[[routes]]\nname = \"all\"\npath = \"/a/../b\"\nupstream = \"nothing\"\n");
    let faults = faults_of(&text);
    for part in ["routes[1].path: ", "routes[1].name: ", "routes[1].upstream: ", "routes[1]: says nobody"] {
        assert!(faults.iter().any(|fault| fault.contains(part)), "{part} in {faults:#?}");
    }
}

#[test]
fn broken_toml_is_reported_beside_other_faults() {
    let text = base_but(6, "name = all").replace("\"127.0.0.1:8080\"", "\"127.0.0.1\"");
    assert_eq!(
        faults_of(&text),
        [
            r#"keyward.toml:2: gateway.listen[0]: found "127.0.0.1", expected an address and a port such as "127.0.0.1:8443" or "[::]:8443""#,
            "keyward.toml:6: not TOML: string values must be quoted, expected literal string",
        ]
    );
}

#[test]
fn broken_toml_is_one_line_where_one_thing_is_broken() {
    let cases = [
        (base_but(1, "[gateway"), r#"keyward.toml:1: not TOML: unclosed table, expected `]`"#),
        (
            base_but(2, "listen = [\"127.0.0.1:8080\""),
            "keyward.toml:2: not TOML: what begins here is never closed: add ]",
        ),
        (base_but(4, "targets = ["), "keyward.toml:4: not TOML: what begins here is never closed: add ]"),
        (base_but(7, "path = \"/{*rest}"), "keyward.toml:7: not TOML: invalid basic string, expected `\"`"),
        (
            base_but(5, "[routes]"),
            "keyward.toml:5: routes: found a table, expected a list of tables, [[routes]] or [{ … }]",
        ),
        (base_with(9, "[gateway]"), r#"keyward.toml:10: "gateway" is there twice: keep one"#),
    ];
    for (text, expected) in cases {
        assert_eq!(faults_of(&text), [expected], "{text}");
    }
}

#[test]
fn two_routes_that_tie_name_each_other() {
    let text = base_with(9, "[[routes]]\nname = \"other\"\npath = \"/{*all}\"\npublic = true\nupstream = \"api\"");
    assert_eq!(
        faults_of(&text),
        [
            r#"keyward.toml:12: routes[1].path: matches the same requests as route "all" (routes[0], line 5), and neither is more specific: give them different paths, hosts or methods"#,
        ]
    );
}

#[test]
fn a_file_that_cannot_be_read_is_one_fault() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("keyward.toml");
    let load = |path: &Path| Config::load(path, &Environment::default()).map_err(|faults| lines(&faults));
    let fault = load(&path).expect_err("no file");
    assert_eq!(fault, [format!("{}: cannot be read: No such file or directory (os error 2)", path.display())]);
    std::fs::write(&path, b"\xff\xfe").expect("written");
    let fault = load(&path).expect_err("no text");
    assert_eq!(fault, [format!("{}: is not UTF-8 text, expected TOML", path.display())]);
    std::fs::write(&path, BASE).expect("written");
    assert!(load(&path).is_ok());
}

#[test]
fn a_secret_is_in_no_debug_text_and_in_no_fault() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = config_in(folder.path(), BASE, Some(SECRET));
    let secret = master_secrets(&config).expect("a secret");
    assert!(!format!("{config:?} {secret:?}").contains("00112233"));
    for text in [
        format!("{BASE}[secrets]\nmaster_file = \"{SECRET}\"\n"),
        format!("{BASE}[secrets]\nmaster_secret = \"{SECRET}\"\n"),
        format!("{BASE}[secrets]\nmaster_file = [\"{SECRET}\"]\n"),
        format!("{BASE}[secrets]\nmaster_file = {{ hex = \"{SECRET}\" }}\n"),
        format!("{BASE}[store.postgres]\nurl = \"postgres://me:{SECRET}@host:port\"\n"),
        base_but(4, &format!("targets = [\"http://me:{SECRET}@host\"]")),
        format!("{BASE}[secrets]\nmaster_file = \"{SECRET}\n"),
        format!("{BASE}[secrets]\nmaster_file = {SECRET}\n"),
    ] {
        let faults = faults_of(&text);
        assert!(!faults.is_empty());
        assert!(!faults.join("\n").contains("00112233"), "{faults:?}");
    }
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in "\\PC*") {
        if let Err(faults) = parse(&text) {
            prop_assert!(!faults.is_empty());
        }
    }

    #[test]
    fn any_lines_of_toml_are_read_or_refused(
        lines in proptest::collection::vec((0usize..KEYS.len(), any::<bool>(), "[\\[\\]{}\"'=,.#a-z0-9 \n]{0,12}"), 0..12)
    ) {
        let mut text = String::new();
        for (index, has_header, value) in lines {
            let (section, name) = section_and_name(&KEYS[index]);
            if has_header {
                text += &header_of(section);
                text.push('\n');
            }
            text += &format!("{name} = {value}\n");
        }
        if let Err(faults) = parse(&text) {
            let found: Vec<_> = faults.iter().filter_map(Fault::line).collect();
            prop_assert!(found.is_sorted());
            prop_assert!(found.iter().all(|line| *line <= text.lines().count().max(1) + 1));
            prop_assert!(faults.iter().all(|fault| !fault.to_string().contains('\n')));
        }
    }

    #[test]
    fn a_damaged_example_is_read_or_refused(
        at in 0.0f64..1.0, length in 0usize..200, garbage in "[\\[\\]{}\"'=,.#a-z0-9 \n\u{e9}]{0,20}"
    ) {
        let text = std::fs::read_to_string(repository().join("config/keyward.toml")).expect("the example");
        let characters: Vec<char> = text.replace("\n# ", "\n").chars().collect();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a place in a short text")]
        let start = (at * characters.len() as f64) as usize;
        let kept = characters[..start].iter().copied();
        let damaged: String = kept.chain(garbage.chars()).chain(characters.iter().copied().skip(start + length)).collect();
        if let Err(faults) = parse(&damaged) {
            prop_assert!(!faults.is_empty());
        }
    }
}
