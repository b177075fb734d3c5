//! Granted flags: text that parses reads back the same, a grant covers what it equals, and what a
//! covering grant allows is never less than what the covered one does.
#![no_main]

use keyward::key::Grant;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &str| {
    let mut lines = data.lines();
    let mut grant = || lines.next().and_then(|line| line.parse::<Grant>().ok());
    let (Some(wide), Some(narrow)) = (grant(), grant()) else { return };
    assert_eq!(wide.as_str().parse::<Grant>().as_ref(), Ok(&wide));
    assert!(wide.covers(&wide));
    let required = lines.next().unwrap_or_default();
    let is_concrete = required.parse::<Grant>().is_ok() && !required.contains('*');
    if is_concrete {
        if wide.covers(&narrow) && narrow.matches(required.split('.')) {
            assert!(wide.matches(required.split('.')), "{wide:?} covers {narrow:?}, which alone grants {required}");
        }
        if required.starts_with("keyward.") && wide.matches(required.split('.')) {
            assert!(wide.as_str().starts_with("keyward."), "{wide:?} reaches into the reserved flags");
        }
    }
});
