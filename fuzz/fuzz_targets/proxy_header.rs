//! A PROXY header says the same however its bytes are cut, and takes none of what comes after it.
#![no_main]

use keyward::wire::{NoProxyHeader, ProxyHeader, ProxyTold};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let whole = read(data, data.len().max(1));
    for piece in [1, 3, 16] {
        let cut = read(data, piece);
        match (whole, cut) {
            (Ok(Some(whole)), cut) => assert_eq!(cut, Ok(Some(whole))),
            (Ok(None), cut) => assert_eq!(cut, Ok(None)),
            (Err(NoProxyHeader), cut) => assert!(!matches!(cut, Ok(Some(_)))),
        }
    }
    if let Ok(Some((_, length))) = whole {
        assert!(length <= data.len());
        assert_eq!(read(&data[..length], length), whole);
    }
});

fn read(data: &[u8], piece: usize) -> Result<Option<(ProxyTold, usize)>, NoProxyHeader> {
    let mut header = ProxyHeader::default();
    let mut at = 0;
    while at < data.len() {
        let next = &data[at..data.len().min(at + piece)];
        let count = header.wants(next)?;
        assert!(count > 0 && count <= next.len());
        header.take(&next[..count]);
        at += count;
        if let Some(told) = header.told()? {
            return Ok(Some((told, at)));
        }
    }
    Ok(None)
}
