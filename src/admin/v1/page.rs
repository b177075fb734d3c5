//! Pages of lists: how many, and from where on. A cursor is opaque to its holder.

use data_encoding::BASE64URL_NOPAD;

use crate::admin::problem::{Code, Refusal};

/// The most a page holds.
pub(super) const LIMIT_MAX: usize = 200;
/// What it holds where nothing is said.
const LIMIT_USUAL: usize = 100;

/// How much is asked for.
pub(super) fn limit(asked: Option<u32>) -> Result<usize, Refusal> {
    match asked {
        None => Ok(LIMIT_USUAL),
        Some(asked) => {
            let limit = usize::try_from(asked).ok().filter(|limit| (1..=LIMIT_MAX).contains(limit));
            limit.ok_or_else(|| Refusal::of_field("limit", format_args!("{asked} is not within 1 and {LIMIT_MAX}")))
        }
    }
}

/// A cursor that stands after `place`.
pub(super) fn cursor(place: &str) -> String {
    BASE64URL_NOPAD.encode(format!("1 {place}").as_bytes())
}

/// The place that a cursor stands after.
pub(super) fn place<T>(cursor: Option<&str>, read: impl FnOnce(&str) -> Option<T>) -> Result<Option<T>, Refusal> {
    let Some(cursor) = cursor else { return Ok(None) };
    let text = BASE64URL_NOPAD.decode(cursor.as_bytes()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let found = text.as_deref().and_then(|text| text.strip_prefix("1 ")).and_then(read);
    let fault = || Refusal::new(Code::InvalidCursor, "cursor: take it from the Link of the page before, as it is");
    found.map(Some).ok_or_else(fault)
}

/// `rows` without what is beyond the page, and whether there was any.
pub(super) fn cut<T>(rows: &mut Vec<T>, limit: usize) -> bool {
    let more = rows.len() > limit;
    rows.truncate(limit);
    more
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_reads_back_and_anything_else_does_not() {
        let read = |text: &str| text.parse::<u32>().ok();
        assert_eq!(place(Some(&cursor("17")), read).expect("a cursor"), Some(17));
        assert_eq!(place(None, read).expect("no cursor"), None);
        for wrong in ["", "x", "17", &cursor("x"), &BASE64URL_NOPAD.encode(b"2 17"), "!!"] {
            assert!(place(Some(wrong), read).is_err_and(|refusal| refusal.code == Code::InvalidCursor), "{wrong}");
        }
    }

    #[test]
    fn a_page_holds_1_to_200() {
        assert_eq!(limit(None).expect("usual"), 100);
        assert_eq!(limit(Some(200)).expect("the most"), 200);
        assert!(limit(Some(0)).is_err() && limit(Some(201)).is_err());
    }
}
