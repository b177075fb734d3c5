//! What strangers send makes no series: labels come from the configuration and from closed sets.

use http::Method;

use crate::harness::{Call, Client, Config, Http, Site, Upstream, times};

/// What a stranger may send, another each time.
fn odd_call(at: u64) -> Call {
    let word = format!("{:016x}", (at + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let path = match at % 5 {
        0 => format!("/any/{word}"),
        1 => format!("/keyrings/{word}"),
        2 => format!("/{word}/{word}?{word}={word}"),
        3 => format!("/public/{word}"),
        _ => format!("/%2e%2e/{word}"),
    };
    let method = match at % 7 {
        0 => Method::from_bytes(format!("X{word}").as_bytes()).expect("a method"),
        1 => Method::DELETE,
        2 => Method::TRACE,
        _ => Method::GET,
    };
    let call = Call::new(method, &path).host(&format!("{word}.example")).header("user-agent", &word);
    match at % 3 {
        0 => call.bearer(&word.repeat(2)),
        1 => call.bearer(&format!("kw_live_{word}")),
        _ => call,
    }
}

#[test]
fn random_methods_paths_hosts_and_tokens_leave_the_number_of_series_as_it_was() {
    let upstream = Upstream::start();
    let site =
        Site::new(&Config::in_front_of(&upstream).admin().gateway("failure_limit = { per_second = 1, burst = 1 }"));
    let gateway = site.start();
    let mut client = Client::new(&gateway, Http::One);
    let mut send = |range: std::ops::Range<u64>| {
        for at in range {
            client.send(&odd_call(at));
            if at % 10 == 0 {
                gateway.api(odd_call(at));
            }
        }
        let page = gateway.metrics();
        page.lines().filter(|line| !line.starts_with('#')).count()
    };
    // Each kind has come by then.
    let known = send(0..420);
    let calls = times("KEYWARD_RANDOM_CALLS", 2_000);
    assert_eq!(send(420..420 + u64::try_from(calls).expect("a count")), known);
}
