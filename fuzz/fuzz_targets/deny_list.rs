//! Whatever a deny list holds, every line counts, or is named as a fault.
#![no_main]

use keyward::policy::DenyList;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let (list, faults) = DenyList::parse(data);
    let lines = data.split(|byte| *byte == b'\n').count();
    assert!(list.len() + faults.len() <= lines, "{} and {} of {lines} lines", list.len(), faults.len());
    let (again, _) = DenyList::parse(data);
    assert_eq!(list.len(), again.len());
});
