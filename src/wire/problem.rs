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
        let length = 112 + 2 * self.code.len() + self.title.len() + self.detail.len() + self.request_id.len();
        let mut out = String::with_capacity(length);
        out.push_str("{\"type\":\"urn:keyward:problem:");
        escape(&mut out, self.code);
        out.push_str("\",\"title\":\"");
        escape(&mut out, self.title);
        out.push_str("\",\"status\":");
        out.push_str(&self.status.to_string());
        for (name, value) in [("detail", self.detail), ("code", self.code), ("request_id", self.request_id)] {
            out.push_str(",\"");
            out.push_str(name);
            out.push_str("\":\"");
            escape(&mut out, value);
            out.push('"');
        }
        out.push_str("}\n");
        Bytes::from(out)
    }
}

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
