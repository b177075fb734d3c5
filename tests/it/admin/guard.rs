//! What bad keys may cost.

use super::Place;
use crate::harness::get;

#[test]
fn a_flood_of_bad_keys_is_limited_and_holds_up_no_operator_that_is_known() {
    let limit = "failure_limit = { per_second = 1, burst = 5 }";
    let place = Place::with(|config| config.admin().gateway(limit));
    let operator = place.site.operator();
    assert_eq!(place.asks(get("/v1/api-keys")).status, 200);
    // Of the right shape, and nobody's.
    let unknown = |number: u32| format!("somebody-elses-token-{number:032}");
    let answers: Vec<_> = (0..20).map(|number| place.asks_as(&unknown(number), get("/v1/api-keys"))).collect();
    assert!(answers[..5].iter().all(|answer| answer.status == 401));
    let limited: Vec<_> = answers.iter().filter(|answer| answer.status == 429).collect();
    assert!(limited.len() >= 5, "{} of {}", limited.len(), answers.len());
    for answer in limited {
        assert_eq!(answer.code(), "too_many_failures");
        let wait: u64 = answer.header("retry-after").and_then(|text| text.parse().ok()).expect("when to come back");
        assert!((1..=2).contains(&wait), "{wait}");
    }
    for _ in 0..10 {
        assert_eq!(place.asks_as(operator, get("/v1/api-keys")).status, 200, "from the same address");
    }
    assert!(place.gateway.log().contains("too_many_failures"));
}
