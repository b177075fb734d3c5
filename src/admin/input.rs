//! What was sent, read strictly: a field that is unknown, doubled, of the wrong type or out of range is
//! refused by name, and nothing is guessed.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, Path, Query as AxumQuery, Request};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::request::Parts as Head;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeOwned, MapAccess, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, de};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{AdditionalProperties, ArrayBuilder, ObjectBuilder, Schema, Type};
use utoipa::{IntoParams, PartialSchema, ToSchema};

use super::problem::{Code, Refusal};
use crate::key::{FLAGS_PER_KEY_MAX, FlagFault, FlagSet, Grant};
use crate::manage::{PROP_NAME_MAX, PROPS_MAX};

/// The largest body.
pub(super) const BODY_BYTES_MAX: usize = 64 * 1024;
/// How long a body may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// A JSON body, which must be there: what it says, and its bytes.
#[derive(Debug)]
pub(super) struct Json<T>(pub(super) T, pub(super) Vec<u8>);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, _state: &S) -> Result<Self, Refusal> {
        let (head, body) = request.into_parts();
        let text = read(&head, body).await?;
        is_json(&head)?;
        let Object(value) = parse(&text)?;
        Ok(Self(value, text))
    }
}

/// A JSON body that may be left out: what it says, and its bytes.
#[derive(Debug)]
pub(super) struct JsonOrNothing<T>(pub(super) T, pub(super) Vec<u8>);

impl<T: DeserializeOwned + Default, S: Send + Sync> FromRequest<S> for JsonOrNothing<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, _state: &S) -> Result<Self, Refusal> {
        let (head, body) = request.into_parts();
        let text = read(&head, body).await?;
        if text.is_empty() {
            return Ok(Self(T::default(), text));
        }
        is_json(&head)?;
        let Object(value) = parse(&text)?;
        Ok(Self(value, text))
    }
}

async fn read(head: &Head, body: Body) -> Result<Vec<u8>, Refusal> {
    let too_large = || Refusal::new(Code::BodyTooLarge, format!("a body may have {BODY_BYTES_MAX} bytes at most"));
    let told = head.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if told.is_some_and(|told| usize::try_from(told).map_or(true, |told| told > BODY_BYTES_MAX)) {
        return Err(too_large());
    }
    match tokio::time::timeout(PATIENCE, Limited::new(body, BODY_BYTES_MAX).collect()).await {
        Ok(Ok(whole)) => Ok(whole.to_bytes().into()),
        Ok(Err(fault)) if fault.downcast_ref::<LengthLimitError>().is_some() => Err(too_large()),
        Ok(Err(_broken_off)) => Err(Refusal::new(Code::InvalidRequest, "the body broke off")),
        Err(_elapsed) => Err(Refusal::new(Code::RequestTimeout, "the body did not come within 30 seconds")),
    }
}

fn is_json(head: &Head) -> Result<(), Refusal> {
    let mut kinds = head.headers.get_all(CONTENT_TYPE).iter();
    let essence = |kind: &http::HeaderValue| {
        let text = kind.to_str().unwrap_or_default();
        text.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json")
    };
    match (kinds.next(), kinds.next()) {
        (Some(kind), None) if essence(kind) => Ok(()),
        _ => Err(Refusal::new(Code::UnsupportedMediaType, "send the body as Content-Type: application/json")),
    }
}

fn parse<T: DeserializeOwned>(text: &[u8]) -> Result<T, Refusal> {
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let read = serde_path_to_error::deserialize(&mut deserializer);
    let value = read.map_err(|fault| {
        let path = fault.path().to_string();
        let inner = fault.into_inner();
        if inner.is_data() { of_fault(&path, &inner.to_string()) } else { no_json(&inner) }
    })?;
    deserializer.end().map_err(|fault| no_json(&fault))?;
    Ok(value)
}

fn no_json(fault: &serde_json::Error) -> Refusal {
    let place = format!("line {} column {}", fault.line(), fault.column());
    Refusal::new(Code::InvalidJson, format!("the body is no JSON, or not all of it: see {place}"))
}

/// What serde says is wrong, in the API's words and with the field's name before it.
fn of_fault(path: &str, said: &str) -> Refusal {
    // Where in the text it stands is of no use to whoever sent an object.
    let said = said.split(" at line ").next().unwrap_or(said);
    let name = |before: &str| Some(said.strip_prefix(before)?.split('`').next()?.to_owned());
    let inside = |name: &str| {
        let parent = path.strip_suffix(name).unwrap_or(path).trim_end_matches('.');
        if parent.is_empty() || parent == "." { name.to_owned() } else { format!("{parent}.{name}") }
    };
    if let Some(unknown) = name("unknown field `") {
        let known = said.split_once("expected ").map_or(String::new(), |(_, known)| format!("; expected {known}"));
        let field = inside(&unknown);
        let detail = format!("there is no field {field}{known}").replace('`', "");
        return Refusal::unknown_field(field, detail);
    }
    if let Some(missing) = name("missing field `") {
        return Refusal::of_field(inside(&missing), "is missing");
    }
    if let Some(doubled) = name("duplicate field `") {
        return Refusal::of_field(inside(&doubled), "is there twice");
    }
    let what = if path.is_empty() || path == "." { "body" } else { path };
    Refusal::of_field(what, said)
}

/// The parameters of a query.
#[derive(Debug)]
pub(super) struct Query<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Refusal;

    async fn from_request_parts(head: &mut Head, _state: &S) -> Result<Self, Refusal> {
        match AxumQuery::<T>::try_from_uri(&head.uri) {
            Ok(AxumQuery(value)) => Ok(Self(value)),
            Err(fault) => {
                let said = fault.body_text();
                let said = said.strip_prefix("Failed to deserialize query string: ").unwrap_or(&said);
                // What comes before the first colon is a parameter's name, unless it is about one.
                let (path, said) = match said.split_once(": ") {
                    Some((path, said)) if !path.contains([' ', '`']) => (path, said),
                    _ => ("", said),
                };
                Err(of_fault(path, said))
            }
        }
    }
}

/// An endpoint without parameters.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct Nothing {}

/// How long a change may wait until it is in force.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Patience {
    /// How long to wait until every gateway has confirmed the change, such as `5s`; 30s at most. Where it is
    /// left out, this gateway alone is waited for, 2s at most.
    #[param(pattern = "^(30|[1-2]?[0-9])s$")]
    wait: Option<String>,
}

/// Until where a change is in force, whoever made it waits, and how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    /// On this gateway.
    Here(Duration),
    /// On every gateway.
    Everywhere(Duration),
}

/// The longest that a caller may wait.
const WAIT_SECONDS_MAX: u64 = 30;

impl Patience {
    pub(super) fn span(&self) -> Result<Wait, Refusal> {
        let Some(text) = &self.wait else { return Ok(Wait::Here(Duration::from_secs(2))) };
        let seconds = text.strip_suffix('s').filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
        let seconds = seconds.filter(|digits| digits.len() == 1 || !digits.starts_with('0'));
        let seconds = seconds.and_then(|digits| digits.parse().ok()).filter(|seconds| *seconds <= WAIT_SECONDS_MAX);
        let fault = || Refusal::of_field("wait", "expected 0s to 30s, such as 5s");
        seconds.map(Duration::from_secs).map(Wait::Everywhere).ok_or_else(fault)
    }
}

/// The one name in a path.
#[derive(Debug)]
pub(super) struct Named(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for Named {
    type Rejection = Refusal;

    async fn from_request_parts(head: &mut Head, state: &S) -> Result<Self, Refusal> {
        let name = Path::<String>::from_request_parts(head, state).await;
        let Path(name) = name.map_err(|_no_text| Refusal::new(Code::NotFound, "nothing has such a name"))?;
        Ok(Self(name))
    }
}

/// A field that must be there and may be null.
pub(super) fn nullable<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    Option::deserialize(deserializer)
}

/// A field that may be left out or be null, which are two things.
pub(super) fn present<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

/// A field that may be left out and must not be null.
pub(super) fn given<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// A whole number, however it is written: JSON knows no other numbers than fractions, and `2.0` is 2.
#[derive(Debug, Clone, Copy)]
pub(super) struct Whole(pub(super) u32);

impl<'de> Deserialize<'de> for Whole {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Number;

        impl Visitor<'_> for Number {
            type Value = Whole;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a whole number from 0 to {}", u32::MAX)
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Whole, E> {
                let wrong = |_outside| E::invalid_value(Unexpected::Unsigned(number), &self);
                u32::try_from(number).map(Whole).map_err(wrong)
            }

            fn visit_f64<E: de::Error>(self, number: f64) -> Result<Whole, E> {
                let is_whole = number.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&number);
                let read = is_whole.then(|| format!("{:.0}", number.abs()).parse().ok()).flatten();
                read.map(Whole).ok_or_else(|| E::invalid_value(Unexpected::Float(number), &self))
            }
        }

        deserializer.deserialize_u32(Number)
    }
}

/// What is written as an object. A list of the same values in the same order would be read as one too.
#[derive(Debug, Clone)]
pub(super) struct Object<T>(pub(super) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Fields<T> {
            type Value = T;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<M: MapAccess<'de>>(self, map: M) -> Result<T, M::Error> {
                T::deserialize(MapAccessDeserializer::new(map))
            }
        }

        deserializer.deserialize_map(Fields(PhantomData)).map(Self)
    }
}

/// Flags, not more than a key may have: a list of one flag over and over is no list of one.
#[derive(Debug, Clone, Default)]
pub(super) struct Flags(pub(super) FlagSet);

impl<'de> Deserialize<'de> for Flags {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let flags = Vec::<Grant>::deserialize(deserializer)?;
        if flags.len() > FLAGS_PER_KEY_MAX {
            let fault = FlagFault::TooMany { found: flags.len(), max: FLAGS_PER_KEY_MAX };
            return Err(de::Error::custom(fault));
        }
        Ok(Self(flags.into()))
    }
}

impl PartialSchema for Flags {
    fn schema() -> RefOr<Schema> {
        flags_of(FLAG, "Flags: segments with dots between; `*` is one segment, a last `**` one or more.")
    }
}

impl ToSchema for Flags {}

fn flags_of(pattern: &str, description: &str) -> RefOr<Schema> {
    let flag = ObjectBuilder::new().schema_type(Type::String).max_length(Some(256)).pattern(Some(pattern));
    let flags = ArrayBuilder::new().items(flag).max_items(Some(FLAGS_PER_KEY_MAX));
    flags.description(Some(description)).into()
}

/// How flags are described that are required, and so are no patterns.
#[derive(Debug)]
pub(super) struct SingleFlags;

impl PartialSchema for SingleFlags {
    fn schema() -> RefOr<Schema> {
        flags_of(SINGLE_FLAG, "Single flags: segments with dots between.")
    }
}

impl ToSchema for SingleFlags {}

/// A flag that may be granted.
const FLAG: &str = r"^(([A-Za-z0-9_:-]{1,64}|\*)\.){0,15}([A-Za-z0-9_:-]{1,64}|\*{1,2})$";
/// One that may be required.
const SINGLE_FLAG: &str = r"^([A-Za-z0-9_:-]{1,64}\.){0,15}[A-Za-z0-9_:-]{1,64}$";
/// A flag of operators.
pub(super) const RESERVED_FLAG: &str = r"^keyward(\.|$)";
/// One part of a host's name.
macro_rules! label {
    () => {
        "[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
    };
}
/// An IPv4 address.
macro_rules! four {
    () => {
        concat!("(", octet!(), r"\.){3}", octet!())
    };
}
macro_rules! octet {
    () => {
        "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
    };
}
/// Two bytes of an IPv6 address.
macro_rules! group {
    () => {
        "[0-9A-Fa-f]{1,4}"
    };
}
/// So many of them, each with its colon.
macro_rules! groups {
    ($many:literal) => {
        concat!("(", group!(), ":){", $many, "}")
    };
}
/// So many of them, each with the colon before it.
macro_rules! tail {
    ($many:literal) => {
        concat!("(:", group!(), "){", $many, "}")
    };
}
/// An IPv6 address, its last four bytes perhaps as those of an IPv4 address.
macro_rules! six {
    () => {
        concat!(
            "(",
            concat!(groups!("7"), group!(), "|", groups!("1,7"), ":|", groups!("1,6"), tail!("1")),
            concat!("|", groups!("1,5"), tail!("1,2"), "|", groups!("1,4"), tail!("1,3")),
            concat!("|", groups!("1,3"), tail!("1,4"), "|", groups!("1,2"), tail!("1,5")),
            concat!("|", groups!("1"), tail!("1,6"), "|:(", tail!("1,7"), "|:)"),
            concat!("|(", groups!("6"), "|::", groups!("0,5"), "|", groups!("1"), ":", groups!("0,4")),
            concat!("|", groups!("2"), ":", groups!("0,3"), "|", groups!("3"), ":", groups!("0,2")),
            concat!("|", groups!("4"), ":", groups!("0,1"), "|", groups!("5"), ":)", four!()),
            ")"
        )
    };
}
/// The URL of a webhook's receiver: what [`crate::wire::ReceiverUrl`] takes, but for how long it is. Which of them may
/// be reached is configured.
pub(super) const RECEIVER: &str = concat!(
    "^[Hh][Tt][Tt][Pp][Ss]?://",
    concat!(r"((", label!(), r"\.)*[A-Za-z_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"),
    concat!("|", four!(), r"|\[", six!(), r"\])"),
    "(:0*(6553[0-5]|655[0-2][0-9]|65[0-4][0-9]{2}|6[0-4][0-9]{3}|[1-5][0-9]{4}|[1-9][0-9]{0,3}))?",
    r"([/?][!$-;=?-\[\]_a-~]*)?$",
);

/// Texts by name, each name once.
#[derive(Debug, Clone, Default)]
pub(super) struct Props(pub(super) BTreeMap<String, String>);

impl<'de> Deserialize<'de> for Props {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries(PhantomData<()>);

        impl<'de> Visitor<'de> for Entries {
            type Value = BTreeMap<String, String>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of texts")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
                let mut entries = BTreeMap::new();
                while let Some(name) = map.next_key::<String>()? {
                    let value = map.next_value()?;
                    if entries.insert(name.clone(), value).is_some() {
                        return Err(de::Error::custom(format_args!("{name:?} is there twice")));
                    }
                }
                Ok(entries)
            }
        }

        deserializer.deserialize_map(Entries(PhantomData)).map(Self)
    }
}

impl PartialSchema for Props {
    fn schema() -> RefOr<Schema> {
        let text = || ObjectBuilder::new().schema_type(Type::String).pattern(Some(PRINTABLE));
        let name = text().min_length(Some(1)).max_length(Some(PROP_NAME_MAX));
        let props = ObjectBuilder::new().property_names(Some(name));
        let props = props.additional_properties(Some(AdditionalProperties::RefOr(text().into())));
        props.max_properties(Some(PROPS_MAX)).description(Some("Free text by name: at most 4 KiB in all.")).into()
    }
}

impl ToSchema for Props {}

/// Text without control characters.
const PRINTABLE: &str = r"^[^\u0000-\u001f\u007f-\u009f]*$";

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields, expecting = "an object")]
    struct Sent {
        #[serde(deserialize_with = "nullable")]
        project_id: Option<String>,
        #[serde(default, deserialize_with = "present")]
        end: Option<Option<u32>>,
        #[serde(default)]
        flags: Flags,
        #[serde(default)]
        props: Props,
        #[serde(default)]
        inner: Inner,
    }

    #[derive(Debug, Default, Deserialize)]
    #[serde(deny_unknown_fields, expecting = "an object")]
    struct Inner {
        #[serde(default, deserialize_with = "given")]
        days: Option<u32>,
    }

    fn refused(text: &str) -> (Code, String) {
        let refusal = parse::<Object<Sent>>(text.as_bytes()).expect_err("it is refused");
        let id = crate::wire::RequestId::fresh(&crate::wire::IdSource::new([1; 16]));
        let body: serde_json::Value = serde_json::from_slice(&refusal.to_json(&id)).expect("JSON");
        (refusal.code, body["detail"].as_str().unwrap_or_default().to_owned())
    }

    /// Whether a URL's form is that of a receiver's, as it is read and as it is described.
    fn is_receiver(text: &str) -> (bool, bool) {
        static DESCRIBED: std::sync::LazyLock<regex_lite::Regex> =
            std::sync::LazyLock::new(|| regex_lite::Regex::new(RECEIVER).expect("a pattern"));
        let taken = crate::wire::ReceiverUrl::parse(text, crate::wire::Reach::Private);
        (!matches!(taken, Err(crate::wire::UrlFault::Form(_))), DESCRIBED.is_match(text))
    }

    #[test]
    fn every_receiver_that_is_taken_fits_what_is_described() {
        for text in [
            "https://example.com",
            "HTTPS://example.com",
            "https://Hooks.Example.com:8443/a/b?c=d",
            "https://example.com:08443",
            "https://example.com?a=b",
            "https://xn--bcher-kva.example/",
            "https://my_hook.example.com/_x",
            "https://1.2.3.4.example/",
            "https://example.com/a[0]|{b}?c=[0]|{d}",
            "http://localhost:8080/hook",
            "https://10.0.0.1/hook",
            "https://[2606:4700::1]/x",
            "https://[2606:4700::]:8443/x",
            "https://[2606:4700:1:2:3:4:5:6]/x",
            "https://[2606:4700:1:2:3:4:5::]/x",
            "https://[2606:4700:1::3:4:5:6]/x",
            "https://[2606:4700::1.2.3.4]/x",
            "https://[2606:4700:1:2:3:4:1.2.3.4]/x",
            "https://[2606::1:2:3:4:1.2.3.4]/x",
            "https://[2606:4700:1:2:3::1.2.3.4]/x",
            "https://[::ffff:1.2.3.4]/x",
            "http://[::1]:65535/x",
            "https://[fd00:AB::1]?x",
        ] {
            assert_eq!(is_receiver(text), (true, true), "{text}");
        }
        for text in [
            "https://[]/x",
            "https://[1]/x",
            "https://[:]/x",
            "https://[:::]/x",
            "https://[2606:4700:1:2:3:4:5]/x",
            "https://[2606:4700:1:2:3:4:5:6:7]/x",
            "https://[2606::4700::1]/x",
            "https://[2606:47000::1]/x",
            "https://[2606:4700:1:2:3:4:5:1.2.3.4]/x",
            "https://[2606:4700:1:2:3:4::1.2.3.4]/x",
            "https://[2606:1.2.3.4::]/x",
            "https://[2606::1.2.3.04]/x",
            "https://2606:4700::1/x",
            "https://[2606:4700::1/x",
            "https://example.com:/",
            "https://example.com:0/",
            "https://example.com:65536/",
            "https://example.com:+443/",
            "https://example.3com/",
            "https://example.0x1/",
            "https://1.2.3/",
            "https://-a.example/",
            "https://a-.example/",
            "httpss://example.com/",
        ] {
            assert_eq!(is_receiver(text), (false, false), "{text}");
        }
        for letter in (0..=0x7f_u8).map(char::from) {
            for text in [
                format!("https://{letter}.example/"),
                format!("https://a{letter}b.example/"),
                format!("https://example.a{letter}b/"),
                format!("https://example.com:4{letter}3/"),
                format!("https://example.com/a{letter}b"),
                format!("https://example.com?a{letter}b"),
                format!("https://[2606:4700::{letter}]/"),
            ] {
                let (taken, described) = is_receiver(&text);
                assert_eq!(taken, described, "{text:?}");
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn every_host_is_described_as_it_is_taken(
            name in "[a0_.x1-]{1,8}",
            address in "[0-9a:.]{1,12}",
            port in "(:[0-9+]{0,6})?"
        ) {
            for text in [format!("https://{name}{port}/"), format!("https://[{address}]{port}/")] {
                let (taken, described) = is_receiver(&text);
                assert_eq!(taken, described, "{text:?}");
            }
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, code, detail) in [
            (
                r#"{"project_id":null,"x":1}"#,
                Code::UnknownField,
                "there is no field x; expected one of project_id, end",
            ),
            (r#"{"project_id":null,"inner":{"x":1}}"#, Code::UnknownField, "there is no field inner.x; expected days"),
            (r#"{}"#, Code::InvalidField, "project_id: is missing"),
            (r#"{"project_id":null,"project_id":null}"#, Code::InvalidField, "project_id: is there twice"),
            (r#"{"project_id":1}"#, Code::InvalidField, "project_id: invalid type: integer `1`, expected a string"),
            (r#"{"project_id":null,"end":-1}"#, Code::InvalidField, "end: invalid value: integer `-1`, expected u32"),
            (r#"{"project_id":null,"inner":{"days":null}}"#, Code::InvalidField, "inner.days: invalid type: null"),
            (r#"{"project_id":null,"flags":["a","b..c"]}"#, Code::InvalidField, "flags[1]: flag \"b..c\""),
            (r#"{"project_id":null,"props":{"a":"","a":""}}"#, Code::InvalidField, "props: \"a\" is there twice"),
            (r#"{"project_id":null,"props":{"a":1}}"#, Code::InvalidField, "props.a: invalid type"),
            ("[]", Code::InvalidField, "body: invalid type: sequence, expected an object"),
            ("7", Code::InvalidField, "body: invalid type: integer `7`, expected an object"),
            ("", Code::InvalidJson, "the body is no JSON"),
            (r#"{"project_id":null} x"#, Code::InvalidJson, "the body is no JSON"),
            ("{\"project_id\":\"\u{7}\"}", Code::InvalidJson, "the body is no JSON"),
        ] {
            let (found, said) = refused(text);
            assert_eq!(found, code, "{text}: {said}");
            assert!(said.starts_with(detail), "{text}: {said}");
        }
        let many = format!(r#"{{"project_id":null,"flags":[{}"a"]}}"#, r#""a","#.repeat(10_000));
        assert_eq!(refused(&many).1, "flags: 10001 flags where at most 256 are allowed");
    }

    #[test]
    fn null_and_nothing_are_two_things() {
        let read = |text: &str| parse::<Sent>(text.as_bytes()).expect("it is right");
        assert_eq!(read(r#"{"project_id":null}"#).end, None);
        assert_eq!(read(r#"{"project_id":"a","end":null}"#).end, Some(None));
        let sent = read(r#"{"project_id":"a","end":3,"flags":["a.b"],"props":{"a":"b"},"inner":{"days":2}}"#);
        assert_eq!((sent.project_id.as_deref(), sent.end, sent.inner.days), (Some("a"), Some(Some(3)), Some(2)));
        assert_eq!((sent.flags.0.len(), sent.props.0.len()), (1, 1));
    }

    #[test]
    fn a_whole_number_is_one_however_it_is_written() {
        let read = |text: &str| serde_json::from_str::<Whole>(text).map(|Whole(number)| number).ok();
        for (text, number) in [("0", 0), ("7", 7), ("7.0", 7), ("70e-1", 7), ("4294967295.0", u32::MAX), ("-0.0", 0)] {
            assert_eq!(read(text), Some(number), "{text}");
        }
        for wrong in ["-1", "-1.0", "1.5", "4294967296", "4294967296.0", "1e300", "\"7\"", "true", "null", "[]"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_wait_is_some_seconds() {
        let span = |text: &str| Patience { wait: Some(text.to_owned()) }.span();
        for (text, seconds) in [("5s", 5), ("0s", 0), ("30s", 30)] {
            assert_eq!(span(text).expect("some seconds"), Wait::Everywhere(Duration::from_secs(seconds)));
        }
        for wrong in ["", "5", "s", "31s", "60s", "05s", "-1s", "1m", "1.5s", "+1s", "99999999999999999999s"] {
            assert!(span(wrong).is_err(), "{wrong}");
        }
        assert_eq!(Patience::default().span().expect("two seconds"), Wait::Here(Duration::from_secs(2)));
    }
}
