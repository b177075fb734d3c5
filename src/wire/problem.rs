//! The shape of an error: `application/problem+json`, RFC 9457.

use bytes::Bytes;

/// The media type of a problem.
pub const CONTENT_TYPE: &str = "application/problem+json";

/// One error as a client sees it. `code` is stable; `title` and `detail` are for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Problem<'a> {
    /// The HTTP status.
    pub status: u16,
    /// The stable code, also in log and metric.
    pub code: &'a str,
    /// What this code means, the same every time.
    pub title: &'a str,
    /// What went wrong this time.
    pub detail: &'a str,
    /// The request's id.
    pub request_id: &'a str,
}

impl Problem<'_> {
    /// The body.
    #[must_use]
    pub fn to_json(&self) -> Bytes {
        ProblemText::of(self.status, self.code, self.title, self.detail).with_id(self.request_id)
    }
}

/// A problem but for the id of its request, so that what is the same each time is written once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProblemText(Box<str>);

impl ProblemText {
    /// A problem with these members; see [`Problem`].
    #[must_use]
    pub fn of(status: u16, code: &str, title: &str, detail: &str) -> Self {
        let mut out = String::with_capacity(112 + 2 * code.len() + title.len() + detail.len());
        out.push_str("{\"type\":\"urn:keyward:problem:");
        escape(&mut out, code);
        out.push_str("\",\"title\":\"");
        escape(&mut out, title);
        out.push_str("\",\"status\":");
        out.push_str(&status.to_string());
        out.push_str(",\"detail\":\"");
        escape(&mut out, detail);
        out.push_str("\",\"code\":\"");
        escape(&mut out, code);
        out.push_str("\",\"request_id\":\"");
        Self(out.into())
    }

    /// The body for the request of this id.
    #[must_use]
    pub fn with_id(&self, request_id: &str) -> Bytes {
        // Nothing is left over: what is would have to be kept apart.
        let mut out = String::with_capacity(self.0.len() + request_id.len() + END.len());
        out.push_str(&self.0);
        escape(&mut out, request_id);
        out.push_str(END);
        Bytes::from(out)
    }
}

const END: &str = "\"}\n";

fn escape(out: &mut String, text: &str) {
    // Nearly all of it is our own words.
    if text.bytes().all(|byte| byte >= b' ' && byte != b'"' && byte != b'\\') {
        return out.push_str(text);
    }
    for letter in text.chars() {
        match letter {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            control if control < ' ' => out.push(' '),
            plain => out.push(plain),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_valid_json_whatever_its_detail_holds() -> Result<(), serde_json::Error> {
        let detail = "a \"quoted\" \\ path\n\u{1}ü";
        let problem =
            Problem { status: 403, code: "insufficient_scope", title: "No", detail, request_id: "0123" }.to_json();
        let value: serde_json::Value = serde_json::from_slice(&problem)?;
        assert_eq!(value["status"], 403);
        assert_eq!(value["code"], "insufficient_scope");
        assert_eq!(value["type"], "urn:keyward:problem:insufficient_scope");
        assert_eq!(value["detail"], "a \"quoted\" \\ path  ü");
        assert_eq!(value["request_id"], "0123");
        Ok(())
    }
}
