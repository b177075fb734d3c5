//! Targets of requests: a path with names in it, and a query.

use std::fmt::{Display, Write as _};

/// A path and its query, built piece by piece.
#[derive(Debug, Clone)]
pub(super) struct Target {
    text: String,
    has_query: bool,
}

impl Target {
    /// A path as it is.
    pub(super) fn path(path: &str) -> Self {
        Self { text: path.to_owned(), has_query: false }
    }

    /// With one more segment, whatever is in it.
    pub(super) fn segment(mut self, name: impl Display) -> Self {
        self.text.push('/');
        encode(&name.to_string(), &mut self.text);
        self
    }

    /// With a parameter, where it has a value.
    pub(super) fn with(mut self, name: &str, value: Option<impl Display>) -> Self {
        if let Some(value) = value {
            self.text.push(if self.has_query { '&' } else { '?' });
            self.has_query = true;
            self.text.push_str(name);
            self.text.push('=');
            encode(&value.to_string(), &mut self.text);
        }
        self
    }

    /// The text.
    pub(super) fn finish(self) -> String {
        self.text
    }
}

/// The target of the page after the one at `target`, from the `Link` of its answer. Only the query is
/// taken over: whatever the field says, the same host is asked for the same list.
pub(super) fn next_page(target: &str, link: &str) -> Option<String> {
    let mut links = link.split(',').map(str::trim);
    let next = links.find(|link| link.split(';').skip(1).any(|part| part.trim() == "rel=\"next\""))?;
    let inside = next.split(';').next()?.trim().strip_prefix('<')?.strip_suffix('>')?;
    let (_, query) = inside.split_once('?')?;
    let path = target.split('?').next().unwrap_or(target);
    Some(format!("{path}?{query}"))
}

/// RFC 3986 section 2.3: what is not unreserved is spelt out.
fn encode(text: &str, onto: &mut String) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            onto.push(char::from(byte));
        } else {
            // Writing to text does not fail.
            let _never = write!(onto, "%{byte:02X}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_spelt_out() {
        let target = Target::path("/v1/users").segment("ann+b@x").with("q", Some("a b/ü")).with("limit", None::<u32>);
        assert_eq!(target.with("cursor", Some(7)).finish(), "/v1/users/ann%2Bb%40x?q=a%20b%2F%C3%BC&cursor=7");
    }

    #[test]
    fn the_next_page_is_of_the_same_list() {
        let next = |link| next_page("/v1/api-keys?limit=2", link);
        let expected = Some("/v1/api-keys?limit=2&cursor=MSAx".to_owned());
        assert_eq!(next("</v1/api-keys?limit=2&cursor=MSAx>; rel=\"next\""), expected);
        assert_eq!(next("<https://evil.example/x?limit=2&cursor=MSAx>; rel=\"next\""), expected);
        assert_eq!(next("</a?b>; rel=\"prev\", </v1/api-keys?limit=2&cursor=MSAx>; rel=\"next\""), expected);
        for none in ["", "</a?b>; rel=\"prev\"", "</a>; rel=\"next\"", "a?b; rel=\"next\""] {
            assert_eq!(next(none), None, "{none}");
        }
    }
}
