//! The corpus, one by one.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::Scene;
use super::corpus::{Case, End, corpus};

/// The least that the corpus holds.
const CASES_MIN: usize = 300;
/// What comes this long after an answer comes from another request.
const QUIET: Duration = Duration::from_millis(15);

/// Sends bytes; the statuses of what comes back until it is quiet.
fn exchange(address: SocketAddr, bytes: &[u8]) -> Vec<u16> {
    let mut stream = TcpStream::connect(address).expect("the gateway accepts connections");
    // It may answer and close before all is written.
    let _cut_short = stream.write_all(bytes);
    let (mut answer, mut chunk) = (Vec::new(), [0; 4096]);
    let mut found = Vec::new();
    loop {
        let patience = if found.is_empty() { Duration::from_secs(10) } else { QUIET };
        stream.set_read_timeout(Some(patience)).expect("a socket");
        match stream.read(&mut chunk) {
            Ok(0) | Err(_) => return found,
            Ok(count) => answer.extend_from_slice(&chunk[..count]),
        }
        found = statuses(&answer);
    }
}

/// The statuses of the answers in `bytes`, without those of 1xx.
fn statuses(bytes: &[u8]) -> Vec<u16> {
    let text = String::from_utf8_lossy(bytes);
    let heads = text.match_indices("HTTP/1.").map(|(at, _)| &text[at..]);
    heads.filter_map(|head| head.get(9..12)?.parse().ok()).filter(|status| *status >= 200).collect()
}

/// What is wrong with what became of `case`.
fn judge(case: &Case, scene: &Scene) -> Option<String> {
    let bytes = String::from_utf8_lossy(&case.bytes).replace("{T}", &scene.key.token);
    let bytes = if case.bytes.is_ascii() { bytes.into_bytes() } else { case.bytes.clone() };
    let statuses = exchange(scene.gateway.address(), &bytes);
    let arrived = scene.recorder.take();
    let faults = scene.recorder.faults();
    let first = statuses.first().copied();
    let fits = match case.end {
        End::Refused(status) => first == Some(status) && arrived.is_empty(),
        End::Arrives(count) => first == Some(200) && arrived.len() == count,
        End::Closed => first.is_none() && arrived.is_empty(),
    };
    let Case { name, end, .. } = case;
    (!fits || !faults.is_empty())
        .then(|| format!("{name:?}: wanted {end:?}, got {statuses:?}, arrived {arrived:?}, faults {faults:?}"))
}

#[test]
fn an_odd_request_arrives_as_one_that_can_be_read_in_one_way_or_not_at_all() {
    let cases = corpus();
    assert!(cases.len() >= CASES_MIN, "{} cases", cases.len());
    let scene = Scene::new("timeouts = { first_byte = '200ms', head = '200ms', body_idle = '200ms' }");
    let wrong: Vec<_> = cases.iter().filter_map(|case| judge(case, &scene)).collect();
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    assert!(scene.gateway.metrics().contains("keyward_panics_total{listener=\"gateway\"} 0"));
}
